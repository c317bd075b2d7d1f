//go:build unix

package e2e

import (
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestOnlyTheExactRouteIsForwarded(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for _, target := range []string{
		"/", "/v1", "/v1/", "/v1/responses/", "/v1/models", "/v1/responses/compact", "/v1/responses/resp_1", "/v1/files",
		"//v1/responses", "/v1//responses", "/v1/responses//", "/./v1/responses", "/v1/./responses", "/v1/responses/.",
		"/v1/x/../responses", "/v1/responses/../responses", "/../v1/responses", "/v1/responses/..",
		"/v1%2Fresponses", "/v1%2fresponses", "/v1/respons%65s", "/%761/responses", "/v1/%2e/responses", "/v1/responses%2F",
		"/v1/responses%00", "/v1/responses%20", "/v1/responses%3F", "/v1/responses%23", "/v1/responses%0d%0a",
		"/v1/responses?", "/v1/responses?x", "/v1/responses?x=1", "/v1/responses?/v1/responses", "/v1/responses??",
		"/v1/responses;x", "/v1/responses;x=1", "/v1;/responses", "/v1/responses#x", `/v1\responses`, `\v1\responses`,
		"/V1/responses", "/v1/Responses", "/v1/responses:", "/v1/responses*", "/v1/\xc5\xbfresponses", "/v1/response\xc5\xbf",
		"http://127.0.0.1/v1/responses", "HTTP://127.0.0.1/v1/responses", "http://localhost:1/v1/responses", "https://127.0.0.1/v1/responses",
		"http://127.0.0.1//v1/responses", "http:///v1/responses", "http:/v1/responses",
	} {
		t.Run("POST "+target, func(t *testing.T) {
			g.Up.Forget()
			got := g.RawDo(t, "POST "+target+" HTTP/1.1", gatetest.RawGood(), gatetest.RawBody)
			switch got.Status {
			case http.StatusBadRequest: // Go's server finds it malformed
			case http.StatusForbidden:
				if code := got.Header.Get("X-Responses-Proxy-Gate"); code != "host_not_allowed" { // (an absolute target without a host)
					gatetest.Refused(t, got, 403, "route_not_allowed")
				}
			default:
				t.Errorf("status %d, want 403: %s", got.Status, got.Body)
			}
			g.Up.SawNothing(t)
		})
	}
	for _, method := range []string{
		"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "Post", "POSTS", "PROPFIND", "PURGE", "PRI",
	} {
		t.Run(method+" on the allowed path", func(t *testing.T) {
			g.Up.Forget()
			conn := g.Dial(t)
			if method == "HEAD" {
				conn.Request = &http.Request{Method: "HEAD"}
			}
			conn.Send(g.RawRequest(method+" /v1/responses HTTP/1.1", gatetest.RawGood(), gatetest.RawBody))
			got := conn.Answer()
			if method == "HEAD" {
				if code := got.Header.Get("X-Responses-Proxy-Gate"); got.Status != 403 || code != "route_not_allowed" || got.Body != "" {
					t.Errorf("got %d %s %q", got.Status, code, got.Body)
				}
			} else {
				gatetest.Refused(t, got, 403, "route_not_allowed")
			}
			g.Up.SawNothing(t)
		})
	}
	g.Works(t)
}

func TestNobodyWithoutATokenLearnsWhichRoutesExist(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "shutdown_endpoint"})
	for _, line := range []string{
		"POST /v1/responses", "POST /v1/nothing", "GET /v1/responses", "PUT /", "POST /shutdown", "GET /shutdown", "OPTIONS /v1/responses",
	} {
		t.Run(line, func(t *testing.T) {
			g.Up.Forget()
			gatetest.Refused(t, g.RawDo(t, line+" HTTP/1.1", gatetest.Without(gatetest.RawGood(), "X-Proxy"), gatetest.RawBody), 401, "missing_token")
			g.Up.SawNothing(t)
		})
	}
}

func TestAllowRouteOpensWhatItNamesAndReplacesTheDefault(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: `
		allow_route POST /v1/responses/compact
		allow_route GET /v1/models any_query
	`})
	noBody := gatetest.Without(gatetest.RawGood(), "Content-")
	for _, line := range []string{"POST /v1/responses/compact", "GET /v1/models", "GET /v1/models?", "GET /v1/models?client_version=1&x=%2F"} {
		t.Run(line+" passes", func(t *testing.T) {
			g.Up.Forget()
			if got := g.RawDo(t, line+" HTTP/1.1", noBody, ""); got.Status != 200 {
				t.Fatalf("status %d %s", got.Status, got.Body)
			}
			seen := g.Up.Only(t)
			seen.HasKey(t)
			if got := seen.Method + " " + seen.Target; got != line {
				t.Errorf("upstream got %q, want %q", got, line)
			}
		})
	}
	for _, line := range []string{
		"POST /v1/responses", "POST /v1/responses/compact?x=1", "POST /v1/responses/compact?", "POST /v1/models", "GET /v1/responses/compact", "GET /v1/models/gpt-5",
		"GET /v1/models/?x=1", "GET /v1/%6dodels?x=1", "HEAD /v1/models",
	} {
		t.Run(line+" is refused", func(t *testing.T) {
			g.Up.Forget()
			conn := g.Dial(t)
			if line == "HEAD /v1/models" {
				conn.Request = &http.Request{Method: "HEAD"}
			}
			conn.Send(g.RawRequest(line+" HTTP/1.1", noBody, ""))
			got := conn.Answer()
			if code := got.Header.Get("X-Responses-Proxy-Gate"); got.Status != 403 || code != "route_not_allowed" {
				t.Errorf("got %d %s", got.Status, code)
			}
			g.Up.SawNothing(t)
		})
	}
}

// Codex falls back to HTTP when it sees 426, and only then.
func TestAWebSocketWhereOnlyHTTPIsAllowedGets426(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	const line = "GET /v1/responses HTTP/1.1"
	for _, c := range []struct {
		name    string
		line    string
		headers []string
		status  int
		code    string
	}{
		{"with the token, on the allowed path", line, gatetest.RawUpgrade, 426, "websocket_not_enabled"},
		{"in odd case", line, append(gatetest.Without(gatetest.RawUpgrade, "Connection", "Upgrade"), "connection: UPGRADE", "UPGRADE: WebSocket"), 426, "websocket_not_enabled"},
		{"without the token", line, gatetest.Without(gatetest.RawUpgrade, "X-Proxy"), 401, "missing_token"},
		{"on another path", "GET /v1/realtime HTTP/1.1", gatetest.RawUpgrade, 403, "route_not_allowed"},
		{"with a query", "GET /v1/responses?x=1 HTTP/1.1", gatetest.RawUpgrade, 403, "route_not_allowed"},
		{"from a web page", line, append(gatetest.RawUpgrade[:len(gatetest.RawUpgrade):len(gatetest.RawUpgrade)], "Origin: https://attacker.example"), 403, "origin_not_allowed"},
		{"without Connection: Upgrade", line, gatetest.Without(gatetest.RawUpgrade, "Connection"), 403, "route_not_allowed"},
		{"to another protocol", line, append(gatetest.Without(gatetest.RawUpgrade, "Upgrade"), "Upgrade: h2c"), 403, "route_not_allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.Up.Forget()
			got := g.RawDo(t, c.line, c.headers, "")
			gatetest.Refused(t, got, c.status, c.code)
			g.Up.SawNothing(t)
		})
	}
}

func TestAGateWhoseDefaultRouteIsGoneSaysSo(t *testing.T) {
	t.Parallel()
	for routes, want := range map[string]bool{
		"allow_route GET /v1/models any_query":                                 true,
		"allow_route GET /v1/responses":                                        true,
		"allow_route GET /v1/models any_query\nallow_route POST /v1/responses": false,
		"allow_route codex":                                                    false,
		"":                                                                     false,
	} {
		g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: routes})
		if said := strings.Contains(g.Output.String(), "add: allow_route POST /v1/responses"); said != want {
			t.Errorf("%q: the start says that the default is gone: %t, want %t", routes, said, want)
		}
		if want {
			got := g.RawDo(t, "POST /v1/responses HTTP/1.1", gatetest.RawGood(), gatetest.RawBody)
			gatetest.Refused(t, got, 403, "route_not_allowed")
			if !strings.Contains(got.Body, "the option allow_route, which replaces the default") {
				t.Errorf("%q: the refusal does not say why: %s", routes, got.Body)
			}
		}
	}
}
