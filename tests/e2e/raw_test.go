//go:build unix

package e2e

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const postLine = "POST /v1/responses HTTP/1.1"

// Requests that no HTTP library sends, each with a good token where the case
// is not about the token. Code "" means that Go's server answers: it refuses
// them as malformed before any handler.
func TestOddBytesOnTheWireAreNotForwarded(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for _, a := range []struct {
		harm    string
		line    string
		headers []string
		body    string
		status  int
		code    string
	}{
		{"two Content-Types, JSON first", postLine, gatetest.RawGood("Content-Type: text/plain"), gatetest.RawBody, 415, "content_type_not_json"},
		{"two Content-Types, JSON last", postLine, append([]string{"Content-Type: text/plain"}, gatetest.RawGood()...), gatetest.RawBody, 415, "content_type_not_json"},
		{"the JSON Content-Type twice", postLine, gatetest.RawGood("Content-Type: application/json"), gatetest.RawBody, 415, "content_type_not_json"},
		{"a chunked body without Content-Type", postLine, append(gatetest.Without(gatetest.RawGood(), "Content-"), "Transfer-Encoding: chunked"), "0\r\n\r\n", 415, "content_type_not_json"},

		{"X-Proxy-Token twice, both good", postLine, gatetest.RawGood("X-Proxy-Token: TOKEN"), gatetest.RawBody, 401, "invalid_token"},
		{"X-Proxy-Token twice, the last good", postLine, append([]string{"X-Proxy-Token: x"}, gatetest.RawGood()...), gatetest.RawBody, 401, "invalid_token"},
		{"X-Proxy-Token twice, the first empty", postLine, append([]string{"X-Proxy-Token:"}, gatetest.RawGood()...), gatetest.RawBody, 401, "invalid_token"},
		{"X-Proxy-Token twice in different case", postLine, gatetest.RawGood("x-pRoXy-tOkEn: x"), gatetest.RawBody, 401, "invalid_token"},
		{"Authorization twice, both good", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "Authorization: Bearer TOKEN", "Authorization: Bearer TOKEN"), gatetest.RawBody, 401, "invalid_token"},
		{"Authorization twice, one Basic", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "Authorization: Bearer TOKEN", "Authorization: Basic eDp4"), gatetest.RawBody, 401, "invalid_token"},
		{"two tokens in one X-Proxy-Token", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "X-Proxy-Token: TOKEN, TOKEN"), gatetest.RawBody, 401, "invalid_token"},
		{"two tokens in one Authorization", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "Authorization: Bearer TOKEN, Bearer TOKEN"), gatetest.RawBody, 401, "invalid_token"},
		{"a tab between Bearer and the token", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "Authorization: Bearer\tTOKEN"), gatetest.RawBody, 401, "missing_token"},
		{"a token of other bytes than ASCII", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "X-Proxy-Token: TOKEN\xff"), gatetest.RawBody, 401, "invalid_token"},
		{"a token folded onto the next line", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "X-Proxy-Token: TOKEN\r\n x"), gatetest.RawBody, 401, "invalid_token"},

		{"an Origin in odd case", postLine, gatetest.RawGood("oRiGiN: https://attacker.example"), gatetest.RawBody, 403, "origin_not_allowed"},
		{"an Origin folded onto the next line", postLine, gatetest.RawGood("Origin:\r\n https://attacker.example"), gatetest.RawBody, 403, "origin_not_allowed"},
		{"an Origin after a bare line feed", postLine, gatetest.RawGood("X-A: b\nOrigin: https://attacker.example"), gatetest.RawBody, 403, "origin_not_allowed"},
		{"an Origin without a value", postLine, gatetest.RawGood("Origin:"), gatetest.RawBody, 403, "origin_not_allowed"},
		{"a Sec-Fetch-Site in odd case", postLine, gatetest.RawGood("SEC-FETCH-SITE: cross-site"), gatetest.RawBody, 403, "cross_site_request"},

		{"HTTP/1.0 without a Host", "POST /v1/responses HTTP/1.0", gatetest.Without(gatetest.RawGood(), "Host"), gatetest.RawBody, 403, "host_not_allowed"},
		{"an absolute target with a foreign host", "POST http://attacker.example/v1/responses HTTP/1.1", gatetest.RawGood(), gatetest.RawBody, 403, "host_not_allowed"},
		{"HTTP/1.0 without a token", "POST /v1/responses HTTP/1.0", gatetest.Without(gatetest.RawGood(), "X-Proxy"), gatetest.RawBody, 401, "missing_token"},

		{"HTTP/1.1 without a Host", postLine, gatetest.Without(gatetest.RawGood(), "Host"), gatetest.RawBody, 400, ""},
		{"an empty Host", postLine, append(gatetest.Without(gatetest.RawGood(), "Host"), "Host:"), gatetest.RawBody, 400, ""}, // Caddy's answer
		{"two Hosts", postLine, gatetest.RawGood("Host: attacker.example"), gatetest.RawBody, 400, ""},
		{"a Host with a space", postLine, append(gatetest.Without(gatetest.RawGood(), "Host"), "Host: local host"), gatetest.RawBody, 400, ""},
		{"a NUL in a header", postLine, gatetest.RawGood("X-A: a\x00b"), gatetest.RawBody, 400, ""},
		{"a carriage return in a header", postLine, gatetest.RawGood("X-A: a\rOrigin: b"), gatetest.RawBody, 400, ""},
		{"a space before the colon", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "X-Proxy-Token : TOKEN"), gatetest.RawBody, 400, ""},
		{"a space before the first header", postLine, append([]string{" X-A: b"}, gatetest.RawGood()...), gatetest.RawBody, 400, ""},
		{"a header without a colon", postLine, gatetest.RawGood("garbage"), gatetest.RawBody, 400, ""},
		{"two different Content-Lengths", postLine, gatetest.RawGood("Content-Length: 0"), gatetest.RawBody, 400, ""},
		{"a negative Content-Length", postLine, append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Content-Length: -1"), gatetest.RawBody, 400, ""},
		{"a Content-Length with a sign", postLine, append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Content-Length: +17"), gatetest.RawBody, 400, ""},
		{"an unknown transfer coding", postLine, append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Transfer-Encoding: identity, chunked"), "0\r\n\r\n", 501, ""},
		{"chunked twice", postLine, append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), "0\r\n\r\n", 501, ""},
		{"HTTP/3.0 in the request line", "POST /v1/responses HTTP/3.0", gatetest.RawGood(), gatetest.RawBody, 505, ""},
		{"no version in the request line", "POST /v1/responses", gatetest.RawGood(), gatetest.RawBody, 400, ""},
	} {
		t.Run(a.harm, func(t *testing.T) {
			g.Up.Forget()
			conn := g.Dial(t)
			conn.Send(g.RawRequest(a.line, a.headers, a.body))
			got := conn.Answer()
			if a.code != "" {
				gatetest.Refused(t, got, a.status, a.code)
			} else if got.Status != a.status {
				t.Errorf("status %d, want %d: %s", got.Status, a.status, got.Body)
			}
			gatetest.NotCORS(t, got)
			g.Up.SawNothing(t)
		})
	}
}

func TestOddButHarmlessRequestsPass(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for _, c := range []struct {
		name    string
		line    string
		headers []string
		body    string
	}{
		{"header names in odd case", postLine, []string{"hOST: 127.0.0.1", "CONTENT-TYPE: APPLICATION/json", "x-pRoXy-ToKeN: TOKEN", "content-length: 17"}, gatetest.RawBody},
		{"bearer in odd case", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "aUTHORIZATION: bEARER TOKEN"), gatetest.RawBody},
		{"HTTP/1.0", "POST /v1/responses HTTP/1.0", gatetest.RawGood(), gatetest.RawBody},
		{"a chunked body", postLine, append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Transfer-Encoding: chunked"), "11\r\n" + gatetest.RawBody + "\r\n0\r\n\r\n"},
		{"Connection names Authorization", postLine, gatetest.RawGood("Connection: authorization"), gatetest.RawBody},
		{"Connection names everything", postLine, gatetest.RawGood("Connection: close, AUTHORIZATION, x-proxy-token", "Connection: content-type"), gatetest.RawBody},
		{"Connection names Authorization beside spaces", postLine, gatetest.RawGood("Connection: keep-alive ,\tauthorization\t,"), gatetest.RawBody},
		{"Upgrade to h2c", postLine, gatetest.RawGood("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"), gatetest.RawBody},
		{"Upgrade to websocket by POST", postLine, gatetest.RawGood("Connection: Upgrade", "Upgrade: websocket"), gatetest.RawBody},
	} {
		t.Run(c.name, func(t *testing.T) {
			g.Up.Forget()
			conn := g.Dial(t)
			conn.Send(g.RawRequest(c.line, c.headers, c.body))
			if got := conn.Answer(); got.Status != 200 || got.Body != gatetest.JSONAnswer {
				t.Fatalf("got %d %s", got.Status, got.Body)
			}
			seen := g.Up.Only(t)
			seen.HasKey(t)
			if seen.Body != gatetest.RawBody {
				t.Errorf("body upstream is %q", seen.Body)
			}
			for _, name := range []string{"Upgrade", "Http2-Settings", "X-Proxy-Token"} {
				if values := seen.Header[name]; values != nil {
					t.Errorf("%s upstream is %q", name, values)
				}
			}
			g.Up.SawNo(t, g.Token)
		})
	}
}

func TestAbsentBodiesNeedNoContentType(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	conn := g.Dial(t)
	conn.Send(g.RawRequest(postLine, append(gatetest.Without(gatetest.RawGood(), "Content-"), "Content-Length: 0"), ""))
	if got := conn.Answer(); got.Status != 200 {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
}

func TestARefusedRequestsBodyIsNotAskedFor(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for _, a := range []struct {
		harm    string
		line    string
		headers []string
		status  int
		code    string
	}{
		{"from a web page", postLine, gatetest.RawGood("Origin: https://attacker.example"), 403, "origin_not_allowed"},
		{"of another type", postLine, append(gatetest.Without(gatetest.RawGood(), "Content-Type"), "Content-Type: text/plain"), 415, "content_type_not_json"},
		{"without a token", postLine, gatetest.Without(gatetest.RawGood(), "X-Proxy"), 401, "missing_token"},
		{"for another route", "POST /v1/files HTTP/1.1", gatetest.RawGood(), 403, "route_not_allowed"},
		{"of a terabyte", postLine, append(gatetest.Without(gatetest.RawGood("X-Proxy-Token: x"), "Content-Length"), "Content-Length: 1099511627776"), 401, "invalid_token"},
		{"chunked", postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy", "Content-Length"), "Transfer-Encoding: chunked"), 401, "missing_token"},
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
				conn := g.Dial(t)
				conn.Send(g.RawRequest(a.line, headers, "")) // the body never comes
				got := conn.Answer()                         // (a 100 would be the first answer here)
				gatetest.Refused(t, got, a.status, a.code)
				conn.ClosedByServer()
				g.Up.SawNothing(t)
			})
		}
	}
}

// A refused request whose body never comes must not count as one under way:
// Caddy's graceful exit waits for those, and server-info stays until then.
func TestACallerWithoutATokenCannotKeepCaddyFromExiting(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	conn := g.Dial(t)
	conn.Send(g.RawRequest(postLine, gatetest.Without(gatetest.RawGood(), "X-Proxy"), "")) // the body never comes
	gatetest.Refused(t, conn.Answer(), 401, "missing_token")
	g.Signal(syscall.SIGTERM)
	select {
	case <-g.Done:
		if !gatetest.Missing(g.Site.InfoPath()) {
			t.Error("server-info is still there")
		}
	case <-time.After(15 * time.Second):
		t.Error("15 s after SIGTERM Caddy still waits for a caller who has no token")
	}
}

// While the upstream's refusal of the key is waited out, a caller's body is read
// to its end, so that the answer is seen. An exit waits for none: it goes nowhere.
func TestABodyThatGoesNowhereDoesNotKeepCaddyFromExiting(t *testing.T) {
	t.Parallel()
	var asked atomic.Int32
	up := gatetest.NewUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(http.StatusUnauthorized)
	})
	g := gatetest.StartGate(t, up, gatetest.Site{Global: "grace_period 5m"})
	for asked.Load() < 4 { // the next wait is then of eight seconds
		gatetest.Refused(t, g.RawDo(t, postLine, gatetest.RawGood(), gatetest.RawBody), 400, "upstream_unauthorized")
		time.Sleep(50 * time.Millisecond)
	}
	conn := g.Dial(t)
	gatetest.Must(t, conn.SetDeadline(time.Now().Add(2*gatetest.Patience)))
	const length, first = 200 << 20, 16 << 20 // more than buffers hold: who has written the first is being read
	headers := append(gatetest.Without(gatetest.RawGood(), "Content-Length"), fmt.Sprintf("Content-Length: %d", length))
	conn.Send(g.RawRequest(postLine, headers, strings.Repeat(" ", first)))
	go func() {
		for {
			if _, err := conn.Write([]byte(" ")); err != nil {
				return
			}
			select {
			case <-g.Done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	g.Signal(syscall.SIGTERM)
	select {
	case <-g.Done:
	case <-time.After(gatetest.Patience):
		t.Error("Caddy still waits for a body that goes nowhere")
	}
}

func TestAnAcceptedRequestGetsItsContinue(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	conn := g.Dial(t)
	conn.Send(g.RawRequest(postLine, gatetest.RawGood("Expect: 100-continue"), ""))
	if got := conn.Answer(); got.Status != 100 {
		t.Fatalf("got %d %s, want 100 Continue", got.Status, got.Body)
	}
	conn.Send(gatetest.RawBody)
	got := conn.Answer()
	for got.Status == 100 {
		got = conn.Answer() // the upstream's, passed on
	}
	if got.Status != 200 {
		t.Errorf("got %d %s", got.Status, got.Body)
	}
}

func TestSmuggledRequestsDoNotReachTheUpstream(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	smuggled := "GET /v1/smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
	for name, request := range map[string]string{
		"Content-Length covers what chunked does not": g.RawRequest(postLine,
			append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Content-Length: 55", "Transfer-Encoding: chunked"), "0\r\n\r\n"+smuggled),
		"chunked in odd case": g.RawRequest(postLine,
			append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Content-Length: 55", "transfer-encoding: CHUNKED"), "0\r\n\r\n"+smuggled),
		"a second request in the same packet": g.RawRequest(postLine, gatetest.RawGood(), gatetest.RawBody+smuggled),
		"a chunk that hides a request in its extension": g.RawRequest(postLine,
			append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Transfer-Encoding: chunked"), "1;\r\nx\r\n0\r\n\r\n"+smuggled),
	} {
		t.Run(name, func(t *testing.T) {
			g.Up.Forget()
			conn := g.Dial(t)
			conn.Send(request)
			conn.Answer()
			// Whatever becomes of the second request, it is judged by itself:
			// it has no token. Wait for its answer, or for the connection's end.
			if got := conn.MaybeAnswer(); got != nil && got.Status < 400 {
				t.Errorf("the smuggled request got %d", got.Status)
			}
			g.Up.SawNo(t, "smuggled")
			if n := len(g.Up.Requests()); n > 1 {
				t.Errorf("the upstream saw %d requests", n)
			}
		})
	}
}

func TestTrailersCarryNothingUpstream(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for name, trailer := range map[string][2]string{
		"announced":     {"Trailer: Authorization, X-Proxy-Token, X-Trailing", "Authorization: Bearer stolen\r\nX-Proxy-Token: TOKEN\r\nX-Trailing: TOKEN\r\n"},
		"not announced": {"X-Other: 1", "Authorization: Bearer stolen\r\nX-Proxy-Token: TOKEN\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			g.Up.Forget()
			conn := g.Dial(t)
			headers := append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Transfer-Encoding: chunked", trailer[0])
			conn.Send(g.RawRequest(postLine, headers, "11\r\n"+gatetest.RawBody+"\r\n0\r\n"+strings.ReplaceAll(trailer[1], "TOKEN", g.Token)+"\r\n"))
			if got := conn.Answer(); got.Status != 200 {
				t.Fatalf("got %d %s", got.Status, got.Body)
			}
			seen := g.Up.Only(t)
			seen.HasKey(t)
			if len(seen.Trailer) > 0 {
				t.Errorf("trailers upstream: %v", seen.Trailer)
			}
			g.Up.SawNo(t, "stolen")
			g.Up.SawNo(t, g.Token)
		})
	}
}
