//go:build unix

package e2e

import (
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAWebSocketOverHTTP3EndsWithTheAccessOfItsCaller(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	g, config := startTLSGate(t, gatetest.NewUpstream(t, gatetest.Echo(done)), "allow_route GET /v1/responses")
	config.NextProtos = []string{http3.NextProtoH3}
	open := func() (*http3.RequestStream, *http.Response) {
		conn, err := quic.DialAddr(t.Context(), g.Addr, config, nil)
		gatetest.Must(t, err)
		t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
		stream, err := new(http3.Transport).NewClientConn(conn).OpenRequestStream(t.Context())
		gatetest.Must(t, err)
		gatetest.Must(t, stream.SetDeadline(time.Now().Add(gatetest.Patience)))
		r := g.Post(overTLS, gatetest.SetHeader("Sec-Websocket-Version", "13"))
		r.Method, r.Proto, r.Body = http.MethodConnect, "websocket", nil
		gatetest.Must(t, stream.SendRequestHeader(r))
		response, err := stream.ReadResponse()
		gatetest.Must(t, err)
		return stream, response
	}
	stream, response := open()
	if response.StatusCode != http.StatusOK {
		t.Fatalf("the WebSocket is answered %d %v", response.StatusCode, response.Header)
	}
	g.Up.Only(t).HasKey(t)
	_, err := stream.Write([]byte("\x81\x82\x00\x00\x00\x00hi")) // a text frame, masked with zeros
	gatetest.Must(t, err)
	echo := make([]byte, 4)
	if _, err := io.ReadFull(stream, echo); err != nil || string(echo) != "\x81\x02hi" {
		t.Fatalf("the echo is %q, %v", echo, err)
	}

	admin := gatetest.UnixClient(t, g.Site.AdminSocket())
	revoke, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://localhost/responses_proxy_gate/gates/default/clients/default/revoke", nil)
	gatetest.Must(t, err)
	if got := gatetest.Do(t, admin, revoke); got.Status != http.StatusOK {
		t.Fatalf("the revocation is answered %d %s", got.Status, got.Body)
	}
	gatetest.AwaitClosed(t, "the upstream's end of the WebSocket", done)
	if _, err := io.ReadAll(stream); err != nil {
		t.Logf("it ends with %v", err)
	}
	g.Up.Forget()
	if _, response := open(); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("another one is answered %d", response.StatusCode)
	}
	g.Up.SawNothing(t)
}
