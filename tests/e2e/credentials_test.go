//go:build unix

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
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
		// what other APIs and the gateways in front of them take for a credential
		"Ocp-Apim-Subscription-Key": stolen,
		"X-Goog-Api-Key":            stolen,
		"X-Auth-Token":              stolen,
		"Helicone-Auth":             "Bearer " + stolen,
		"X-Amz-Security-Token":      stolen,
		"Cf-Access-Jwt-Assertion":   stolen,
		// (a library may offer a key where no WebSocket is opened)
		"Sec-Websocket-Protocol": "realtime, openai-insecure-api-key." + stolen + ", OpenAI-Insecure-API-Key." + stolen,
	} {
		r.Header.Set(name, value)
	}
}

func TestCallersCredentialsNeverGoUpstream(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
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
			g.Up.Forget()
			token := func(r *http.Request) { r.Header.Set("X-Proxy-Token", g.Token) }
			if got := g.Do(t, token, withCallerCredentials, edit); got.Status != 200 {
				t.Fatalf("status %d %s", got.Status, got.Body)
			}
			seen := g.Up.Only(t)
			seen.HasKey(t)
			for _, name := range []string{"X-Proxy-Token", "Proxy-Authorization", "Cookie", "Api-Key", "X-Api-Key"} {
				if values, ok := seen.Header[name]; ok {
					t.Errorf("%s upstream is %q", name, values)
				}
			}
			g.Up.SawNo(t, stolen)
			g.Up.SawNo(t, g.Token)
			if n := strings.Count(g.Up.BytesSeen(), gatetest.OperatorKey); n != 1 {
				t.Errorf("the key went upstream %d times, want 1", n)
			}
		})
	}
}

func TestOtherHeadersAndTheBodyGoUpstreamUnchanged(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	const body = "{\"input\":\"h\u00e9llo \\u0000 \x01 \xff\"}  \r\n"
	got := g.Do(t, gatetest.SetHeader("Openai-Beta", "responses=v1"), gatetest.SetHeader("User-Agent", "codex/0.169.0"), func(r *http.Request) {
		r.Body = http.NoBody
		replaced, _ := http.NewRequest(http.MethodPost, "http://x", strings.NewReader(body))
		r.Body, r.ContentLength = replaced.Body, replaced.ContentLength
	})
	if got.Status != 200 {
		t.Fatalf("status %d %s", got.Status, got.Body)
	}
	seen := g.Up.Only(t)
	if seen.Body != body || seen.Header.Get("Openai-Beta") != "responses=v1" || seen.Header.Get("User-Agent") != "codex/0.169.0" || seen.Header.Get("Content-Type") != "application/json" {
		t.Errorf("upstream got %+v", seen)
	}
	if got.Header.Get("X-Responses-Proxy-Gate") != "" {
		t.Error("an upstream's answer has the gate's header")
	}
}

func TestUpstreamHeaderCarriesTheBareKey(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Global: "log {\nformat filter {\nrequest>headers>Api-Key delete\n}\n}",
		Gate:   "upstream_header api-key",
	})
	g.Works(t)
	if got := g.Do(t, gatetest.SetHeader("X-Proxy-Token", g.Token), withCallerCredentials, gatetest.SetHeader("Connection", "close, api-key")); got.Status != 200 {
		t.Fatalf("status %d %s", got.Status, got.Body)
	}
	seen := g.Up.Requests()
	if len(seen) != 2 {
		t.Fatalf("the upstream saw %d requests", len(seen))
	}
	for _, request := range seen {
		if values := request.Header["Api-Key"]; len(values) != 1 || values[0] != gatetest.OperatorKey {
			t.Errorf("Api-Key upstream is %q", values)
		}
		if values, ok := request.Header["Authorization"]; ok {
			t.Errorf("Authorization upstream is %q", values)
		}
	}
	g.Up.SawNo(t, stolen)
	g.Up.SawNo(t, g.Token)
}

func TestAFixedTokenIsTakenFromTheEnvironmentAndOnlyItWorks(t *testing.T) {
	t.Parallel()
	const fixed = "fleet-token-fleet-token-fleet-token-1"
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "token {env.GATE_TOKEN}", Env: []string{"GATE_TOKEN=" + fixed}})
	if g.Token != fixed {
		t.Errorf("server-info has the token %q", g.Token)
	}
	g.Works(t)
	gatetest.Refused(t, g.Do(t, gatetest.SetHeader("X-Proxy-Token", fixed+"x")), 401, "invalid_token")
	if out := g.Output.String(); strings.Contains(out, fixed) {
		t.Error("Caddy printed the fixed token")
	}
}

func TestTwoGatesDoNotTakeEachOthersTokens(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	s := gatetest.Site{}.With(t, up)
	second := gatetest.Site{Dir: gatetest.TempDir(t), Gate: "name second"}.With(t, up)
	// The second site goes into the first one's Caddyfile.
	_, other, _ := strings.Cut(second.Caddyfile(), "http://:0")
	s.Proxy = "}\n}\nhttp://:0 " + strings.Replace(strings.TrimSuffix(strings.TrimSpace(other), "}\n}"), "bind 127.0.0.1", "bind 127.0.0.2", 1)
	g := gatetest.StartGate(t, up, s)
	two := gatetest.ReadInfo(t, second.InfoPath())
	if two.AuthToken == g.Token || len(two.AuthToken) != 43 {
		t.Fatalf("tokens %q and %q", g.Token, two.AuthToken)
	}
	g.Works(t)
	gatetest.Refused(t, g.Do(t, gatetest.SetHeader("X-Proxy-Token", two.AuthToken)), 401, "invalid_token")
}

// whole is what the other side may take for the request's method or URL.
var whole = []string{
	"X-HTTP-Method-Override", "X-Method-Override", "X-HTTP-Method", "X-Original-URL", "X-Rewrite-URL",
	"X-Forwarded-Prefix", "X-Forwarded-Path", "X-Forwarded-Uri", "X-Host", "Helicone-Target-URL",
}

func TestACallerTellsTheUpstreamNoOtherMethodOrURL(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	g := gatetest.StartGate(t, up, gatetest.Site{})
	override := func(r *http.Request) {
		for _, name := range whole {
			r.Header.Set(name, "/v1/files/"+stolen)
		}
	}
	if got := g.Do(t, override); got.Status != 200 {
		t.Fatalf("status %d %s", got.Status, got.Body)
	}
	up.SawNo(t, stolen)
}

func TestTheOperatorsLeaveLetsACallerChooseItsProject(t *testing.T) {
	t.Parallel()
	choose := func(r *http.Request) {
		r.Header.Set("OpenAI-Organization", "org-of-the-caller")
		r.Header.Set("OpenAI-Project", "project-of-the-caller")
		r.Header.Set("OpenAI-Beta", "responses=v1")
	}
	for name, c := range map[string]struct {
		gate         string
		org, project string
	}{
		"without it":  {"", "", ""},
		"for one":     {"allow_header OpenAI-Project", "", "project-of-the-caller"},
		"for the two": {"allow_header openai-project OpenAI-Organization", "org-of-the-caller", "project-of-the-caller"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: c.gate})
			if got := g.Do(t, choose); got.Status != 200 {
				t.Fatalf("status %d %s", got.Status, got.Body)
			}
			seen := g.Up.Only(t)
			seen.HasKey(t)
			if got := seen.Header.Get("OpenAI-Organization"); got != c.org {
				t.Errorf("the upstream sees the organization %q, want %q", got, c.org)
			}
			if got := seen.Header.Get("OpenAI-Project"); got != c.project {
				t.Errorf("the upstream sees the project %q, want %q", got, c.project)
			}
			if seen.Header.Get("OpenAI-Beta") == "" {
				t.Error("OpenAI-Beta is lost")
			}
		})
	}
}
