//go:build unix

package e2e

import (
	"net/http"
	"testing"
)

// raw sends a request with this line and the headers of one that passes.
func (g *gate) rawDo(t *testing.T, line string, headers []string, body string) answer {
	t.Helper()
	conn := g.dial(t)
	conn.send(g.rawRequest(line, headers, body))
	return conn.answer()
}

func TestOnlyTheExactRouteIsForwarded(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
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
			g.up.forget()
			got := g.rawDo(t, "POST "+target+" HTTP/1.1", rawGood(), rawBody)
			switch got.status {
			case http.StatusBadRequest: // Go's server finds it malformed
			case http.StatusForbidden:
				if code := got.header.Get("X-Responses-Proxy-Gate"); code != "host_not_allowed" { // (an absolute target without a host)
					refused(t, got, 403, "route_not_allowed")
				}
			default:
				t.Errorf("status %d, want 403: %s", got.status, got.body)
			}
			g.up.sawNothing(t)
		})
	}
	for _, method := range []string{
		"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "post", "Post", "POSTS", "PROPFIND", "PURGE", "PRI",
	} {
		t.Run(method+" on the allowed path", func(t *testing.T) {
			g.up.forget()
			conn := g.dial(t)
			if method == "HEAD" {
				conn.request = &http.Request{Method: "HEAD"}
			}
			conn.send(g.rawRequest(method+" /v1/responses HTTP/1.1", rawGood(), rawBody))
			got := conn.answer()
			if method == "HEAD" {
				if code := got.header.Get("X-Responses-Proxy-Gate"); got.status != 403 || code != "route_not_allowed" || got.body != "" {
					t.Errorf("got %d %s %q", got.status, code, got.body)
				}
			} else {
				refused(t, got, 403, "route_not_allowed")
			}
			g.up.sawNothing(t)
		})
	}
	g.works(t)
}

func TestNobodyWithoutATokenLearnsWhichRoutesExist(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{gate: "shutdown_endpoint"})
	for _, line := range []string{
		"POST /v1/responses", "POST /v1/nothing", "GET /v1/responses", "PUT /", "POST /shutdown", "GET /shutdown", "OPTIONS /v1/responses",
	} {
		t.Run(line, func(t *testing.T) {
			g.up.forget()
			refused(t, g.rawDo(t, line+" HTTP/1.1", without(rawGood(), "X-Proxy"), rawBody), 401, "missing_token")
			g.up.sawNothing(t)
		})
	}
}

func TestAllowRouteOpensWhatItNamesAndReplacesTheDefault(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{gate: `
		allow_route POST /v1/responses/compact
		allow_route GET /v1/models any_query
	`})
	noBody := without(rawGood(), "Content-")
	for _, line := range []string{"POST /v1/responses/compact", "GET /v1/models", "GET /v1/models?", "GET /v1/models?client_version=1&x=%2F"} {
		t.Run(line+" passes", func(t *testing.T) {
			g.up.forget()
			if got := g.rawDo(t, line+" HTTP/1.1", noBody, ""); got.status != 200 {
				t.Fatalf("status %d %s", got.status, got.body)
			}
			seen := g.up.only(t)
			seen.hasKey(t)
			if got := seen.method + " " + seen.target; got != line {
				t.Errorf("upstream got %q, want %q", got, line)
			}
		})
	}
	for _, line := range []string{
		"POST /v1/responses", "POST /v1/responses/compact?x=1", "POST /v1/responses/compact?", "POST /v1/models", "GET /v1/responses/compact", "GET /v1/models/gpt-5",
		"GET /v1/models/?x=1", "GET /v1/%6dodels?x=1", "HEAD /v1/models",
	} {
		t.Run(line+" is refused", func(t *testing.T) {
			g.up.forget()
			conn := g.dial(t)
			if line == "HEAD /v1/models" {
				conn.request = &http.Request{Method: "HEAD"}
			}
			conn.send(g.rawRequest(line+" HTTP/1.1", noBody, ""))
			got := conn.answer()
			if code := got.header.Get("X-Responses-Proxy-Gate"); got.status != 403 || code != "route_not_allowed" {
				t.Errorf("got %d %s", got.status, code)
			}
			g.up.sawNothing(t)
		})
	}
}

var rawUpgrade = []string{
	"Host: 127.0.0.1", "X-Proxy-Token: TOKEN", "Connection: keep-alive, Upgrade", "Upgrade: websocket",
	"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}

// Codex falls back to HTTP when it sees 426, and only then.
func TestAWebSocketWhereOnlyHTTPIsAllowedGets426(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	const line = "GET /v1/responses HTTP/1.1"
	for _, c := range []struct {
		name    string
		line    string
		headers []string
		status  int
		code    string
	}{
		{"with the token, on the allowed path", line, rawUpgrade, 426, "websocket_not_enabled"},
		{"in odd case", line, append(without(rawUpgrade, "Connection", "Upgrade"), "connection: UPGRADE", "UPGRADE: WebSocket"), 426, "websocket_not_enabled"},
		{"without the token", line, without(rawUpgrade, "X-Proxy"), 401, "missing_token"},
		{"on another path", "GET /v1/realtime HTTP/1.1", rawUpgrade, 403, "route_not_allowed"},
		{"with a query", "GET /v1/responses?x=1 HTTP/1.1", rawUpgrade, 403, "route_not_allowed"},
		{"from a web page", line, append(rawUpgrade[:len(rawUpgrade):len(rawUpgrade)], "Origin: https://attacker.example"), 403, "origin_not_allowed"},
		{"without Connection: Upgrade", line, without(rawUpgrade, "Connection"), 403, "route_not_allowed"},
		{"to another protocol", line, append(without(rawUpgrade, "Upgrade"), "Upgrade: h2c"), 403, "route_not_allowed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.up.forget()
			got := g.rawDo(t, c.line, c.headers, "")
			refused(t, got, c.status, c.code)
			g.up.sawNothing(t)
		})
	}
}
