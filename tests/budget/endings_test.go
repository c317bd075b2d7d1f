//go:build unix

package budget

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// thinker is an upstream that has a request whole, says so, and thinks until nobody waits.
func thinker(t *testing.T) (address string, begun <-chan struct{}) {
	t.Helper()
	has := make(chan struct{})
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		if got, err := io.ReadAll(r.Body); err == nil && string(got) == body {
			close(has)
		}
		<-r.Context().Done()
	}))
	up.Config.Protocols = new(http.Protocols)
	up.Config.Protocols.SetHTTP1(true)
	up.Config.Protocols.SetUnencryptedHTTP2(true)
	up.Start()
	t.Cleanup(func() {
		up.CloseClientConnections()
		up.Close()
	})
	return up.URL, has
}

// The upstream is at work: how the wait for it ends does not matter.
func TestARequestThatIsGivenUpBeforeItsAnswerIsPaid(t *testing.T) {
	t.Parallel()
	// Each begins a request, waits until the upstream has it, and ends it.
	send := func(t *testing.T, g *gatetest.Gate, client *http.Client) (leave func()) {
		ctx, cancel := context.WithCancel(t.Context())
		r := g.Post(func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		}).WithContext(ctx)
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if response, err := client.Do(r); err == nil {
				_ = response.Body.Close()
			}
		}()
		return func() { cancel(); <-ended }
	}
	for name, c := range map[string]struct {
		global string
		ends   func(t *testing.T, g *gatetest.Gate, clients [2]*http.Client, begun <-chan struct{})
	}{
		"the caller leaves, over HTTP/1": {"", func(t *testing.T, g *gatetest.Gate, clients [2]*http.Client, begun <-chan struct{}) {
			leave := send(t, g, clients[0])
			gatetest.AwaitClosed(t, "the upstream to have the request", begun)
			leave()
		}},
		"the caller leaves, over HTTP/2": {"", func(t *testing.T, g *gatetest.Gate, clients [2]*http.Client, begun <-chan struct{}) {
			leave := send(t, g, clients[1])
			gatetest.AwaitClosed(t, "the upstream to have the request", begun)
			leave()
		}},
		"the caller leaves, over HTTP/1.0": {"", func(t *testing.T, g *gatetest.Gate, _ [2]*http.Client, begun <-chan struct{}) {
			conn := g.Dial(t)
			conn.Send(g.RawRequest("POST /v1/responses HTTP/1.0", append(gatetest.Without(gatetest.RawGood(), "Content-Length"), fmt.Sprintf("Content-Length: %d", len(body))), body))
			gatetest.AwaitClosed(t, "the upstream to have the request", begun)
			_ = conn.Close()
		}},
		"a reload does not wait for it": {"grace_period 100ms", func(t *testing.T, g *gatetest.Gate, clients [2]*http.Client, begun <-chan struct{}) {
			leave := send(t, g, clients[0])
			gatetest.AwaitClosed(t, "the upstream to have the request", begun)
			s := g.Site
			s.Global += "\n# another config"
			s.Gate += "\nallow_route POST /v1/audio/speech"
			g.MustReload(t, s)
			leave()
		}},
		"the server ends": {"grace_period 100ms", func(t *testing.T, g *gatetest.Gate, clients [2]*http.Client, begun <-chan struct{}) {
			leave := send(t, g, clients[0])
			gatetest.AwaitClosed(t, "the upstream to have the request", begun)
			g.Signal(syscall.SIGTERM)
			g.Wait()
			leave()
		}},
		"the server is slow to write": {"servers {\ntimeouts {\nwrite 100ms\nidle 100ms\n}\n}", func(t *testing.T, g *gatetest.Gate, clients [2]*http.Client, begun <-chan struct{}) {
			leave := send(t, g, clients[0])
			gatetest.AwaitClosed(t, "the upstream to have the request", begun)
			leave()
		}},
	} {
		for upstream, version := range map[string]string{"HTTP/1": "1.1", "HTTP/2": "h2c"} {
			t.Run(name+", upstream "+upstream, func(t *testing.T) {
				t.Parallel()
				address, begun := thinker(t)
				dir := gatetest.TempDir(t)
				s := site(dir, perDay)
				s.To, s.Proxy = address, "transport http {\nversions "+version+"\n}"
				s.Global += "\n" + c.global
				if !strings.Contains(c.global, "servers") {
					s.Global += "\nservers {\n\tprotocols h1 h2c\n}"
				}
				g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), s)
				http2 := gatetest.NewClient(t)
				protocols := new(http.Protocols)
				protocols.SetUnencryptedHTTP2(true)
				http2.Transport.(*http.Transport).Protocols = protocols
				c.ends(t, g, [2]*http.Client{g.HTTP, http2}, begun)
				awaitSaved(t, dir, estimate)
			})
		}
	}
}
