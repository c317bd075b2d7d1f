//go:build unix

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// edits is a request's difference from one that passes.
type edits []func(*http.Request)

func host(name string) func(*http.Request) {
	return func(r *http.Request) { r.Host = name }
}

var noToken = gatetest.NoHeader("Authorization")

// attack is a request and the refusal that it must get.
type attack struct {
	harm   string
	edits  edits
	status int
	code   string
}

func refusesAll(t *testing.T, g *gatetest.Gate, attacks []attack) {
	for _, a := range attacks {
		t.Run(a.harm, func(t *testing.T) {
			g.Up.Forget()
			got := g.Do(t, a.edits...)
			gatetest.Refused(t, got, a.status, a.code)
			gatetest.NotCORS(t, got)
			g.Up.SawNothing(t)
			for _, secret := range []string{g.Token, gatetest.OperatorKey, "attacker"} {
				if strings.Contains(got.Body, secret) {
					t.Errorf("the answer quotes %q: %s", secret, got.Body)
				}
			}
		})
	}
}

// The report openai/codex#17648 shows three commands that spend the key of
// codex responses-api-proxy.
func TestReport17648CannotSpendTheKey(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	text := gatetest.SetHeader("Content-Type", "text/plain")
	evil := gatetest.SetHeader("Origin", "https://attacker.example")

	refusesAll(t, g, []attack{
		{"a web page posts text/plain without a preflight", edits{noToken, evil, text}, 403, "origin_not_allowed"},
		{"a local program posts text/plain", edits{noToken, text}, 415, "content_type_not_json"},
		{"a local program posts JSON without the token", edits{noToken}, 401, "missing_token"},
		{"a local program guesses a token", edits{gatetest.SetHeader("Authorization", "Bearer "+strings.Repeat("A", 43))}, 401, "invalid_token"},
		{"a rebound DNS name makes the page same-origin", edits{noToken, host("attacker.example:" + portText(g))}, 403, "host_not_allowed"},
	})
	g.Works(t)
	g.Up.Only(t).HasKey(t)
}

func portText(g *gatetest.Gate) string {
	_, port, _ := strings.Cut(g.Addr, ":")
	return port
}

func TestBrowserPagesCannotReachTheUpstreamEvenWithTheToken(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	get := func(r *http.Request) { r.Method, r.Body, r.ContentLength = "GET", nil, 0 }
	options := func(r *http.Request) { r.Method, r.Body, r.ContentLength = "OPTIONS", nil, 0 }

	var attacks []attack
	for name, origin := range map[string]string{
		"a page on another site":                      "https://attacker.example",
		"a page served from loopback":                 "http://127.0.0.1:3000",
		"a page on localhost":                         "http://localhost:" + portText(g),
		"the gate's own origin":                       "http://" + g.Addr,
		"a sandboxed frame":                           "null",
		"an empty Origin":                             "",
		"a browser extension":                         "chrome-extension://abcdefghijklmnop",
		"a local file":                                "file://",
		"an Origin that begins like an allowed Host":  "http://127.0.0.1.attacker.example",
		"an Origin with credentials before the host ": "http://localhost@attacker.example",
	} {
		attacks = append(attacks, attack{name, edits{gatetest.SetHeader("Origin", origin)}, 403, "origin_not_allowed"})
	}
	attacks = append(
		attacks,
		attack{"a page sends a preflight", edits{options, noToken, gatetest.SetHeader("Origin", "https://attacker.example"), gatetest.SetHeader("Access-Control-Request-Method", "POST")}, 403, "origin_not_allowed"},
		attack{"a page opens a WebSocket", edits{get, gatetest.SetHeader("Origin", "https://attacker.example"), gatetest.SetHeader("Connection", "Upgrade"), gatetest.SetHeader("Upgrade", "websocket")}, 403, "origin_not_allowed"},
		attack{"two Origins are sent", edits{func(r *http.Request) { r.Header["Origin"] = []string{"https://a.example", "https://b.example"} }}, 403, "origin_not_allowed"},
	)
	for _, value := range []string{"cross-site", "same-site", "same-origin", "", "None", "none, cross-site", "\"none\""} {
		attacks = append(
			attacks,
			attack{"a page sends Sec-Fetch-Site " + value + " without Origin", edits{gatetest.SetHeader("Sec-Fetch-Site", value)}, 403, "cross_site_request"},
			attack{"an img tag sends Sec-Fetch-Site " + value, edits{get, noToken, gatetest.SetHeader("Sec-Fetch-Site", value), gatetest.SetHeader("Sec-Fetch-Mode", "no-cors")}, 403, "cross_site_request"},
		)
	}
	attacks = append(attacks, attack{"two Sec-Fetch-Site headers, the first none", edits{func(r *http.Request) {
		r.Header["Sec-Fetch-Site"] = []string{"none", "cross-site"}
	}}, 403, "cross_site_request"})
	refusesAll(t, g, attacks)
}

func TestRebindingHostsAreRefused(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	var attacks []attack
	for _, name := range []string{
		"attacker.example", "attacker.example:80", "localhost.attacker.example", "127.0.0.1.nip.io",
		"localhost.", "127.0.0.1.", "0.0.0.0", "[::]", "128.0.0.1", "10.0.0.1", "[::2]", "[::ffff:127.0.0.1]",
		"2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost:80:80", "localhost:", "localhost:http",
		"localhost:999999", "LOCALHOST.attacker.example", "api.openai.com", "127.0.0.1,attacker.example",
	} {
		attacks = append(attacks, attack{"Host " + name, edits{host(name)}, 403, "host_not_allowed"})
	}
	refusesAll(t, g, attacks)

	for _, name := range []string{"localhost", "LocalHost:1", "127.0.0.1", "127.0.0.1:80", "127.200.3.4:5", "[::1]", "[::1]:8080"} {
		t.Run("loopback Host "+name+" passes", func(t *testing.T) {
			if got := g.Do(t, host(name)); got.Status != 200 {
				t.Errorf("status %d %s", got.Status, got.Body)
			}
		})
	}
}

func TestAllowHostAddsNamesAndNothingElse(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "allow_host gate.internal 10.1.2.3"})
	for _, name := range []string{"gate.internal", "GATE.internal:8080", "10.1.2.3", "localhost"} {
		if got := g.Do(t, host(name)); got.Status != 200 {
			t.Errorf("Host %s: status %d %s", name, got.Status, got.Body)
		}
	}
	refusesAll(t, g, []attack{
		{"a name below an allowed one", edits{host("x.gate.internal")}, 403, "host_not_allowed"},
		{"a name that ends like an allowed one", edits{host("xgate.internal")}, 403, "host_not_allowed"},
		{"a name that begins like an allowed one", edits{host("gate.internal.attacker.example")}, 403, "host_not_allowed"},
	})
}

func TestSafelistedContentTypesNeverPass(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	var attacks []attack
	for _, value := range []string{
		"text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
		"text/plain; application/json", "text/plain;a=application/json", "application/json, text/plain", "text/plain, application/json",
		"application/json;, text/plain", "application/json; a=\"b, text/plain\"", "application/jsonp", "application/json-seq", "application/x-json",
		"text/json", "json", "*/*", "", " ", ";", "application/json/", "application /json", "application/ json", "\"application/json\"",
		"application/json text/plain", "applicatıon/json",
	} {
		attacks = append(attacks, attack{"Content-Type " + value, edits{gatetest.SetHeader("Content-Type", value)}, 415, "content_type_not_json"})
	}
	attacks = append(
		attacks,
		attack{"no Content-Type", edits{gatetest.NoHeader("Content-Type")}, 415, "content_type_not_json"},
		attack{"no Content-Type and a chunked body", edits{gatetest.NoHeader("Content-Type"), func(r *http.Request) { r.ContentLength = -1 }}, 415, "content_type_not_json"},
	)
	refusesAll(t, g, attacks)

	for _, value := range []string{"application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8", "application/json ; x=y"} {
		t.Run(value+" passes", func(t *testing.T) {
			if got := g.Do(t, gatetest.SetHeader("Content-Type", value)); got.Status != 200 {
				t.Errorf("status %d %s", got.Status, got.Body)
			}
		})
	}
}

func TestEveryFaultIsAnsweredInTheContractsOrder(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	// Each edit is a fault. A request with this one and all later faults gets
	// this one's answer: nobody learns about what comes after.
	faults := []struct {
		harm   string
		edit   func(*http.Request)
		status int
		code   string
	}{
		{"origin", gatetest.SetHeader("Origin", "https://attacker.example"), 403, "origin_not_allowed"},
		{"fetch metadata", gatetest.SetHeader("Sec-Fetch-Site", "cross-site"), 403, "cross_site_request"},
		{"host", host("attacker.example"), 403, "host_not_allowed"},
		{"content type", gatetest.SetHeader("Content-Type", "text/plain"), 415, "content_type_not_json"},
		{"token", gatetest.SetHeader("X-Proxy-Token", "wrong"), 401, "invalid_token"},
		{"route", func(r *http.Request) { r.URL.Path = "/v1/models" }, 403, "route_not_allowed"},
	}
	var attacks []attack
	for i, fault := range faults {
		all := edits{}
		for _, later := range faults[i:] {
			all = append(all, later.edit)
		}
		attacks = append(attacks, attack{"the first fault is the " + fault.harm, all, fault.status, fault.code})
	}
	refusesAll(t, g, attacks)
}

func TestTokensAreTakenFromOnePlaceOnly(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	good, authorization, proxyToken := g.Token, "Authorization", "X-Proxy-Token"
	refusesAll(t, g, []attack{
		{"X-Proxy-Token decides over a good Authorization", edits{gatetest.SetHeader(proxyToken, "wrong")}, 401, "invalid_token"},
		{"an empty X-Proxy-Token decides too", edits{gatetest.SetHeader(proxyToken, "")}, 401, "missing_token"},
		{"the token as Basic", edits{gatetest.SetHeader(authorization, "Basic "+good)}, 401, "missing_token"},
		{"the token without a scheme", edits{gatetest.SetHeader(authorization, good)}, 401, "missing_token"},
		{"the scheme without a token", edits{gatetest.SetHeader(authorization, "Bearer")}, 401, "missing_token"},
		{"the scheme and a space", edits{gatetest.SetHeader(authorization, "Bearer ")}, 401, "missing_token"},
		{"the token's first half", edits{gatetest.SetHeader(proxyToken, good[:20])}, 401, "invalid_token"},
		{"the token and one more character", edits{gatetest.SetHeader(proxyToken, good+"A")}, 401, "invalid_token"},
		{"the token in other case", edits{gatetest.SetHeader(proxyToken, strings.ToUpper(good))}, 401, "invalid_token"},
		{"the token with base64 padding", edits{gatetest.SetHeader(proxyToken, good+"=")}, 401, "invalid_token"},
		{"Bearer in X-Proxy-Token", edits{gatetest.SetHeader(proxyToken, "Bearer "+good)}, 401, "invalid_token"},
		{"the operator's key as a token", edits{gatetest.SetHeader(proxyToken, gatetest.OperatorKey)}, 401, "invalid_token"},
		{"the token in another header", edits{noToken, gatetest.SetHeader("Api-Key", good)}, 401, "missing_token"},
		{"the token in a cookie", edits{noToken, gatetest.SetHeader("Cookie", "token="+good)}, 401, "missing_token"},
		{"the token in the query", edits{noToken, func(r *http.Request) { r.URL.RawQuery = "token=" + good }}, 401, "missing_token"},
		{"a token of 8 KiB", edits{gatetest.SetHeader(proxyToken, strings.Repeat("x", 8<<10))}, 401, "invalid_token"},
	})
	for name, edit := range map[string]func(*http.Request){
		"X-Proxy-Token decides over a wrong Authorization": func(r *http.Request) {
			r.Header.Set(authorization, "Bearer sk-of-the-callers-library")
			r.Header.Set(proxyToken, good)
		},
		"X-Proxy-Token alone": func(r *http.Request) {
			r.Header.Del(authorization)
			r.Header.Set(proxyToken, good)
		},
		"bearer in lower case":  gatetest.SetHeader(authorization, "bearer "+good),
		"bearer and two spaces": gatetest.SetHeader(authorization, "Bearer  "+good),
		"Node's Sec-Fetch-Mode": gatetest.SetHeader("Sec-Fetch-Mode", "cors"),
		"Sec-Fetch-Site none":   gatetest.SetHeader("Sec-Fetch-Site", "none"),
	} {
		t.Run(name+" passes", func(t *testing.T) {
			g.Up.Forget()
			if got := g.Do(t, edit); got.Status != 200 {
				t.Fatalf("status %d %s", got.Status, got.Body)
			}
			g.Up.Only(t).HasKey(t)
			g.Up.SawNo(t, good)
		})
	}
}
