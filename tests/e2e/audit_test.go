//go:build unix

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const literal = "sk-literal-0123456789-0123456789-0123456789"

// filtered is what the messages tell people to write into a log.
const filtered = "format filter {\nrequest>headers>X-Proxy-Token delete\n}\n"

// danger is a set-up that undoes the gate.
type danger struct {
	harm   string
	change func(s *gatetest.Site)
	risk   string   // what insecure_allow calls it
	say    []string // what the message must say beside
	// runs is false where starting with the risk allowed would disturb the
	// machine (Caddy's default admin port may be somebody else's).
	cannotRun bool
	// noJSON is for what exists only in a Caddyfile.
	noJSON bool
}

func dangers(port int) []danger {
	admin := func(format string) func(*gatetest.Site) {
		return func(s *gatetest.Site) {
			s.Admin = strings.NewReplacer("PORT", fmt.Sprint(port), "SOCKET", filepath.Join(s.Dir, "a.sock")).Replace(format)
		}
	}
	bind := func(bind string) func(*gatetest.Site) { return func(s *gatetest.Site) { s.Bind = bind } }
	return []danger{
		{harm: "any user reconfigures Caddy through its default admin endpoint", change: admin("default"), risk: "tcp_admin", say: []string{"admin unix/", "admin off"}, cannotRun: true},
		{harm: "any user reconfigures Caddy through a TCP admin endpoint", change: admin("localhost:PORT"), risk: "tcp_admin", say: []string{"admin unix/"}},
		{harm: "any user reconfigures Caddy through 127.0.0.1", change: admin("127.0.0.1:PORT"), risk: "tcp_admin", say: []string{"admin unix/"}},
		{harm: "any user reconfigures Caddy through a world-writable socket", change: admin("unix/SOCKET|0666"), risk: "tcp_admin", say: []string{"0666", "unix/"}},
		{harm: "a group reconfigures Caddy through its socket", change: admin("unix/SOCKET|0220"), risk: "tcp_admin", say: []string{"0220", "unix/"}},
		{harm: "any user reconfigures Caddy through an abstract socket", change: admin("unix/@e2e-gate-PORT"), risk: "tcp_admin", say: []string{"admin unix/"}, cannotRun: true},

		{harm: "the network reaches a gate whose address is only a Host matcher", change: func(s *gatetest.Site) {
			s.Bind, s.Address = "-", fmt.Sprintf("http://127.0.0.1:%d", port)
		}, risk: "remote_listener", say: []string{"bind 127.0.0.1"}},
		{harm: "the network reaches a gate without bind", change: bind("-"), risk: "remote_listener", say: []string{"bind 127.0.0.1"}},
		{harm: "the network reaches a gate on 0.0.0.0", change: bind("0.0.0.0"), risk: "remote_listener", say: []string{"bind 127.0.0.1"}},
		{harm: "the network reaches the second of two listeners", change: bind("127.0.0.1 0.0.0.0"), risk: "remote_listener", say: []string{"bind 127.0.0.1"}},

		{harm: "the key stands in the config", change: func(s *gatetest.Site) { s.Key = "upstream_bearer " + literal }, risk: "literal_secret", say: []string{"upstream_bearer", "{env."}},
		{harm: "the key stands in the config beside a placeholder", change: func(s *gatetest.Site) {
			s.Key = "upstream_bearer " + literal + "{env.EMPTY}"
			s.Env = []string{"EMPTY="}
		}, risk: "literal_secret", say: []string{"upstream_bearer", "{env."}, cannotRun: true},
		{harm: "the key comes into the config by {$VAR}", change: func(s *gatetest.Site) {
			s.Key, s.Env = "upstream_bearer {$KEY_IN_CONFIG}", []string{"KEY_IN_CONFIG=" + literal}
		}, risk: "literal_secret", say: []string{"{env.", "{$VAR}"}, noJSON: true},
		{harm: "the token stands in the config", change: func(s *gatetest.Site) { s.Gate = "token " + literal }, risk: "literal_secret", say: []string{"token", "{env."}},
		{harm: "the token comes into the config by {$VAR}", change: func(s *gatetest.Site) {
			s.Gate, s.Env = "token {$TOKEN_IN_CONFIG}", []string{"TOKEN_IN_CONFIG=" + literal}
		}, risk: "literal_secret", say: []string{"token", "{env."}, noJSON: true},

		{harm: "an access log records tokens", change: func(s *gatetest.Site) { s.Before = "log" }, risk: "logged_token", say: []string{"X-Proxy-Token", "format responses_proxy_gate"}},
		{harm: "an access log in a file records tokens", change: func(s *gatetest.Site) {
			s.Before = "log {\noutput file " + filepath.Join(s.Dir, "access.log") + "\n}"
		}, risk: "logged_token", say: []string{"X-Proxy-Token", "format responses_proxy_gate"}},
		{harm: "one of two logs has no filter", change: func(s *gatetest.Site) {
			s.Global, s.Before = "log {\n"+filtered+"}", "log {\noutput stdout\n}"
		}, risk: "logged_token", say: []string{"X-Proxy-Token", "format responses_proxy_gate"}},
		{harm: "a log deletes another header", change: func(s *gatetest.Site) {
			s.Global, s.Before = "log {\n"+strings.Replace(filtered, "X-Proxy", "X-Other", 1)+"}", "log"
		}, risk: "logged_token", say: []string{"X-Proxy-Token", "format responses_proxy_gate"}},
		{harm: "a log hashes tokens, which shows that two are the same", change: func(s *gatetest.Site) {
			s.Global, s.Before = "log {\nformat filter {\nrequest>headers>X-Proxy-Token hash\n}\n}", "log"
		}, risk: "logged_token", say: []string{"X-Proxy-Token", "format responses_proxy_gate"}},
		{harm: "a filter around a filter passes what the inner one deletes", change: func(s *gatetest.Site) {
			s.Global = "log {\nformat filter {\nwrap filter {\nrequest>headers>X-Proxy-Token delete\n}\nrequest>remote_port delete\n}\n}"
			s.Before = "log"
		}, risk: "logged_token", say: []string{"X-Proxy-Token", "log { format responses_proxy_gate }"}},
		{harm: "a proxy before the gate takes every request", change: func(s *gatetest.Site) {
			s.Before = "route {\nreverse_proxy " + s.To + "\nresponses_proxy_gate {\nname unreachable\nupstream_bearer {env.OPENAI_API_KEY}\n}\nreverse_proxy " + s.To + "\n}"
		}, risk: "", say: []string{"put responses_proxy_gate before it"}, cannotRun: true},
		{harm: "log_append writes the token", change: func(s *gatetest.Site) {
			s.Global, s.Before = "log {\n"+filtered+"}", "log\nlog_append seen {header.X-Proxy-Token}"
		}, risk: "logged_token", say: []string{"log_append would write the header X-Proxy-Token"}},
		{harm: "debug logs record tokens", change: func(s *gatetest.Site) { s.Global = "debug" }, risk: "logged_token", say: []string{"X-Proxy-Token", "format responses_proxy_gate"}},
		{harm: "log_credentials makes logs record everything", change: func(s *gatetest.Site) {
			s.Global = "servers {\nlog_credentials\n}\nlog {\n" + filtered + "}"
			s.Before = "log"
		}, risk: "logged_token", say: []string{"log_credentials"}},

		{harm: "the key goes in the clear where https:// is forgotten", change: func(s *gatetest.Site) { s.To = "api.openai.com" }, risk: "plaintext_upstream", say: []string{"write https://api.openai.com"}},
		{harm: "the key goes in the clear to an address of the network", change: func(s *gatetest.Site) { s.To = "http://192.0.2.1:8080" }, risk: "plaintext_upstream", say: []string{"write https://192.0.2.1"}},
		{harm: "the key goes in the clear to one of two upstreams", change: func(s *gatetest.Site) { s.To += " http://192.0.2.1:8080" }, risk: "plaintext_upstream", say: []string{"write https://192.0.2.1"}},
		{harm: "the key goes to whoever answers in the upstream's name", change: func(s *gatetest.Site) {
			s.To, s.Proxy = "https://api.openai.com", "transport http {\ntls_insecure_skip_verify\n}"
		}, risk: "plaintext_upstream", say: []string{"tls_insecure_skip_verify", "tls_trust_pool"}},
		{harm: "the key goes in the clear to a port that is excepted from TLS", change: func(s *gatetest.Site) {
			s.To, s.Proxy = "192.0.2.1:8080", "transport http {\ntls\ntls_except_ports 8080\n}"
		}, risk: "plaintext_upstream", say: []string{"without TLS"}},
		{harm: "another user takes the place of the upstream's socket", change: func(s *gatetest.Site) { s.To = "unix//tmp/gate-test-nobody-listens.sock" }, risk: "plaintext_upstream", say: []string{"run chmod go-w /tmp "}},
		{harm: "the key goes in the clear through a proxy", change: func(s *gatetest.Site) {
			s.Proxy = "transport http {\nnetwork_proxy url http://192.0.2.1:3128\n}"
		}, risk: "plaintext_upstream", say: []string{"without TLS"}},
	}
}

func TestTheGateRefusesSurroundingsThatUndoIt(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for _, d := range dangers(gatetest.FreePort(t)) {
		t.Run(d.harm, func(t *testing.T) {
			t.Parallel()
			set := func(t *testing.T) gatetest.Site {
				s := gatetest.Site{}.With(t, up)
				d.change(&s)
				return s
			}
			t.Run("in a Caddyfile", func(t *testing.T) {
				t.Parallel()
				s := set(t)
				d.isRefused(t, s, s.Launch(t))
			})
			t.Run("in JSON", func(t *testing.T) {
				t.Parallel()
				if d.noJSON {
					return
				}
				s := set(t)
				d.isRefused(t, s, asJSON(t, s))
			})
		})
	}
}

// remedy is the option that takes the risk, if there is one.
func (d danger) remedy() []string {
	if d.risk == "" {
		return nil
	}
	return []string{"insecure_allow " + d.risk}
}

func (d danger) isRefused(t *testing.T, s gatetest.Site, l gatetest.Launch) {
	t.Helper()
	out := gatetest.StartRefused(t, l)
	message := gatetest.LastError(out)
	for _, say := range append(d.say, d.remedy()...) {
		// (the message may be a JSON string)
		if !strings.Contains(strings.ReplaceAll(message, `\"`, `"`), say) {
			t.Errorf("the message does not say %q: %s", say, message)
		}
	}
	for _, secret := range []string{"sk-literal", gatetest.OperatorKey} {
		if strings.Contains(out, secret) {
			t.Errorf("Caddy printed the secret: %s", out)
		}
	}
	if !gatetest.Missing(s.InfoPath()) {
		t.Error("a refused config left a server-info file")
	}
}

// asJSON says how to run the site from the JSON that its Caddyfile means.
func asJSON(t *testing.T, s gatetest.Site) gatetest.Launch {
	t.Helper()
	const stands = "{env.STANDS_FOR_A_LITERAL}"
	l := s.Launch(t)
	gatetest.WriteFile(t, s.ConfigPath(), strings.ReplaceAll(s.Caddyfile(), literal, stands)) // (literals do not even adapt)
	l.Args = []string{"adapt", "--adapter", "caddyfile", "--config", s.ConfigPath()}
	cmd := l.Command()
	adapted, err := cmd.Output()
	if err != nil {
		// "literal{env.X}" is refused by the adapter under any name.
		adapted = []byte(strings.ReplaceAll(string(adaptedByHand(t, s)), gatetest.OperatorKey, ""))
	}
	config := strings.ReplaceAll(string(adapted), stands, literal)
	if !json.Valid([]byte(config)) {
		t.Fatalf("not JSON: %s", config)
	}
	path := filepath.Join(s.Dir, "caddy.json")
	gatetest.WriteFile(t, path, config)
	l.Args = []string{"run", "--config", path}
	return l
}

// adaptedByHand is the JSON of the plainest site, with the site's own key option.
func adaptedByHand(t *testing.T, s gatetest.Site) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{
		"admin": map[string]any{"disabled": true},
		"apps": map[string]any{"http": map[string]any{"servers": map[string]any{"s": map[string]any{
			"listen": []string{"127.0.0.1:0"},
			"routes": []any{map[string]any{"handle": []any{map[string]any{
				"handler": "responses_proxy_gate", "upstream_bearer": strings.TrimPrefix(s.Key, "upstream_bearer "),
			}, map[string]any{"handler": "reverse_proxy", "upstreams": []any{map[string]any{"dial": strings.TrimPrefix(s.To, "http://")}}}}}},
		}}}},
	})
	gatetest.Must(t, err)
	return raw
}

func TestEachRiskCanBeTakenKnowingly(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for _, d := range dangers(gatetest.FreePort(t)) {
		if d.cannotRun {
			continue
		}
		t.Run(d.harm, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{}.With(t, up)
			d.change(&s)
			// A port of its own: cases of the other test have the first one.
			old := regexp.MustCompile(`:[1-9][0-9]{3,4}\b`)
			own := fmt.Sprintf(":%d", gatetest.FreePort(t))
			s.Admin, s.Address = old.ReplaceAllString(s.Admin, own), old.ReplaceAllString(s.Address, own)
			s.Gate += "\ninsecure_allow " + d.risk
			g := gatetest.StartGate(t, up, s)
			if got := g.Do(t); got.Status != 200 && (d.risk != "plaintext_upstream" || got.Status != 502) { // (nobody answers at those addresses)
				t.Errorf("a request with the token got %d %s", got.Status, got.Body)
			}
		})
	}
}

func TestOneRiskDoesNotAllowAnother(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	all := dangers(gatetest.FreePort(t))
	for _, risk := range []string{"remote_listener", "tcp_admin", "logged_token", "literal_secret"} {
		i := slices.IndexFunc(all, func(d danger) bool { return d.risk == risk && !d.cannotRun })
		t.Run(risk, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{}.With(t, up)
			all[i].change(&s)
			var others []string
			for _, other := range []string{"remote_listener", "tcp_admin", "logged_token", "literal_secret"} {
				if other != risk {
					others = append(others, other)
				}
			}
			s.Gate += "\ninsecure_allow " + strings.Join(others, " ")
			all[i].isRefused(t, s, s.Launch(t))
		})
	}
}

func TestSafeSurroundingsAreTaken(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, change := range map[string]func(*gatetest.Site){
		"an access log with the filter":   func(s *gatetest.Site) { s.Global, s.Before = "log {\n"+filtered+"}", "log" },
		"an access log that goes nowhere": func(s *gatetest.Site) { s.Before = "log {\noutput discard\n}" },
		"an access log of the site's own, filtered, beside the default log": func(s *gatetest.Site) {
			// (The default log gets no access then: Caddy excludes it there.)
			s.Before = "log {\noutput file " + filepath.Join(s.Dir, "access.log") + "\n" + filtered + "}"
		},
		"debug with the filter":                func(s *gatetest.Site) { s.Global = "debug\nlog {\n" + filtered + "}" },
		"an admin socket for its owner":        func(s *gatetest.Site) { s.Admin = "unix/" + s.AdminSocket() },
		"an admin socket with mode 0600":       func(s *gatetest.Site) { s.Admin = "unix/" + s.AdminSocket() + "|0600" },
		"localhost":                            func(s *gatetest.Site) { s.Bind = "localhost" },
		"another loopback address":             func(s *gatetest.Site) { s.Bind = "127.0.0.5" },
		"an empty line of options: no options": func(s *gatetest.Site) { s.Gate = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{}.With(t, up)
			change(&s)
			g := gatetest.StartGate(t, up, s)
			if s.Bind == "127.0.0.5" {
				g.Addr = fmt.Sprintf("127.0.0.5:%d", g.Info.Port)
			}
			if conn, err := net.Dial("tcp", g.Addr); err == nil {
				_ = conn.Close()
			} else if s.Bind == "localhost" {
				t.Skip("localhost is not 127.0.0.1 here: ", err)
			}
			if got := g.Do(t); got.Status != 200 {
				t.Errorf("a request with the token got %d %s", got.Status, got.Body)
			}
		})
	}
}

func TestAdaptDoesNotPrintALiteralSecret(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for _, d := range dangers(1) {
		if d.risk != "literal_secret" {
			continue
		}
		t.Run(d.harm, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{}.With(t, up)
			d.change(&s)
			l := s.Launch(t)
			l.Args = append([]string{"adapt"}, l.Args[1:]...)
			out, code := gatetest.Run(t, l)
			if code == 0 || strings.Contains(out, "sk-literal") {
				t.Errorf("exit code %d: %s", code, out)
			}
		})
	}
}
