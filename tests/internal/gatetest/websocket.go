//go:build unix

package gatetest

import (
	"context"
	"net/http"
	"testing"

	"github.com/coder/websocket"
)

// Echo is an upstream that answers each WebSocket message with itself.
func Echo(done chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"realtime"}})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, data, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if err := conn.Write(r.Context(), kind, data); err != nil {
				return
			}
		}
	}
}

// DialEcho opens a WebSocket through the gate and sees that it echoes.
func DialEcho(t testing.TB, ctx context.Context, g *Gate) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(ctx, g.URL("/v1/responses"), &websocket.DialOptions{
		HTTPClient: g.HTTP,
		HTTPHeader: map[string][]string{"X-Proxy-Token": {g.Token}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	WantEcho(t, ctx, conn, "first")
	return conn
}

// WantEcho sends a message and fails the test unless it comes back.
func WantEcho(t testing.TB, ctx context.Context, conn *websocket.Conn, message string) {
	t.Helper()
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(ctx); err != nil || string(got) != message {
		t.Fatalf("sent %q, got %q, %v", message, got, err)
	}
}
