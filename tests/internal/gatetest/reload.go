//go:build unix

package gatetest

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// AdminDo speaks to the admin endpoint through its socket.
func (g *Gate) AdminDo(t testing.TB, method, path, contentType, body string) Answer {
	t.Helper()
	client := UnixClient(t, g.Site.AdminSocket())
	defer client.CloseIdleConnections() // a config's admin server waits for them when it ends
	// A reload that hangs says where: Go prints all goroutines on SIGQUIT.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var lost error
	for range 5 {
		r, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		response, err := client.Do(r)
		if err != nil {
			// Each load starts a new admin server on the socket. A connection
			// that the former one still accepts as it ends gets no answer.
			lost = err
			if ctx.Err() != nil {
				g.Signal(syscall.SIGQUIT)
				g.Wait()
				t.Fatalf("%s %s hangs: %v\n%s", method, path, err, g.Output)
			}
			continue
		}
		defer response.Body.Close()
		answered, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return Answer{response.StatusCode, response.Header, string(answered), response.Proto}
	}
	t.Fatal(lost)
	return Answer{}
}

// Reload has Caddy take another config.
func (g *Gate) Reload(t testing.TB, s Site) Answer {
	t.Helper()
	g.Reloaded.Store(true)
	return g.AdminDo(t, http.MethodPost, "/load", "text/caddyfile", s.Caddyfile())
}

// MustReload is Reload, and a refusal fails the test.
func (g *Gate) MustReload(t testing.TB, s Site) {
	t.Helper()
	if got := g.Reload(t, s); got.Status != 200 {
		t.Fatalf("reload: %d %s", got.Status, got.Body)
	}
	g.HTTP.CloseIdleConnections() // (they belong to the old config's server)
}

// StartReloadable starts a gate with an admin socket and a port of its own.
func StartReloadable(t testing.TB, up *Upstream, s Site) *Gate {
	t.Helper()
	s.Admin, s.Address = "unix", fmt.Sprintf("http://:%d", FreePort(t))
	return StartGate(t, up, s)
}
