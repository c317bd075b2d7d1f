package e2e

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// What the check refuses does write the token: each of these configs looks
// safe, and runs here with the risk taken.
func TestFormatsThatTheCheckRefusesWriteTheToken(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, c := range map[string]struct{ format, before string }{
		"a filter around a filter":         {"format filter {\nwrap filter {\nrequest>headers>X-Proxy-Token delete\n}\nrequest>remote_port delete\n}", "log"},
		"filters around append":            {"format filter {\nwrap append {\nwrap filter {\nrequest>headers>X-Proxy-Token delete\n}\na b\n}\nuser_id delete\n}", "log"},
		"log_append":                       {filtered, "log\nlog_append <seen {header.X-Proxy-Token}"},
		"log_name for the log without one": {"", "log mine {\noutput discard\n" + filtered + "}\nlog_name \"\""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{Global: "log {\n" + c.format + "\n}", Before: c.before}
			gatetest.StartRefused(t, s.With(t, up).Launch(t))
			s.Gate = "insecure_allow logged_token"
			g := gatetest.StartGate(t, up, s)
			for range 5 {
				if got := g.Do(t, func(r *http.Request) { r.Header.Set("X-Proxy-Token", g.Token) }); got.Status != 200 {
					t.Fatalf("status %d", got.Status)
				}
			}
			g.Signal(os.Interrupt)
			g.Wait()
			if !strings.Contains(g.Output.String(), g.Token) {
				t.Errorf("the check refuses a log that does not write the token: %s", g.Output.String())
			}
		})
	}
}

func TestTheGatesFormatCannotStandInAnother(t *testing.T) {
	t.Parallel()
	s := gatetest.Site{Global: "log {\nformat filter {\nwrap responses_proxy_gate\nuser_id delete\n}\n}", Before: "log"}
	out := gatetest.StartRefused(t, s.With(t, gatetest.NewUpstream(t, nil)).Launch(t))
	if message := gatetest.LastError(out); !strings.Contains(message, "cannot stand inside another") {
		t.Errorf("it says %s", message)
	}
}

func TestAConfigFromPlainHTTPIsRefused(t *testing.T) {
	t.Parallel()
	s := gatetest.Site{}.With(t, gatetest.NewUpstream(t, nil))
	l := asJSON(t, s)
	path := filepath.Join(s.Dir, "caddy.json")
	config := strings.Replace(gatetest.ReadFile(t, path), `"admin":{`, `"admin":{"config":{"load":{"module":"http","url":"http://127.0.0.1:9/config"}},`, 1)
	gatetest.WriteFile(t, path, config)
	if message := gatetest.LastError(gatetest.StartRefused(t, l)); !strings.Contains(message, "admin.config.load takes a config over plain HTTP") {
		t.Errorf("it says %s", message)
	}
}

func TestAProxyBesideTheGateIsWarnedOf(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	const warning = "some requests reach a reverse_proxy without passing the gate"
	if g := gatetest.StartGate(t, up, gatetest.Site{}); strings.Contains(g.Output.String(), warning) {
		t.Error("a proxy behind the gate is warned of")
	}
	if g := gatetest.StartGate(t, up, gatetest.Site{Before: "reverse_proxy /other " + up.URL}); strings.Contains(g.Output.String(), warning) {
		t.Error("directives are put into an order in which the gate comes first")
	}
	s := gatetest.Site{Before: "route {\nreverse_proxy /other " + up.URL + "\nresponses_proxy_gate {\nname second\nupstream_bearer {env.OPENAI_API_KEY}\n}\nreverse_proxy " + up.URL + "\n}"}
	if g := gatetest.StartGate(t, up, s); !strings.Contains(g.Output.String(), warning) {
		t.Errorf("a proxy before a gate is not warned of: %s", g.Output.String())
	}
}
