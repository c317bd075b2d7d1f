//go:build unix

package e2e

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/coder/websocket"
)

// dialEcho opens a WebSocket through the gate and sees that it echoes.
func dialEcho(t *testing.T, ctx context.Context, g *gate) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(ctx, g.url("/v1/responses"), &websocket.DialOptions{
		HTTPClient: g.http,
		HTTPHeader: map[string][]string{"X-Proxy-Token": {g.token}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	wantEcho(t, ctx, conn, "first")
	return conn
}

func wantEcho(t *testing.T, ctx context.Context, conn *websocket.Conn, message string) {
	t.Helper()
	if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
		t.Fatal(err)
	}
	if _, got, err := conn.Read(ctx); err != nil || string(got) != message {
		t.Fatalf("sent %q, got %q, %v", message, got, err)
	}
}

func TestAWebSocketOutlivesAReloadForItsCloseDelay(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	done := make(chan struct{})
	g := reloadable(t, newUpstream(t, echo(done)), site{
		gate: "allow_route GET /v1/responses", proxy: "stream_close_delay 1h",
	})
	conn := dialEcho(t, ctx, g)
	changed := g.site
	changed.gate = "allow_route GET /v1/responses\nallow_origin https://app.example"
	g.mustReload(t, changed)
	wantEcho(t, ctx, conn, "after the reload")
	_ = conn.Close(websocket.StatusNormalClosure, "")
	awaitClosed(t, "the upstream's end of the WebSocket", done)
}

// A client that sees a close frame knows that it was not the network.
func TestAWebSocketIsClosedCleanlyAtExit(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	g := startGate(t, newUpstream(t, echo(make(chan struct{}))), site{gate: "allow_route GET /v1/responses"})
	conn := dialEcho(t, ctx, g)
	g.signal(syscall.SIGTERM)
	_, _, err := conn.Read(ctx)
	if closed := (websocket.CloseError{}); !errors.As(err, &closed) || closed.Code != websocket.StatusGoingAway {
		t.Errorf("the WebSocket ends with %v, want a close frame that says going away", err)
	}
	awaitClosed(t, "Caddy's exit", g.done)
	if !missing(g.site.infoPath()) {
		t.Error("server-info is still there")
	}
}
