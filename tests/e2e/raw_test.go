//go:build unix

package e2e

import (
	"strings"
	"syscall"
	"testing"
	"time"
)

const postLine = "POST /v1/responses HTTP/1.1"

// Requests that no HTTP library sends, each with a good token where the case
// is not about the token. Code "" means that Go's server answers: it refuses
// them as malformed before any handler.
func TestOddBytesOnTheWireAreNotForwarded(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	for _, a := range []struct {
		harm    string
		line    string
		headers []string
		body    string
		status  int
		code    string
	}{
		{"two Content-Types, JSON first", postLine, rawGood("Content-Type: text/plain"), rawBody, 415, "content_type_not_json"},
		{"two Content-Types, JSON last", postLine, append([]string{"Content-Type: text/plain"}, rawGood()...), rawBody, 415, "content_type_not_json"},
		{"the JSON Content-Type twice", postLine, rawGood("Content-Type: application/json"), rawBody, 415, "content_type_not_json"},
		{"a chunked body without Content-Type", postLine, append(without(rawGood(), "Content-"), "Transfer-Encoding: chunked"), "0\r\n\r\n", 415, "content_type_not_json"},

		{"X-Proxy-Token twice, both good", postLine, rawGood("X-Proxy-Token: TOKEN"), rawBody, 401, "invalid_token"},
		{"X-Proxy-Token twice, the last good", postLine, append([]string{"X-Proxy-Token: x"}, rawGood()...), rawBody, 401, "invalid_token"},
		{"X-Proxy-Token twice, the first empty", postLine, append([]string{"X-Proxy-Token:"}, rawGood()...), rawBody, 401, "invalid_token"},
		{"X-Proxy-Token twice in different case", postLine, rawGood("x-pRoXy-tOkEn: x"), rawBody, 401, "invalid_token"},
		{"Authorization twice, both good", postLine, append(without(rawGood(), "X-Proxy"), "Authorization: Bearer TOKEN", "Authorization: Bearer TOKEN"), rawBody, 401, "invalid_token"},
		{"Authorization twice, one Basic", postLine, append(without(rawGood(), "X-Proxy"), "Authorization: Bearer TOKEN", "Authorization: Basic eDp4"), rawBody, 401, "invalid_token"},
		{"two tokens in one X-Proxy-Token", postLine, append(without(rawGood(), "X-Proxy"), "X-Proxy-Token: TOKEN, TOKEN"), rawBody, 401, "invalid_token"},
		{"two tokens in one Authorization", postLine, append(without(rawGood(), "X-Proxy"), "Authorization: Bearer TOKEN, Bearer TOKEN"), rawBody, 401, "invalid_token"},
		{"a tab between Bearer and the token", postLine, append(without(rawGood(), "X-Proxy"), "Authorization: Bearer\tTOKEN"), rawBody, 401, "missing_token"},
		{"a token of other bytes than ASCII", postLine, append(without(rawGood(), "X-Proxy"), "X-Proxy-Token: TOKEN\xff"), rawBody, 401, "invalid_token"},
		{"a token folded onto the next line", postLine, append(without(rawGood(), "X-Proxy"), "X-Proxy-Token: TOKEN\r\n x"), rawBody, 401, "invalid_token"},

		{"an Origin in odd case", postLine, rawGood("oRiGiN: https://attacker.example"), rawBody, 403, "origin_not_allowed"},
		{"an Origin folded onto the next line", postLine, rawGood("Origin:\r\n https://attacker.example"), rawBody, 403, "origin_not_allowed"},
		{"an Origin after a bare line feed", postLine, rawGood("X-A: b\nOrigin: https://attacker.example"), rawBody, 403, "origin_not_allowed"},
		{"an Origin without a value", postLine, rawGood("Origin:"), rawBody, 403, "origin_not_allowed"},
		{"a Sec-Fetch-Site in odd case", postLine, rawGood("SEC-FETCH-SITE: cross-site"), rawBody, 403, "cross_site_request"},

		{"HTTP/1.0 without a Host", "POST /v1/responses HTTP/1.0", without(rawGood(), "Host"), rawBody, 403, "host_not_allowed"},
		{"an absolute target with a foreign host", "POST http://attacker.example/v1/responses HTTP/1.1", rawGood(), rawBody, 403, "host_not_allowed"},
		{"HTTP/1.0 without a token", "POST /v1/responses HTTP/1.0", without(rawGood(), "X-Proxy"), rawBody, 401, "missing_token"},

		{"HTTP/1.1 without a Host", postLine, without(rawGood(), "Host"), rawBody, 400, ""},
		{"an empty Host", postLine, append(without(rawGood(), "Host"), "Host:"), rawBody, 400, ""}, // Caddy's answer
		{"two Hosts", postLine, rawGood("Host: attacker.example"), rawBody, 400, ""},
		{"a Host with a space", postLine, append(without(rawGood(), "Host"), "Host: local host"), rawBody, 400, ""},
		{"a NUL in a header", postLine, rawGood("X-A: a\x00b"), rawBody, 400, ""},
		{"a carriage return in a header", postLine, rawGood("X-A: a\rOrigin: b"), rawBody, 400, ""},
		{"a space before the colon", postLine, append(without(rawGood(), "X-Proxy"), "X-Proxy-Token : TOKEN"), rawBody, 400, ""},
		{"a space before the first header", postLine, append([]string{" X-A: b"}, rawGood()...), rawBody, 400, ""},
		{"a header without a colon", postLine, rawGood("garbage"), rawBody, 400, ""},
		{"two different Content-Lengths", postLine, rawGood("Content-Length: 0"), rawBody, 400, ""},
		{"a negative Content-Length", postLine, append(without(rawGood(), "Content-Length"), "Content-Length: -1"), rawBody, 400, ""},
		{"a Content-Length with a sign", postLine, append(without(rawGood(), "Content-Length"), "Content-Length: +17"), rawBody, 400, ""},
		{"an unknown transfer coding", postLine, append(without(rawGood(), "Content-Length"), "Transfer-Encoding: identity, chunked"), "0\r\n\r\n", 501, ""},
		{"chunked twice", postLine, append(without(rawGood(), "Content-Length"), "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "0\r\n\r\n", 501, ""},
		{"HTTP/3.0 in the request line", "POST /v1/responses HTTP/3.0", rawGood(), rawBody, 505, ""},
		{"no version in the request line", "POST /v1/responses", rawGood(), rawBody, 400, ""},
	} {
		t.Run(a.harm, func(t *testing.T) {
			g.up.forget()
			conn := g.dial(t)
			conn.send(g.rawRequest(a.line, a.headers, a.body))
			got := conn.answer()
			if a.code != "" {
				refused(t, got, a.status, a.code)
			} else if got.status != a.status {
				t.Errorf("status %d, want %d: %s", got.status, a.status, got.body)
			}
			notCORS(t, got)
			g.up.sawNothing(t)
		})
	}
}

func TestOddButHarmlessRequestsPass(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	for _, c := range []struct {
		name    string
		line    string
		headers []string
		body    string
	}{
		{"header names in odd case", postLine, []string{"hOST: 127.0.0.1", "CONTENT-TYPE: APPLICATION/json", "x-pRoXy-ToKeN: TOKEN", "content-length: 17"}, rawBody},
		{"bearer in odd case", postLine, append(without(rawGood(), "X-Proxy"), "aUTHORIZATION: bEARER TOKEN"), rawBody},
		{"HTTP/1.0", "POST /v1/responses HTTP/1.0", rawGood(), rawBody},
		{"a chunked body", postLine, append(without(rawGood(), "Content-Length"), "Transfer-Encoding: chunked"), "11\r\n" + rawBody + "\r\n0\r\n\r\n"},
		{"Connection names Authorization", postLine, rawGood("Connection: authorization"), rawBody},
		{"Connection names everything", postLine, rawGood("Connection: close, AUTHORIZATION, x-proxy-token", "Connection: content-type"), rawBody},
		{"Connection names Authorization beside spaces", postLine, rawGood("Connection: keep-alive ,\tauthorization\t,"), rawBody},
		{"Upgrade to h2c", postLine, rawGood("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), rawBody},
		{"Upgrade to websocket by POST", postLine, rawGood("Connection: Upgrade", "Upgrade: websocket"), rawBody},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.up.forget()
			conn := g.dial(t)
			conn.send(g.rawRequest(c.line, c.headers, c.body))
			if got := conn.answer(); got.status != 200 || got.body != jsonAnswer {
				t.Fatalf("got %d %s", got.status, got.body)
			}
			seen := g.up.only(t)
			seen.hasKey(t)
			if seen.body != rawBody {
				t.Errorf("body upstream is %q", seen.body)
			}
			for _, name := range []string{"Upgrade", "Http2-Settings", "X-Proxy-Token"} {
				if values := seen.header[name]; values != nil {
					t.Errorf("%s upstream is %q", name, values)
				}
			}
			g.up.sawNo(t, g.token)
		})
	}
}

func TestAbsentBodiesNeedNoContentType(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	conn := g.dial(t)
	conn.send(g.rawRequest(postLine, append(without(rawGood(), "Content-"), "Content-Length: 0"), ""))
	if got := conn.answer(); got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestARefusedRequestsBodyIsNotAskedFor(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	for _, a := range []struct {
		harm    string
		line    string
		headers []string
		status  int
		code    string
	}{
		{"from a web page", postLine, rawGood("Origin: https://attacker.example"), 403, "origin_not_allowed"},
		{"of another type", postLine, append(without(rawGood(), "Content-Type"), "Content-Type: text/plain"), 415, "content_type_not_json"},
		{"without a token", postLine, without(rawGood(), "X-Proxy"), 401, "missing_token"},
		{"for another route", "POST /v1/files HTTP/1.1", rawGood(), 403, "route_not_allowed"},
		{"of a terabyte", postLine, append(without(rawGood("X-Proxy-Token: x"), "Content-Length"), "Content-Length: 1099511627776"), 401, "invalid_token"},
		{"chunked", postLine, append(without(rawGood(), "X-Proxy", "Content-Length"), "Transfer-Encoding: chunked"), 401, "missing_token"},
	} {
		for _, expect := range []bool{true, false} {
			name := a.harm
			headers := a.headers
			if expect {
				name += ", that expects 100 Continue"
				headers = append(headers[:len(headers):len(headers)], "Expect: 100-continue")
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				conn := g.dial(t)
				conn.send(g.rawRequest(a.line, headers, "")) // the body never comes
				got := conn.answer()                         // (a 100 would be the first answer here)
				refused(t, got, a.status, a.code)
				conn.closedByServer()
				g.up.sawNothing(t)
			})
		}
	}
}

// A refused request whose body never comes must not count as one under way:
// Caddy's graceful exit waits for those, and server-info stays until then.
func TestACallerWithoutATokenCannotKeepCaddyFromExiting(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	conn := g.dial(t)
	conn.send(g.rawRequest(postLine, without(rawGood(), "X-Proxy"), "")) // the body never comes
	refused(t, conn.answer(), 401, "missing_token")
	g.signal(syscall.SIGTERM)
	select {
	case <-g.done:
		if !missing(g.site.infoPath()) {
			t.Error("server-info is still there")
		}
	case <-time.After(15 * time.Second):
		t.Error("15 s after SIGTERM Caddy still waits for a caller who has no token")
	}
}

func TestAnAcceptedRequestGetsItsContinue(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	conn := g.dial(t)
	conn.send(g.rawRequest(postLine, rawGood("Expect: 100-continue"), ""))
	if got := conn.answer(); got.status != 100 {
		t.Fatalf("got %d %s, want 100 Continue", got.status, got.body)
	}
	conn.send(rawBody)
	got := conn.answer()
	for got.status == 100 {
		got = conn.answer() // the upstream's, passed on
	}
	if got.status != 200 {
		t.Errorf("got %d %s", got.status, got.body)
	}
}

func TestSmuggledRequestsDoNotReachTheUpstream(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	smuggled := "GET /v1/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	for name, request := range map[string]string{
		"Content-Length covers what chunked does not": g.rawRequest(postLine,
			append(without(rawGood(), "Content-Length"), "Content-Length: 55", "Transfer-Encoding: chunked"), "0\r\n\r\n"+smuggled),
		"chunked in odd case": g.rawRequest(postLine,
			append(without(rawGood(), "Content-Length"), "Content-Length: 55", "transfer-encoding: CHUNKED"), "0\r\n\r\n"+smuggled),
		"a second request in the same packet": g.rawRequest(postLine, rawGood(), rawBody+smuggled),
		"a chunk that hides a request in its extension": g.rawRequest(postLine,
			append(without(rawGood(), "Content-Length"), "Transfer-Encoding: chunked"), "1;\r\nx\r\n0\r\n\r\n"+smuggled),
	} {
		t.Run(name, func(t *testing.T) {
			g.up.forget()
			conn := g.dial(t)
			conn.send(request)
			conn.answer()
			// Whatever becomes of the second request, it is judged by itself:
			// it has no token. Wait for its answer, or for the connection's end.
			if got := conn.maybeAnswer(); got != nil && got.status < 400 {
				t.Errorf("the smuggled request got %d", got.status)
			}
			g.up.sawNo(t, "smuggled")
			if n := len(g.up.requests()); n > 1 {
				t.Errorf("the upstream saw %d requests", n)
			}
		})
	}
}

func TestTrailersCarryNothingUpstream(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	for name, trailer := range map[string][2]string{
		"announced":     {"Trailer: Authorization, X-Proxy-Token, X-Trailing", "Authorization: Bearer stolen\r\nX-Proxy-Token: TOKEN\r\nX-Trailing: TOKEN\r\n"},
		"not announced": {"X-Other: 1", "Authorization: Bearer stolen\r\nX-Proxy-Token: TOKEN\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g.up.forget()
			conn := g.dial(t)
			headers := append(without(rawGood(), "Content-Length"), "Transfer-Encoding: chunked", trailer[0])
			conn.send(g.rawRequest(postLine, headers, "11\r\n"+rawBody+"\r\n0\r\n"+strings.ReplaceAll(trailer[1], "TOKEN", g.token)+"\r\n"))
			if got := conn.answer(); got.status != 200 {
				t.Fatalf("got %d %s", got.status, got.body)
			}
			seen := g.up.only(t)
			seen.hasKey(t)
			if len(seen.trailer) > 0 {
				t.Errorf("trailers upstream: %v", seen.trailer)
			}
			g.up.sawNo(t, "stolen")
			g.up.sawNo(t, g.token)
		})
	}
}
