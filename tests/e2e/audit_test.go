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
)

const literal = "sk-literal-0123456789-0123456789-0123456789"

// filtered is what the messages tell people to write into a log.
const filtered = "format filter {\nrequest>headers>X-Proxy-Token delete\n}\n"

// danger is a set-up that undoes the gate.
type danger struct {
	harm   string
	change func(s *site)
	risk   string   // what insecure_allow calls it
	say    []string // what the message must say beside
	// runs is false where starting with the risk allowed would disturb the
	// machine (Caddy's default admin port may be somebody else's).
	cannotRun bool
	// noJSON is for what exists only in a Caddyfile.
	noJSON bool
}

func dangers(port int) []danger {
	admin := func(format string) func(*site) {
		return func(s *site) {
			s.admin = strings.NewReplacer("PORT", fmt.Sprint(port), "SOCKET", filepath.Join(s.dir, "a.sock")).Replace(format)
		}
	}
	bind := func(bind string) func(*site) { return func(s *site) { s.bind = bind } }
	return []danger{
		{harm: "any user reconfigures Caddy through its default admin endpoint", change: admin("default"), risk: "tcp_admin", say: []string{"admin unix/", "admin off"}, cannotRun: true},
		{harm: "any user reconfigures Caddy through a TCP admin endpoint", change: admin("localhost:PORT"), risk: "tcp_admin", say: []string{"admin unix/"}},
		{harm: "any user reconfigures Caddy through 127.0.0.1", change: admin("127.0.0.1:PORT"), risk: "tcp_admin", say: []string{"admin unix/"}},
		{harm: "any user reconfigures Caddy through a world-writable socket", change: admin("unix/SOCKET|0666"), risk: "tcp_admin", say: []string{"0666", "unix/"}},
		{harm: "a group reconfigures Caddy through its socket", change: admin("unix/SOCKET|0220"), risk: "tcp_admin", say: []string{"0220", "unix/"}},
		{harm: "any user reconfigures Caddy through an abstract socket", change: admin("unix/@e2e-gate-PORT"), risk: "tcp_admin", say: []string{"admin unix/"}, cannotRun: true},

		{harm: "the network reaches a gate whose address is only a Host matcher", change: func(s *site) {
			s.bind, s.address = "-", fmt.Sprintf("http://127.0.0.1:%d", port)
		}, risk: "remote_listener", say: []string{"bind 127.0.0.1"}},
		{harm: "the network reaches a gate without bind", change: bind("-"), risk: "remote_listener", say: []string{"bind 127.0.0.1"}},
		{harm: "the network reaches a gate on 0.0.0.0", change: bind("0.0.0.0"), risk: "remote_listener", say: []string{"bind 127.0.0.1"}},
		{harm: "the network reaches the second of two listeners", change: bind("127.0.0.1 0.0.0.0"), risk: "remote_listener", say: []string{"bind 127.0.0.1"}},

		{harm: "the key stands in the config", change: func(s *site) { s.key = "upstream_bearer " + literal }, risk: "literal_secret", say: []string{"upstream_bearer", "{env."}},
		{harm: "the key stands in the config beside a placeholder", change: func(s *site) {
			s.key = "upstream_bearer " + literal + "{env.EMPTY}"
			s.env = []string{"EMPTY="}
		}, risk: "literal_secret", say: []string{"upstream_bearer", "{env."}, cannotRun: true},
		{harm: "the key comes into the config by {$VAR}", change: func(s *site) {
			s.key, s.env = "upstream_bearer {$KEY_IN_CONFIG}", []string{"KEY_IN_CONFIG=" + literal}
		}, risk: "literal_secret", say: []string{"{env.", "{$VAR}"}, noJSON: true},
		{harm: "the token stands in the config", change: func(s *site) { s.gate = "token " + literal }, risk: "literal_secret", say: []string{"token", "{env."}},
		{harm: "the token comes into the config by {$VAR}", change: func(s *site) {
			s.gate, s.env = "token {$TOKEN_IN_CONFIG}", []string{"TOKEN_IN_CONFIG=" + literal}
		}, risk: "literal_secret", say: []string{"token", "{env."}, noJSON: true},

		{harm: "an access log records tokens", change: func(s *site) { s.before = "log" }, risk: "logged_token", say: []string{"X-Proxy-Token", "request>headers>X-Proxy-Token delete"}},
		{harm: "an access log in a file records tokens", change: func(s *site) {
			s.before = "log {\noutput file " + filepath.Join(s.dir, "access.log") + "\n}"
		}, risk: "logged_token", say: []string{"request>headers>X-Proxy-Token delete"}},
		{harm: "one of two logs has no filter", change: func(s *site) {
			s.global, s.before = "log {\n"+filtered+"}", "log {\noutput stdout\n}"
		}, risk: "logged_token", say: []string{"request>headers>X-Proxy-Token delete"}},
		{harm: "a log deletes another header", change: func(s *site) {
			s.global, s.before = "log {\n"+strings.Replace(filtered, "X-Proxy", "X-Other", 1)+"}", "log"
		}, risk: "logged_token", say: []string{"request>headers>X-Proxy-Token delete"}},
		{harm: "a log hashes tokens, which shows that two are the same", change: func(s *site) {
			s.global, s.before = "log {\nformat filter {\nrequest>headers>X-Proxy-Token hash\n}\n}", "log"
		}, risk: "logged_token", say: []string{"request>headers>X-Proxy-Token delete"}},
		{harm: "debug logs record tokens", change: func(s *site) { s.global = "debug" }, risk: "logged_token", say: []string{"request>headers>X-Proxy-Token delete"}},
		{harm: "log_credentials makes logs record everything", change: func(s *site) {
			s.global = "servers {\nlog_credentials\n}\nlog {\n" + filtered + "}"
			s.before = "log"
		}, risk: "logged_token", say: []string{"log_credentials"}},
		{harm: "reverse_proxy logs a key that is not in Authorization", change: func(s *site) { s.gate = "upstream_header api-key" }, risk: "logged_token", say: []string{"Api-Key", "delete"}},
	}
}

func TestTheGateRefusesSurroundingsThatUndoIt(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	for _, d := range dangers(freePort(t)) {
		t.Run(d.harm, func(t *testing.T) {
			t.Parallel()
			set := func(t *testing.T) site {
				s := site{}.with(t, up)
				d.change(&s)
				return s
			}
			t.Run("in a Caddyfile", func(t *testing.T) {
				t.Parallel()
				s := set(t)
				d.isRefused(t, s, s.launch(t))
			})
			t.Run("in JSON", func(t *testing.T) {
				t.Parallel()
				if d.noJSON {
					return
				}
				s := set(t)
				d.isRefused(t, s, s.asJSON(t))
			})
		})
	}
}

func (d danger) isRefused(t *testing.T, s site, l launch) {
	t.Helper()
	out := startRefused(t, l)
	message := lastError(out)
	for _, say := range append(d.say, "insecure_allow "+d.risk) {
		// (the message may be a JSON string)
		if !strings.Contains(strings.ReplaceAll(message, `\"`, `"`), say) {
			t.Errorf("the message does not say %q: %s", say, message)
		}
	}
	for _, secret := range []string{"sk-literal", operatorKey} {
		if strings.Contains(out, secret) {
			t.Errorf("Caddy printed the secret: %s", out)
		}
	}
	if !missing(s.infoPath()) {
		t.Error("a refused config left a server-info file")
	}
}

// asJSON says how to run the site from the JSON that its Caddyfile means.
func (s site) asJSON(t *testing.T) launch {
	t.Helper()
	const stands = "{env.STANDS_FOR_A_LITERAL}"
	l := s.launch(t)
	writeFile(t, s.configPath(), strings.ReplaceAll(s.caddyfile(), literal, stands)) // (literals do not even adapt)
	l.args = []string{"adapt", "--adapter", "caddyfile", "--config", s.configPath()}
	cmd := l.command()
	adapted, err := cmd.Output()
	if err != nil {
		// "literal{env.X}" is refused by the adapter under any name.
		adapted = []byte(strings.ReplaceAll(string(s.adaptedByHand(t)), operatorKey, ""))
	}
	config := strings.ReplaceAll(string(adapted), stands, literal)
	if !json.Valid([]byte(config)) {
		t.Fatalf("not JSON: %s", config)
	}
	path := filepath.Join(s.dir, "caddy.json")
	writeFile(t, path, config)
	l.args = []string{"run", "--config", path}
	return l
}

// adaptedByHand is the JSON of the plainest site, with the site's own key option.
func (s site) adaptedByHand(t *testing.T) []byte {
	t.Helper()
	raw, err := json.Marshal(map[string]any{
		"admin": map[string]any{"disabled": true},
		"apps": map[string]any{"http": map[string]any{"servers": map[string]any{"s": map[string]any{
			"listen": []string{"127.0.0.1:0"},
			"routes": []any{map[string]any{"handle": []any{map[string]any{
				"handler": "responses_proxy_gate", "upstream_bearer": strings.TrimPrefix(s.key, "upstream_bearer "),
			}}}},
		}}}},
	})
	must(t, err)
	return raw
}

func TestEachRiskCanBeTakenKnowingly(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	for _, d := range dangers(freePort(t)) {
		if d.cannotRun {
			continue
		}
		t.Run(d.harm, func(t *testing.T) {
			t.Parallel()
			s := site{}.with(t, up)
			d.change(&s)
			// A port of its own: cases of the other test have the first one.
			old := regexp.MustCompile(`:[1-9][0-9]{3,4}\b`)
			own := fmt.Sprintf(":%d", freePort(t))
			s.admin, s.address = old.ReplaceAllString(s.admin, own), old.ReplaceAllString(s.address, own)
			s.gate += "\ninsecure_allow " + d.risk
			g := startGate(t, up, s)
			if got := g.do(t); got.status != 200 {
				t.Errorf("a request with the token got %d %s", got.status, got.body)
			}
		})
	}
}

func TestOneRiskDoesNotAllowAnother(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	all := dangers(freePort(t))
	for _, risk := range []string{"remote_listener", "tcp_admin", "logged_token", "literal_secret"} {
		i := slices.IndexFunc(all, func(d danger) bool { return d.risk == risk && !d.cannotRun })
		t.Run(risk, func(t *testing.T) {
			t.Parallel()
			s := site{}.with(t, up)
			all[i].change(&s)
			var others []string
			for _, other := range []string{"remote_listener", "tcp_admin", "logged_token", "literal_secret"} {
				if other != risk {
					others = append(others, other)
				}
			}
			s.gate += "\ninsecure_allow " + strings.Join(others, " ")
			all[i].isRefused(t, s, s.launch(t))
		})
	}
}

func TestSafeSurroundingsAreTaken(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	for name, change := range map[string]func(*site){
		"an access log with the filter":   func(s *site) { s.global, s.before = "log {\n"+filtered+"}", "log" },
		"an access log that goes nowhere": func(s *site) { s.before = "log {\noutput discard\n}" },
		"an access log of the site's own, filtered, beside the default log": func(s *site) {
			// (The default log gets no access then: Caddy excludes it there.)
			s.before = "log {\noutput file " + filepath.Join(s.dir, "access.log") + "\n" + filtered + "}"
		},
		"debug with the filter":                func(s *site) { s.global = "debug\nlog {\n" + filtered + "}" },
		"an admin socket for its owner":        func(s *site) { s.admin = "unix/" + s.adminSocket() },
		"an admin socket with mode 0600":       func(s *site) { s.admin = "unix/" + s.adminSocket() + "|0600" },
		"localhost":                            func(s *site) { s.bind = "localhost" },
		"another loopback address":             func(s *site) { s.bind = "127.0.0.5" },
		"an empty line of options: no options": func(s *site) { s.gate = "" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := site{}.with(t, up)
			change(&s)
			g := startGate(t, up, s)
			if s.bind == "127.0.0.5" {
				g.addr = fmt.Sprintf("127.0.0.5:%d", g.info.Port)
			}
			if conn, err := net.Dial("tcp", g.addr); err == nil {
				_ = conn.Close()
			} else if s.bind == "localhost" {
				t.Skip("localhost is not 127.0.0.1 here: ", err)
			}
			if got := g.do(t); got.status != 200 {
				t.Errorf("a request with the token got %d %s", got.status, got.body)
			}
		})
	}
}

func TestAdaptDoesNotPrintALiteralSecret(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	for _, d := range dangers(1) {
		if d.risk != "literal_secret" {
			continue
		}
		t.Run(d.harm, func(t *testing.T) {
			t.Parallel()
			s := site{}.with(t, up)
			d.change(&s)
			l := s.launch(t)
			l.args = append([]string{"adapt"}, l.args[1:]...)
			out, code := run(t, l)
			if code == 0 || strings.Contains(out, "sk-literal") {
				t.Errorf("exit code %d: %s", code, out)
			}
		})
	}
}
