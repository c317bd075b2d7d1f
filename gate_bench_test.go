package responsesproxygate

import (
	"net"
	"net/http"
	"strconv"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/keptconn"
	"go.uber.org/zap"
)

// discard is an http.ResponseWriter that costs nothing of its own.
type discard struct {
	header http.Header
	status int
}

func (d *discard) Header() http.Header              { return d.header }
func (d *discard) Write(data []byte) (int, error)   { return len(data), nil }
func (d *discard) WriteHeader(status int)           { d.status = status }
func (d *discard) reset()                           { clear(d.header); d.status = 0 }
func (d *discard) FlushError() error                { return nil }
func (d *discard) SetReadDeadline(time.Time) error  { return nil }
func (d *discard) SetWriteDeadline(time.Time) error { return nil }
func answerNothing(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusOK)
	return nil
}

// changed is goodRequest with a change.
func changed(change func(*http.Request)) *http.Request {
	r := goodRequest()
	change(r)
	return r
}

// benchmarked are requests and what becomes of them.
var benchmarked = []struct {
	name string
	r    *http.Request
	want *refusal
}{
	{"pass", goodRequest(), nil},
	{"pass-X-Proxy-Token", changed(func(r *http.Request) { r.Header.Set("X-Proxy-Token", testToken) }), nil},
	{"pass-charset", changed(func(r *http.Request) { r.Header.Set("Content-Type", "application/json; charset=utf-8") }), nil},
	{"pass-localhost", changed(func(r *http.Request) { r.Host = "localhost:18080" }), nil},
	{"pass-ipv6", changed(func(r *http.Request) { r.Host = "[::1]:18080" }), nil},
	{"pass-codex", changed(func(r *http.Request) {
		for _, name := range []string{"Accept", "User-Agent", "Originator", "Openai-Beta", "Conversation-Id", "Session-Id", "X-Codex-Turn"} {
			r.Header.Set(name, "as long as such a value usually is")
		}
	}), nil},
	{"origin", changed(func(r *http.Request) { r.Header.Set("Origin", "https://attacker.example") }), errOriginNotAllowed},
	{"sec-fetch-site", changed(func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") }), errCrossSiteRequest},
	{"host", changed(func(r *http.Request) { r.Host = "attacker.example" }), errHostNotAllowed},
	{"content-type", changed(func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") }), errContentTypeNotJSON},
	{"no-token", changed(func(r *http.Request) { r.Header.Del("Authorization") }), errMissingToken},
	{"wrong-token", changed(func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+testToken[:42]+"H") }), errInvalidToken},
	{"route", changed(func(r *http.Request) { r.RequestURI, r.URL.Path = "/v1/files", "/v1/files" }), errRouteNotAllowed},
	{"websocket", changed(func(r *http.Request) {
		r.Method, r.ContentLength = http.MethodGet, 0
		r.Header["Upgrade"], r.Header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	}), errWebSocketNotEnabled},
}

func TestAPassingCheckAllocatesNothing(t *testing.T) {
	p := testPolicy()
	for _, c := range benchmarked {
		if got := check(p, c.r); got != c.want {
			t.Errorf("%s: got %s", c.name, codeOf(got))
		}
		if allocs := testing.AllocsPerRun(1000, func() { check(p, c.r) }); allocs != 0 {
			t.Errorf("%s: checking allocates %v times", c.name, allocs)
		}
	}
}

func BenchmarkCheckBrowser(b *testing.B) {
	p := testPolicy()
	for _, c := range benchmarked {
		switch c.want {
		case nil, errOriginNotAllowed, errCrossSiteRequest, errHostNotAllowed:
			b.Run(c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.checkBrowser(c.r)
				}
			})
		}
	}
}

func BenchmarkCheckContentType(b *testing.B) {
	for name, value := range map[string]string{
		"pass": "application/json", "pass-charset": "application/json; charset=utf-8", "pass-parsed": `application/json; profile="a;b"`,
		"text": "text/plain;charset=UTF-8", "jsonp": "application/jsonp", "bad-parameter": "application/json;a=b;a=c",
	} {
		b.Run(name, func(b *testing.B) {
			r := changed(func(r *http.Request) { r.Header.Set("Content-Type", value) })
			b.ReportAllocs()
			for b.Loop() {
				checkContentType(r)
			}
		})
	}
}

func BenchmarkCheckToken(b *testing.B) {
	p := testPolicy()
	for _, c := range benchmarked {
		switch c.want {
		case nil, errMissingToken, errInvalidToken:
			b.Run(c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					if token, refused := presentedToken(c.r.Header); refused == nil {
						p.tokens.match(markOf(token))
					}
				}
			})
		}
	}
}

func BenchmarkCheckRoute(b *testing.B) {
	p := testPolicy()
	for _, c := range benchmarked {
		switch c.want {
		case nil, errRouteNotAllowed, errWebSocketNotEnabled:
			b.Run(c.name, func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					p.checkRoute(c.r)
				}
			})
		}
	}
}

func BenchmarkCheckCaller(b *testing.B) {
	p := testPolicy()
	for _, c := range benchmarked {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _, _ = p.checkCaller(c.r)
			}
		})
	}
}

// asServed is a copy of r that came over a connection.
func asServed(tb testing.TB, r *http.Request) *http.Request {
	conn, other := net.Pipe()
	tb.Cleanup(func() { _, _ = conn.Close(), other.Close() })
	served := r.Clone(keptconn.InContext(tb.Context(), conn))
	served.RequestURI = r.RequestURI
	return served
}

// What a request costs beside the checks: the answer's writer, the context with
// the key, and the request that has it; or the values of a refusal's headers.
func TestARequestAllocatesLittle(t *testing.T) {
	h, _ := testGate()
	h.logger = zap.NewNop()
	for _, c := range benchmarked {
		w, r := &discard{header: make(http.Header)}, asServed(t, c.r)
		if allocs := testing.AllocsPerRun(1000, func() { serveAgain(t, h, w, r, c.r.Header) }); allocs > 4 {
			t.Errorf("%s: a request allocates %v times, want 4 at most", c.name, allocs)
		}
	}
}

// serveAgain serves r with the headers it had, because the gate changes them.
func serveAgain(tb testing.TB, h *Handler, w *discard, r *http.Request, header http.Header) {
	for name, values := range header {
		r.Header[name] = values
	}
	w.reset()
	if err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(answerNothing)); err != nil {
		tb.Fatal(err)
	}
}

func BenchmarkRefuse(b *testing.B) {
	h, _ := testGate()
	h.logger = zap.NewNop()
	for _, c := range benchmarked {
		if c.want == nil {
			continue
		}
		b.Run(c.name, func(b *testing.B) {
			w := &discard{header: make(http.Header)}
			caller := h.policy.tokens.callers[0]
			b.ReportAllocs()
			for b.Loop() {
				w.reset()
				_ = h.refuse(w, c.r, caller, c.want)
			}
		})
	}
}

func BenchmarkRefusalWrite(b *testing.B) {
	w, r := &discard{header: make(http.Header)}, new(http.Request)
	b.ReportAllocs()
	for b.Loop() {
		errInvalidToken.Write(w, r)
		w.reset()
	}
}

func BenchmarkPreflight(b *testing.B) {
	p := testPolicy()
	p.origins = []string{"https://app.example"}
	r := changed(func(r *http.Request) {
		r.Method = http.MethodOptions
		r.Header = http.Header{
			"Origin":                         {"https://app.example"},
			"Access-Control-Request-Method":  {"POST"},
			"Access-Control-Request-Headers": {"content-type, x-proxy-token"},
		}
	})
	w := &discard{header: make(http.Header)}
	b.ReportAllocs()
	for b.Loop() {
		w.reset()
		p.answerPreflight(w, r)
	}
}

// BenchmarkCredentials is what becomes of a request's headers once it has
// passed: the caller's credentials go, and the Transport's copy has the key.
func BenchmarkCredentials(b *testing.B) {
	h, _ := testGate()
	for _, c := range benchmarked {
		if c.want != nil && c.want != errWebSocketNotEnabled {
			continue
		}
		b.Run(c.name, func(b *testing.B) {
			r := c.r.Clone(b.Context())
			b.ReportAllocs()
			for b.Loop() {
				for name, values := range c.r.Header {
					r.Header[name] = values
				}
				h.credential.dropCallerCredentials(r)
				_ = asSent(h.credential, r)
			}
		})
	}
}

// BenchmarkForward is what the answer's writer costs a request, and each event
// of its stream.
func BenchmarkForward(b *testing.B) {
	h, _ := testGate()
	h.logger = zap.NewNop()
	caller, presented := h.policy.tokens.callers[0], h.credential.current()
	event := []byte("event: response.output_text.delta\ndata: {\"delta\":\"word\"}\n\n")
	for _, events := range []int{0, 1, 1000} {
		b.Run(strconv.Itoa(events)+"-events", func(b *testing.B) {
			w, r := &discard{header: http.Header{"Content-Type": {"text/event-stream"}}}, asServed(b, goodRequest())
			stream := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				w.WriteHeader(http.StatusOK)
				flush := http.NewResponseController(w).Flush
				for range events {
					_, _ = w.Write(event)
					_ = flush()
				}
				return nil
			})
			b.ReportAllocs()
			for b.Loop() {
				answer, held := h.newAnswer(w, r, caller, presented)
				_ = h.forward(answer, held, stream, presented.key)
			}
		})
	}
}

// BenchmarkServeHTTP is what a request costs in the gate as a whole.
func BenchmarkServeHTTP(b *testing.B) {
	h, _ := testGate()
	h.logger = zap.NewNop()
	for _, c := range benchmarked {
		b.Run(c.name, func(b *testing.B) {
			w, r := &discard{header: make(http.Header)}, asServed(b, c.r)
			b.ReportAllocs()
			for b.Loop() {
				serveAgain(b, h, w, r, c.r.Header)
			}
		})
	}
}
