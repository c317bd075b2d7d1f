//go:build unix

package e2e

import (
	"fmt"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// Caddy opens the admin endpoint of a new config before it finds out whether
// the config can be used, and does not close it if not. While a gate runs, no
// config may open one that other users can reach, whatever else is wrong with
// it.
func TestAnUnusableConfigOpensNoAdminEndpointBesideTheGate(t *testing.T) {
	t.Parallel()
	port := gatetest.FreePort(t)
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{Env: []string{fmt.Sprintf("CADDY_ADMIN=localhost:%d", port)}})
	for name, config := range map[string]string{
		"whose gate is misspelt":      `{"apps": {"http": {"servers": {"s": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [{"handler": "responses_proxy_gat"}]}]}}}}}`,
		"that has no gate":            `{"apps": {"http": {"servers": {"s": {"listen": ["127.0.0.1:0"]}}}}}`,
		"that is empty":               `{}`,
		"that names the TCP endpoint": fmt.Sprintf(`{"admin": {"listen": "127.0.0.1:%d"}}`, port),
	} {
		got := g.AdminDo(t, http.MethodPost, "/load", "application/json", config)
		if got.Status < 400 || !strings.Contains(got.Body, "is running") {
			t.Errorf("a config %s: %d %s", name, got.Status, got.Body)
		}
		if conn, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", port)); err == nil {
			_ = conn.Close()
			t.Errorf("after a config %s, an admin endpoint listens on TCP", name)
		}
		g.Works(t)
	}
}

// A preflight is answered without a token, and must not be waited for either.
func TestAPreflightWithoutItsBodyCannotKeepCaddyFromExiting(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "allow_origin https://app.example"})
	conn := g.Dial(t)
	conn.Send(g.RawRequest("OPTIONS /v1/responses HTTP/1.1", []string{
		"Host: 127.0.0.1", "Origin: https://app.example", "Access-Control-Request-Method: POST", "Content-Length: 100",
	}, "")) // the body never comes
	if got := conn.Answer(); got.Status != 204 {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
	g.Signal(syscall.SIGTERM)
	select {
	case <-g.Done:
	case <-time.After(gatetest.Patience):
		t.Error("Caddy still waits")
	}
}

// What a handler beside the gate reports, Caddy logs with the request's headers.
func TestAFailureBesideTheGateIsNotLoggedWithTheToken(t *testing.T) {
	t.Parallel()
	s := gatetest.Site{Before: "handle /other {\nreverse_proxy 127.0.0.1:1\n}"}.With(t, gatetest.NewUpstream(t, nil))
	l := s.Launch(t)
	l.Args = append([]string{"validate"}, l.Args[1:]...)
	if out, code := gatetest.Run(t, l); code != 0 {
		t.Errorf("a gate ahead of everything: exit code %d: %s", code, out)
	}
	partly := strings.Replace(gatetest.ReadFile(t, s.ConfigPath()), "responses_proxy_gate {", "responses_proxy_gate /v1/* {", 1)
	gatetest.WriteFile(t, s.ConfigPath(), partly)
	if out, code := gatetest.Run(t, l); code == 0 || !strings.Contains(out, "when a handler fails that is not behind the gate") {
		t.Errorf("a gate ahead of some paths: exit code %d: %s", code, out)
	}
}
