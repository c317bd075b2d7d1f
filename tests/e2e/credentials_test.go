//go:build unix

package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// stolen is a header's worth of a caller's credential. The upstream must
// never see the word.
const stolen = "stolen-from-the-caller"

func withCallerCredentials(r *http.Request) {
	for name, value := range map[string]string{
		"Authorization":       "Bearer sk-" + stolen,
		"Proxy-Authorization": "Basic " + stolen,
		"Cookie":              "session=" + stolen,
		"Api-Key":             stolen,
		"X-Api-Key":           stolen,
		// (a library may offer a key where no WebSocket is opened)
		"Sec-Websocket-Protocol": "realtime, openai-insecure-api-key." + stolen + ", OpenAI-Insecure-API-Key." + stolen,
	} {
		r.Header.Set(name, value)
	}
}

func TestCallersCredentialsNeverGoUpstream(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	for name, edit := range map[string]func(*http.Request){
		"once each": func(*http.Request) {},
		"twice each": func(r *http.Request) {
			for _, name := range []string{"Proxy-Authorization", "Cookie", "Api-Key", "X-Api-Key", "Sec-Websocket-Protocol"} {
				r.Header[name] = append(r.Header[name], r.Header[name]...)
			}
		},
		"named in Connection": func(r *http.Request) {
			r.Header.Set("Connection", "Authorization, Cookie, Api-Key, X-Api-Key, X-Proxy-Token")
		},
	} {
		t.Run(name, func(t *testing.T) {
			g.up.forget()
			token := func(r *http.Request) { r.Header.Set("X-Proxy-Token", g.token) }
			if got := g.do(t, token, withCallerCredentials, edit); got.status != 200 {
				t.Fatalf("status %d %s", got.status, got.body)
			}
			seen := g.up.only(t)
			seen.hasKey(t)
			for _, name := range []string{"X-Proxy-Token", "Proxy-Authorization", "Cookie", "Api-Key", "X-Api-Key"} {
				if values, ok := seen.header[name]; ok {
					t.Errorf("%s upstream is %q", name, values)
				}
			}
			g.up.sawNo(t, stolen)
			g.up.sawNo(t, g.token)
			if n := strings.Count(g.up.bytesSeen(), operatorKey); n != 1 {
				t.Errorf("the key went upstream %d times, want 1", n)
			}
		})
	}
}

func TestOtherHeadersAndTheBodyGoUpstreamUnchanged(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	const body = "{\"input\":\"h\u00e9llo \\u0000 \x01 \xff\"}  \r\n"
	got := g.do(t, setHeader("Openai-Beta", "responses=v1"), setHeader("User-Agent", "codex/0.169.0"), func(r *http.Request) {
		r.Body = http.NoBody
		replaced, _ := http.NewRequest(http.MethodPost, "http://x", strings.NewReader(body))
		r.Body, r.ContentLength = replaced.Body, replaced.ContentLength
	})
	if got.status != 200 {
		t.Fatalf("status %d %s", got.status, got.body)
	}
	seen := g.up.only(t)
	if seen.body != body || seen.header.Get("Openai-Beta") != "responses=v1" || seen.header.Get("User-Agent") != "codex/0.169.0" || seen.header.Get("Content-Type") != "application/json" {
		t.Errorf("upstream got %+v", seen)
	}
	if got.header.Get("X-Responses-Proxy-Gate") != "" {
		t.Error("an upstream's answer has the gate's header")
	}
}

func TestUpstreamHeaderCarriesTheBareKey(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{
		global: "log {\nformat filter {\nrequest>headers>Api-Key delete\n}\n}",
		gate:   "upstream_header api-key",
	})
	g.works(t)
	if got := g.do(t, setHeader("X-Proxy-Token", g.token), withCallerCredentials, setHeader("Connection", "close, api-key")); got.status != 200 {
		t.Fatalf("status %d %s", got.status, got.body)
	}
	seen := g.up.requests()
	if len(seen) != 2 {
		t.Fatalf("the upstream saw %d requests", len(seen))
	}
	for _, request := range seen {
		if values := request.header["Api-Key"]; len(values) != 1 || values[0] != operatorKey {
			t.Errorf("Api-Key upstream is %q", values)
		}
		if values, ok := request.header["Authorization"]; ok {
			t.Errorf("Authorization upstream is %q", values)
		}
	}
	g.up.sawNo(t, stolen)
	g.up.sawNo(t, g.token)
}

func TestAFixedTokenIsTakenFromTheEnvironmentAndOnlyItWorks(t *testing.T) {
	t.Parallel()
	const fixed = "fleet-token-fleet-token-fleet-token-1"
	g := startGate(t, newUpstream(t, nil), site{gate: "token {env.GATE_TOKEN}", env: []string{"GATE_TOKEN=" + fixed}})
	if g.token != fixed {
		t.Errorf("server-info has the token %q", g.token)
	}
	g.works(t)
	refused(t, g.do(t, setHeader("X-Proxy-Token", fixed+"x")), 401, "invalid_token")
	if out := g.out.String(); strings.Contains(out, fixed) {
		t.Error("Caddy printed the fixed token")
	}
}

func TestTwoGatesDoNotTakeEachOthersTokens(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	s := site{}.with(t, up)
	second := site{dir: tempDir(t), gate: "name second"}.with(t, up)
	// The second site goes into the first one's Caddyfile.
	_, other, _ := strings.Cut(second.caddyfile(), "http://:0")
	s.proxy = "}\n}\nhttp://:0 " + strings.Replace(strings.TrimSuffix(strings.TrimSpace(other), "}\n}"), "bind 127.0.0.1", "bind 127.0.0.2", 1)
	g := startGate(t, up, s)
	two := readInfo(t, second.infoPath())
	if two.AuthToken == g.token || len(two.AuthToken) != 43 {
		t.Fatalf("tokens %q and %q", g.token, two.AuthToken)
	}
	g.works(t)
	refused(t, g.do(t, setHeader("X-Proxy-Token", two.AuthToken)), 401, "invalid_token")
}
