//go:build unix

package budget

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// fails is how many attempts at an upstream have failed that Caddy still counts.
func fails(t *testing.T, g *gatetest.Gate, upstream string) int {
	t.Helper()
	got := g.AdminDo(t, http.MethodGet, "/reverse_proxy/upstreams", "", "")
	var all []struct {
		Address string `json:"address"`
		Fails   int    `json:"fails"`
	}
	gatetest.Must(t, json.Unmarshal([]byte(got.Body), &all))
	for _, u := range all {
		if u.Address == upstream {
			return u.Fails
		}
	}
	t.Fatalf("Caddy knows of no %s: %s", upstream, got.Body)
	return 0
}

func TestARequestArrivesWholeAtTheSecondUpstreamAndIsCountedOnce(t *testing.T) {
	t.Parallel()
	for name, options := range map[string]string{"as it came": perDay, "with a ceiling put in": perDay + "\nmax_output_tokens 100"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBill(t)
			dead := fmt.Sprintf("127.0.0.1:%d", gatetest.FreePort(t))
			s := site(gatetest.TempDir(t), strings.Replace(options, "1000", "1000000", 1))
			s.Global += "\ndebug\nlog {\n\tformat responses_proxy_gate\n}" // (each attempt is a line)
			s.To = dead + " " + strings.TrimPrefix(b.URL, "http://")
			s.Proxy = "lb_policy first\nlb_try_duration 30s\nlb_try_interval 10ms\nfail_duration 500ms"
			g := gatetest.StartReloadable(t, b.Upstream, s)
			for i, c := range []struct {
				length  int // of the input
				chunked bool
			}{{50, false}, {50, true}, {1800, false}, {1800, true}, {40_000, false}, {40_000, true}} {
				gatetest.Until(t, "the first upstream to be tried again", func() bool { return fails(t, g, dead) == 0 })
				refused := strings.Count(g.Output.String(), "connection refused")
				b.Forget()
				content := `"model":"gpt-5","input":"` + strings.Repeat("x", c.length) + `"}`
				got := g.Do(t, func(r *http.Request) {
					r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader("{"+content)), int64(len(content)+1), nil
					if c.chunked {
						r.ContentLength = -1
					}
				})
				if got.Status != http.StatusOK {
					t.Fatalf("%+v: it gets %d %s", c, got.Status, got.Body)
				}
				want := "{" + content
				if strings.Contains(options, "max_output_tokens") {
					want = `{"max_output_tokens":100,` + content
				}
				if sent := b.Only(t); sent.Body != want || sent.Header.Get("Content-Length") != fmt.Sprint(len(want)) {
					t.Errorf("%+v: the second upstream got %v %q", c, sent.Header, sent.Body)
				}
				g.WaitOutput("connection refused", refused+1)
				if got := spent(t, g); got.Requests != int64(i+1) || got.Tokens != int64(i+1)*cost || got.Estimated != 0 {
					t.Errorf("%+v: counted are %+v", c, got)
				}
			}
			metrics := g.AdminDo(t, http.MethodGet, "/metrics", "", "").Body
			if want := `caddy_responses_budget_requests_total{budget="default",client="default",code="told"} 6`; !strings.Contains(metrics, want) {
				t.Errorf("the metrics have no %s", want)
			}
		})
	}
}

// A handler behind the budget may read the body in its own way, once.
func TestARequestWithABodyThatIsReadOnceArrivesWholeAtTheSecondUpstream(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	dead := fmt.Sprintf("127.0.0.1:%d", gatetest.FreePort(t))
	s := site(gatetest.TempDir(t), perDay)
	// Within this route, the order is as written.
	s.Gate += "\n}\nroute {\nresponses_budget {\n" + perDay + "\n}\nrequest_body {\nmax_size 1MB\n}\n" +
		"reverse_proxy " + dead + " " + b.URL + " {\nlb_policy first\nlb_try_duration 30s\nlb_try_interval 10ms\nfail_duration 30s\n}"
	s.Before = ""
	g := gatetest.StartReloadable(t, b.Upstream, s)
	if got := ask(t, g); got.Status != http.StatusOK || b.Only(t).Body != body {
		t.Errorf("it gets %d %s; the second upstream got %+v", got.Status, got.Body, b.Requests())
	}
	if got := fails(t, g, dead); got != 1 {
		t.Errorf("the first upstream was tried %d times", got)
	}
}
