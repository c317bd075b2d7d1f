//go:build unix

package e2e

import (
	"net/http"
	"strings"
	"testing"
)

// edits is a request's difference from one that passes.
type edits []func(*http.Request)

func host(name string) func(*http.Request) {
	return func(r *http.Request) { r.Host = name }
}

var noToken = noHeader("Authorization")

// attack is a request and the refusal that it must get.
type attack struct {
	harm   string
	edits  edits
	status int
	code   string
}

func (g *gate) refusesAll(t *testing.T, attacks []attack) {
	for _, a := range attacks {
		t.Run(a.harm, func(t *testing.T) {
			g.up.forget()
			got := g.do(t, a.edits...)
			refused(t, got, a.status, a.code)
			notCORS(t, got)
			g.up.sawNothing(t)
			for _, secret := range []string{g.token, operatorKey, "attacker"} {
				if strings.Contains(got.body, secret) {
					t.Errorf("the answer quotes %q: %s", secret, got.body)
				}
			}
		})
	}
}

// The report openai/codex#17648 shows three commands that spend the key of
// codex responses-api-proxy.
func TestReport17648CannotSpendTheKey(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	text := setHeader("Content-Type", "text/plain")
	evil := setHeader("Origin", "https://attacker.example")

	g.refusesAll(t, []attack{
		{"a web page posts text/plain without a preflight", edits{noToken, evil, text}, 403, "origin_not_allowed"},
		{"a local program posts text/plain", edits{noToken, text}, 415, "content_type_not_json"},
		{"a local program posts JSON without the token", edits{noToken}, 401, "missing_token"},
		{"a local program guesses a token", edits{setHeader("Authorization", "Bearer "+strings.Repeat("A", 43))}, 401, "invalid_token"},
		{"a rebound DNS name makes the page same-origin", edits{noToken, host("attacker.example:" + g.portText())}, 403, "host_not_allowed"},
	})
	g.works(t)
	g.up.only(t).hasKey(t)
}

func (g *gate) portText() string {
	_, port, _ := strings.Cut(g.addr, ":")
	return port
}

func TestBrowserPagesCannotReachTheUpstreamEvenWithTheToken(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	get := func(r *http.Request) { r.Method, r.Body, r.ContentLength = "GET", nil, 0 }
	options := func(r *http.Request) { r.Method, r.Body, r.ContentLength = "OPTIONS", nil, 0 }

	var attacks []attack
	for name, origin := range map[string]string{
		"a page on another site":                      "https://attacker.example",
		"a page served from loopback":                 "http://127.0.0.1:3000",
		"a page on localhost":                         "http://localhost:" + g.portText(),
		"the gate's own origin":                       "http://" + g.addr,
		"a sandboxed frame":                           "null",
		"an empty Origin":                             "",
		"a browser extension":                         "chrome-extension://abcdefghijklmnop",
		"a local file":                                "file://",
		"an Origin that begins like an allowed Host":  "http://127.0.0.1.attacker.example",
		"an Origin with credentials before the host ": "http://localhost@attacker.example",
	} {
		attacks = append(attacks, attack{name, edits{setHeader("Origin", origin)}, 403, "origin_not_allowed"})
	}
	attacks = append(
		attacks,
		attack{"a page sends a preflight", edits{options, noToken, setHeader("Origin", "https://attacker.example"), setHeader("Access-Control-Request-Method", "POST")}, 403, "origin_not_allowed"},
		attack{"a page opens a WebSocket", edits{get, setHeader("Origin", "https://attacker.example"), setHeader("Connection", "Upgrade"), setHeader("Upgrade", "websocket")}, 403, "origin_not_allowed"},
		attack{"two Origins are sent", edits{func(r *http.Request) { r.Header["Origin"] = []string{"https://a.example", "https://b.example"} }}, 403, "origin_not_allowed"},
	)
	for _, value := range []string{"cross-site", "same-site", "same-origin", "", "None", "none, cross-site", "\"none\""} {
		attacks = append(
			attacks,
			attack{"a page sends Sec-Fetch-Site " + value + " without Origin", edits{setHeader("Sec-Fetch-Site", value)}, 403, "cross_site_request"},
			attack{"an img tag sends Sec-Fetch-Site " + value, edits{get, noToken, setHeader("Sec-Fetch-Site", value), setHeader("Sec-Fetch-Mode", "no-cors")}, 403, "cross_site_request"},
		)
	}
	attacks = append(attacks, attack{"two Sec-Fetch-Site headers, the first none", edits{func(r *http.Request) {
		r.Header["Sec-Fetch-Site"] = []string{"none", "cross-site"}
	}}, 403, "cross_site_request"})
	g.refusesAll(t, attacks)
}

func TestRebindingHostsAreRefused(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	var attacks []attack
	for _, name := range []string{
		"attacker.example", "attacker.example:80", "localhost.attacker.example", "127.0.0.1.nip.io",
		"localhost.", "127.0.0.1.", "0.0.0.0", "[::]", "128.0.0.1", "10.0.0.1", "[::2]", "[::ffff:127.0.0.1]",
		"2130706433", "0x7f000001", "0177.0.0.1", "127.1", "localhost:80:80", "localhost:", "localhost:http",
		"localhost:999999", "LOCALHOST.attacker.example", "api.openai.com", "127.0.0.1,attacker.example",
	} {
		attacks = append(attacks, attack{"Host " + name, edits{host(name)}, 403, "host_not_allowed"})
	}
	g.refusesAll(t, attacks)

	for _, name := range []string{"localhost", "LocalHost:1", "127.0.0.1", "127.0.0.1:80", "127.200.3.4:5", "[::1]", "[::1]:8080"} {
		t.Run("loopback Host "+name+" passes", func(t *testing.T) {
			if got := g.do(t, host(name)); got.status != 200 {
				t.Errorf("status %d %s", got.status, got.body)
			}
		})
	}
}

func TestAllowHostAddsNamesAndNothingElse(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{gate: "allow_host gate.internal 10.1.2.3"})
	for _, name := range []string{"gate.internal", "GATE.internal:8080", "10.1.2.3", "localhost"} {
		if got := g.do(t, host(name)); got.status != 200 {
			t.Errorf("Host %s: status %d %s", name, got.status, got.body)
		}
	}
	g.refusesAll(t, []attack{
		{"a name below an allowed one", edits{host("x.gate.internal")}, 403, "host_not_allowed"},
		{"a name that ends like an allowed one", edits{host("xgate.internal")}, 403, "host_not_allowed"},
		{"a name that begins like an allowed one", edits{host("gate.internal.attacker.example")}, 403, "host_not_allowed"},
	})
}

func TestSafelistedContentTypesNeverPass(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	var attacks []attack
	for _, value := range []string{
		"text/plain", "text/plain;charset=UTF-8", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x",
		"text/plain; application/json", "text/plain;a=application/json", "application/json, text/plain", "text/plain, application/json",
		"application/json;, text/plain", "application/json; a=\"b, text/plain\"", "application/jsonp", "application/json-seq", "application/x-json",
		"text/json", "json", "*/*", "", " ", ";", "application/json/", "application /json", "application/ json", "\"application/json\"",
		"application/json text/plain", "applicatıon/json",
	} {
		attacks = append(attacks, attack{"Content-Type " + value, edits{setHeader("Content-Type", value)}, 415, "content_type_not_json"})
	}
	attacks = append(
		attacks,
		attack{"no Content-Type", edits{noHeader("Content-Type")}, 415, "content_type_not_json"},
		attack{"no Content-Type and a chunked body", edits{noHeader("Content-Type"), func(r *http.Request) { r.ContentLength = -1 }}, 415, "content_type_not_json"},
	)
	g.refusesAll(t, attacks)

	for _, value := range []string{"application/json", "Application/JSON", "application/json; charset=utf-8", "application/json;charset=UTF-8", "application/json ; x=y"} {
		t.Run(value+" passes", func(t *testing.T) {
			if got := g.do(t, setHeader("Content-Type", value)); got.status != 200 {
				t.Errorf("status %d %s", got.status, got.body)
			}
		})
	}
}

func TestEveryFaultIsAnsweredInTheContractsOrder(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	// Each edit is a fault. A request with this one and all later faults gets
	// this one's answer: nobody learns about what comes after.
	faults := []struct {
		harm   string
		edit   func(*http.Request)
		status int
		code   string
	}{
		{"origin", setHeader("Origin", "https://attacker.example"), 403, "origin_not_allowed"},
		{"fetch metadata", setHeader("Sec-Fetch-Site", "cross-site"), 403, "cross_site_request"},
		{"host", host("attacker.example"), 403, "host_not_allowed"},
		{"content type", setHeader("Content-Type", "text/plain"), 415, "content_type_not_json"},
		{"token", setHeader("X-Proxy-Token", "wrong"), 401, "invalid_token"},
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
	g.refusesAll(t, attacks)
}

func TestTokensAreTakenFromOnePlaceOnly(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	good, authorization, proxyToken := g.token, "Authorization", "X-Proxy-Token"
	g.refusesAll(t, []attack{
		{"X-Proxy-Token decides over a good Authorization", edits{setHeader(proxyToken, "wrong")}, 401, "invalid_token"},
		{"an empty X-Proxy-Token decides too", edits{setHeader(proxyToken, "")}, 401, "missing_token"},
		{"the token as Basic", edits{setHeader(authorization, "Basic "+good)}, 401, "missing_token"},
		{"the token without a scheme", edits{setHeader(authorization, good)}, 401, "missing_token"},
		{"the scheme without a token", edits{setHeader(authorization, "Bearer")}, 401, "missing_token"},
		{"the scheme and a space", edits{setHeader(authorization, "Bearer ")}, 401, "missing_token"},
		{"the token's first half", edits{setHeader(proxyToken, good[:20])}, 401, "invalid_token"},
		{"the token and one more character", edits{setHeader(proxyToken, good+"A")}, 401, "invalid_token"},
		{"the token in other case", edits{setHeader(proxyToken, strings.ToUpper(good))}, 401, "invalid_token"},
		{"the token with base64 padding", edits{setHeader(proxyToken, good+"=")}, 401, "invalid_token"},
		{"Bearer in X-Proxy-Token", edits{setHeader(proxyToken, "Bearer "+good)}, 401, "invalid_token"},
		{"the operator's key as a token", edits{setHeader(proxyToken, operatorKey)}, 401, "invalid_token"},
		{"the token in another header", edits{noToken, setHeader("Api-Key", good)}, 401, "missing_token"},
		{"the token in a cookie", edits{noToken, setHeader("Cookie", "token="+good)}, 401, "missing_token"},
		{"the token in the query", edits{noToken, func(r *http.Request) { r.URL.RawQuery = "token=" + good }}, 401, "missing_token"},
		{"a token of 8 KiB", edits{setHeader(proxyToken, strings.Repeat("x", 8<<10))}, 401, "invalid_token"},
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
		"bearer in lower case":  setHeader(authorization, "bearer "+good),
		"bearer and two spaces": setHeader(authorization, "Bearer  "+good),
		"Node's Sec-Fetch-Mode": setHeader("Sec-Fetch-Mode", "cors"),
		"Sec-Fetch-Site none":   setHeader("Sec-Fetch-Site", "none"),
	} {
		t.Run(name+" passes", func(t *testing.T) {
			g.up.forget()
			if got := g.do(t, edit); got.status != 200 {
				t.Fatalf("status %d %s", got.status, got.body)
			}
			g.up.only(t).hasKey(t)
			g.up.sawNo(t, good)
		})
	}
}
