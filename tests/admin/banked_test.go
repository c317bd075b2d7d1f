//go:build unix

package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// A caller who expects to lose its access can send the headers of many requests
// while it has it, and finish them one by one with new prompts.
func TestABankedRequestIsNotFinishedAfterItsCallersEnd(t *testing.T) {
	t.Parallel()
	const first, rest = `{"model":"gpt-5",`, `"input":"of after the end"}`
	ends := map[string]func(t *testing.T, g *gatetest.Gate){
		"revoke":           func(t *testing.T, g *gatetest.Gate) { post(t, g, "clients/ci/revoke", "") },
		"rotate, no grace": func(t *testing.T, g *gatetest.Gate) { post(t, g, "clients/ci/rotate", `{"grace":"0s"}`) },
		"removed, reloaded": func(t *testing.T, g *gatetest.Gate) {
			s := g.Site
			s.Gate = routes + client("codex", s.Dir)
			g.MustReload(t, s)
		},
		"nothing, the control": nil,
	}
	chunk := func(data string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(data), data) }
	framings := map[string]struct{ header, first, rest string }{
		"with a length": {fmt.Sprintf("Content-Length: %d", len(first+rest)), first, rest},
		"in chunks":     {"Transfer-Encoding: chunked", chunk(first), chunk(rest) + "0\r\n\r\n"},
	}
	for name, end := range ends {
		for framing, f := range framings {
			t.Run(name+" "+framing, func(t *testing.T) {
				t.Parallel()
				arrived, read := make(chan struct{}, 1), make(chan error, 1)
				var prompt []byte
				up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					arrived <- struct{}{}
					var err error
					prompt, err = io.ReadAll(r.Body)
					read <- err
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, gatetest.JSONAnswer)
				}))
				t.Cleanup(up.Close)
				dir := gatetest.TempDir(t)
				g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: dir, Gate: twoClients(dir), To: up.URL})
				token := tokenOf(t, g, "ci")
				conn := g.Dial(t)
				conn.Send("POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n" +
					"X-Proxy-Token: " + token + "\r\n" + f.header + "\r\n\r\n" + f.first)
				<-arrived
				if end != nil {
					end(t, g)
					if got := statusWith(t, g, token); got != http.StatusUnauthorized {
						t.Fatalf("a fresh request of that caller's gets %d", got)
					}
				}
				conn.Send(f.rest)
				got, err := conn.Answer(), <-read
				if end == nil {
					if got.Status != http.StatusOK || err != nil || string(prompt) != first+rest {
						t.Errorf("the control gets %d; the upstream has %q, %v", got.Status, prompt, err)
					}
					return
				}
				if got.Status != http.StatusUnauthorized || !strings.Contains(got.Body, "access_ended") {
					t.Errorf("finished with %d %s", got.Status, got.Body)
				}
				if err == nil || strings.HasSuffix(string(prompt), "}") {
					t.Errorf("the upstream has the whole prompt %q, %v", prompt, err)
				}
			})
		}
	}
}
