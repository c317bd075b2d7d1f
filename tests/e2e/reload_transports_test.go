//go:build unix

package e2e

import (
	"fmt"
	"net/http"
	"path/filepath"
	"testing"

	"github.com/quic-go/quic-go/http3"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAStreamOutlivesAReloadOnEveryTransport(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T, stream *gatetest.EventStream) (*gatetest.Gate, func() *http.Client, func(*http.Request)){
		"HTTP/2 over TLS": func(t *testing.T, stream *gatetest.EventStream) (*gatetest.Gate, func() *http.Client, func(*http.Request)) {
			g, config := startTLSGate(t, gatetest.NewUpstream(t, stream.Serve))
			return g, func() *http.Client {
				client := gatetest.NewClient(t)
				transport := client.Transport.(*http.Transport)
				transport.TLSClientConfig, transport.ForceAttemptHTTP2 = config, true
				return client
			}, overTLS
		},
		"HTTP/3": func(t *testing.T, stream *gatetest.EventStream) (*gatetest.Gate, func() *http.Client, func(*http.Request)) {
			g, config := startTLSGate(t, gatetest.NewUpstream(t, stream.Serve))
			return g, func() *http.Client {
				transport := &http3.Transport{TLSClientConfig: config}
				t.Cleanup(func() { _ = transport.Close() })
				return &http.Client{Transport: transport}
			}, overTLS
		},
		"a unix socket": func(t *testing.T, stream *gatetest.EventStream) (*gatetest.Gate, func() *http.Client, func(*http.Request)) {
			dir := gatetest.TempDir(t)
			socket := filepath.Join(dir, "gate.sock")
			g := gatetest.StartGate(t, gatetest.NewUpstream(t, stream.Serve), gatetest.Site{Dir: dir, Admin: "unix", Bind: "unix/" + socket})
			g.Addr = "localhost"
			return g, func() *http.Client { return gatetest.UnixClient(t, socket) }, func(*http.Request) {}
		},
	} {
		t.Run(name, func(t *testing.T) {
			stream := gatetest.NewEventStream()
			g, newClient, edit := open(t, stream)
			file := gatetest.ReadFile(t, g.Site.InfoPath())
			_, reader := gatetest.OpenStream(t, newClient(), g.Post(edit, gatetest.WithDeadline(t)))
			stream.Send(t)
			gatetest.ReadEvent(t, reader, 1)
			for n := 2; n <= 4; n++ {
				changed := g.Site
				changed.Gate = fmt.Sprintf("allow_origin https://app%d.example", n)
				if got := g.Reload(t, changed); got.Status != 200 {
					t.Fatalf("reload: %d %s", got.Status, got.Body)
				}
				stream.Send(t)
				gatetest.ReadEvent(t, reader, n)
			}
			g.Up.SetAnswer(gatetest.AnswerJSON)
			if got := gatetest.Do(t, newClient(), g.Post(edit)); got.Status != 200 {
				t.Errorf("a request after the reloads: %d %s", got.Status, got.Body)
			}
			close(stream.Next)
			if rest, err := reader.ReadString(0); rest != "" || err == nil || err.Error() != "EOF" {
				t.Errorf("the stream ends with %q, %v", rest, err)
			}
			if gatetest.ReadFile(t, g.Site.InfoPath()) != file {
				t.Error("the reloads rewrote server-info, in which nothing changed")
			}
		})
	}
}
