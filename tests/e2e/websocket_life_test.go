//go:build unix

package e2e

import (
	"context"
	"errors"
	"syscall"
	"testing"

	"github.com/coder/websocket"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAWebSocketOutlivesAReloadForItsCloseDelay(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), gatetest.Patience)
	defer cancel()
	done := make(chan struct{})
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, gatetest.Echo(done)), gatetest.Site{
		Gate: "allow_route GET /v1/responses", Proxy: "stream_close_delay 1h",
	})
	conn := gatetest.DialEcho(t, ctx, g)
	changed := g.Site
	changed.Gate = "allow_route GET /v1/responses\nallow_origin https://app.example"
	g.MustReload(t, changed)
	gatetest.WantEcho(t, ctx, conn, "after the reload")
	_ = conn.Close(websocket.StatusNormalClosure, "")
	gatetest.AwaitClosed(t, "the upstream's end of the WebSocket", done)
}

// A client that sees a close frame knows that it was not the network.
func TestAWebSocketIsClosedCleanlyAtExit(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), gatetest.Patience)
	defer cancel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, gatetest.Echo(make(chan struct{}))), gatetest.Site{Gate: "allow_route GET /v1/responses"})
	conn := gatetest.DialEcho(t, ctx, g)
	g.Signal(syscall.SIGTERM)
	_, _, err := conn.Read(ctx)
	if closed := (websocket.CloseError{}); !errors.As(err, &closed) || closed.Code != websocket.StatusGoingAway {
		t.Errorf("the WebSocket ends with %v, want a close frame that says going away", err)
	}
	gatetest.AwaitClosed(t, "Caddy's exit", g.Done)
	if !gatetest.Missing(g.Site.InfoPath()) {
		t.Error("server-info is still there")
	}
}
