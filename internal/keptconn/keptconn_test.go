package keptconn

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
)

// serve is a server that refuses everything but /good. Closed gets each of its
// connections that has ended.
func serve(t *testing.T) (address string, closed <-chan net.Conn) {
	t.Helper()
	ended := make(chan net.Conn, 2*Most()+10)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/good" {
			Admitted(r)
			return
		}
		if !Keep(r) {
			w.Header().Set("Connection", "close")
		}
		w.WriteHeader(http.StatusUnauthorized)
	}))
	server.Config.ConnContext = InContext
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			kept.forget(conn)
			ended <- conn
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return "http://" + server.Listener.Addr().String(), ended
}

// ask asks on a connection of its own, or the one that it had.
func ask(t *testing.T, client *http.Client, url string) (goesOn bool) {
	t.Helper()
	answer, err := client.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return !answer.Close
}

func TestOnlyAFewConnectionsAreKept(t *testing.T) {
	address, closed := serve(t)
	clients := make([]*http.Client, Most())
	for i := range clients {
		clients[i] = &http.Client{Transport: new(http.Transport)}
		defer clients[i].CloseIdleConnections()
		if !ask(t, clients[i], address) {
			t.Fatalf("the connection %d ends", i)
		}
	}
	one := func() bool {
		client := &http.Client{Transport: new(http.Transport)}
		t.Cleanup(client.CloseIdleConnections)
		return ask(t, client, address)
	}
	if one() {
		t.Error("there is no end of them")
	}
	<-closed
	if !ask(t, clients[0], address) {
		t.Error("one that is kept does not go on being so")
	}
	clients[0].CloseIdleConnections()
	<-closed
	if !one() || one() {
		t.Error("one that was closed makes room for one")
	}
	<-closed
	ask(t, clients[1], address+"/good")
	if !one() || one() {
		t.Error("one that is a caller's makes room for one")
	}
}

// odd is a connection that is no key of a map.
type odd struct {
	net.Conn
	_ []byte
}

func TestAConnectionThatCannotBeFoundAgainIsNotKept(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	ctx := InContext(context.Background(), odd{Conn: a})
	r := httptest.NewRequest(http.MethodGet, "/", nil).WithContext(ctx)
	if Keep(r) {
		t.Error("it is kept")
	}
	plain := r.WithContext(InContext(context.Background(), a))
	for range 2 {
		if !Keep(plain) {
			t.Error("the control is not kept")
		}
	}
	Admitted(r)
	kept.forget(odd{Conn: a})
	Admitted(plain)
	if kept.n.Load() != 0 {
		t.Error("the control stays")
	}
}
