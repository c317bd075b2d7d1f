package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

func TestAFailureUpstreamIsAnsweredByTheGate(t *testing.T) {
	for name, c := range map[string]struct {
		err    error
		status int
		code   string
	}{
		"a plain error":                       {errors.New("dial tcp: connection refused"), 502, "upstream_unreachable"},
		"a deadline":                          {context.DeadlineExceeded, 502, "upstream_unreachable"},
		"Caddy's 500":                         {caddyhttp.Error(500, io.EOF), 502, "upstream_unreachable"},
		"Caddy's 502":                         {caddyhttp.Error(502, io.EOF), 502, "upstream_unreachable"},
		"Caddy's 503":                         {caddyhttp.Error(503, io.EOF), 503, "upstream_unavailable"},
		"Caddy's 504":                         {caddyhttp.Error(504, context.DeadlineExceeded), 504, "upstream_timeout"},
		"Caddy's 504, wrapped":                {fmt.Errorf("wrapped: %w", caddyhttp.Error(504, io.EOF)), 504, "upstream_timeout"},
		"a body that is too large":            {&http.MaxBytesError{Limit: 1}, 413, "request_too_large"},
		"a body that is too large, wrapped":   {fmt.Errorf("wrapped: %w", &http.MaxBytesError{Limit: 1}), 413, "request_too_large"},
		"a body that is too large, in a 502":  {caddyhttp.Error(502, &http.MaxBytesError{Limit: 1}), 413, "request_too_large"},
		"a rate limit behind the gate":        {caddyhttp.Error(429, nil), 429, "rate_limited"},
		"Caddy's 413":                         {caddyhttp.Error(413, io.EOF), 413, "request_too_large"},
		"Caddy's 400":                         {caddyhttp.Error(400, io.EOF), 400, "request_failed"},
		"Caddy's 401, which is not the token": {caddyhttp.Error(401, io.EOF), 400, "request_failed"},
		"Caddy's 403":                         {caddyhttp.Error(403, io.EOF), 400, "request_failed"},
		"Caddy's 408":                         {caddyhttp.Error(408, io.EOF), 400, "request_failed"},
		"an error that means no status":       {caddyhttp.Error(0, io.EOF), 502, "upstream_unreachable"},
		"an error that is no failure":         {caddyhttp.Error(200, io.EOF), 502, "upstream_unreachable"},
		"a caller who is gone":                {caddyhttp.Error(499, context.Canceled), 499, ""},
		"an error that asks for headers back": {caddyhttp.HandlerError{Err: io.EOF, StatusCode: 504}, 504, "upstream_timeout"},
	} {
		t.Run(name, func(t *testing.T) {
			h, logs := testGate()
			r := goodRequest()
			r.Header.Set("X-Proxy-Token", testToken)
			w := answerTo(t, h, r, func(w http.ResponseWriter, _ *http.Request) error {
				w.Header().Set("Access-Control-Allow-Origin", "*") // from an attempt that failed
				return c.err
			})
			if w.Code != c.status || w.Header().Get(codeHeaderName) != c.code {
				t.Errorf("the answer is %d %q, want %d %q", w.Code, w.Header().Get(codeHeaderName), c.status, c.code)
			}
			if (w.Body.Len() != 0) != (c.code != "") || strings.Contains(w.Body.String(), "EOF") {
				t.Errorf("the body is %s", w.Body)
			}
			if w.Header()["Access-Control-Allow-Origin"] != nil {
				t.Error("the upstream's CORS headers came through")
			}
			entries := logs.All()
			level := zap.ErrorLevel
			if c.status == 413 || c.status == 429 || c.status == 499 {
				level = zap.InfoLevel // nothing for the operator to mend
			}
			if len(entries) != 1 || entries[0].Level != level || entries[0].ContextMap()["status"] != int64(c.status) {
				t.Fatalf("logged %v", entries)
			}
			logged := fmt.Sprint(entries[0].Message, entries[0].ContextMap())
			if strings.Contains(logged, testToken) || leaks(logged) || !strings.Contains(logged, "/v1/responses") {
				t.Errorf("logged %s", logged)
			}
		})
	}
}

// What a caller got wrong is no reason to look at the upstream, or to try again.
func TestABrokenRequestBodyIsTheCallersFault(t *testing.T) {
	for name, c := range map[string]struct {
		broken     error
		protoMajor int
		err        error
		code       string
		connection string
	}{
		"malformed":                      {errors.New("invalid byte in chunk length"), 1, caddyhttp.Error(502, io.EOF), "request_failed", "close"},
		"broken off":                     {io.ErrUnexpectedEOF, 1, caddyhttp.Error(502, io.EOF), "request_failed", "close"},
		"malformed, over HTTP/2":         {io.ErrUnexpectedEOF, 2, caddyhttp.Error(502, io.EOF), "request_failed", ""},
		"too large":                      {&http.MaxBytesError{Limit: 1}, 1, &http.MaxBytesError{Limit: 1}, "request_too_large", ""},
		"malformed, and a late upstream": {io.ErrUnexpectedEOF, 1, caddyhttp.Error(504, io.EOF), "upstream_timeout", ""},
		"shorter than its length":        {io.EOF, 3, caddyhttp.Error(502, io.EOF), "request_failed", ""},
		"whole, and no upstream":         {io.EOF, 1, caddyhttp.Error(502, io.EOF), "upstream_unreachable", ""},
		"closed, and no upstream":        {http.ErrBodyReadAfterClose, 1, caddyhttp.Error(502, io.EOF), "upstream_unreachable", ""},
	} {
		t.Run(name, func(t *testing.T) {
			h, logs := testGate()
			r := goodRequest()
			r.ProtoMajor, r.Body = c.protoMajor, io.NopCloser(iotest.ErrReader(c.broken))
			if c.broken == io.EOF && c.code != "request_failed" {
				r.ContentLength = -1
			}
			w := answerTo(t, h, r, func(_ http.ResponseWriter, r *http.Request) error {
				_, _ = r.Body.Read(make([]byte, 1))
				return c.err
			})
			if got := w.Header().Get(codeHeaderName); got != c.code || w.Header().Get("Connection") != c.connection {
				t.Errorf("the answer is %q with Connection %q, want %q, %q", got, w.Header().Get("Connection"), c.code, c.connection)
			}
			entry := logs.All()[0]
			if callers := w.Code < 500; callers != (entry.Level == zap.InfoLevel) || entry.ContextMap()["status"] != int64(w.Code) {
				t.Errorf("a %d is logged as %s, %v", w.Code, entry.Level, entry.ContextMap())
			}
		})
	}
}

func TestAKeyInAForeignErrorIsNotLogged(t *testing.T) {
	for name, quoted := range map[string]string{
		"as it was sent": "malformed HTTP response: Authorization: Bearer " + testKey + "!",
		"bare":           "bad header value " + testKey,
		"twice":          testKey + " " + testKey,
	} {
		h, logs := testGate()
		answerTo(t, h, goodRequest(), func(http.ResponseWriter, *http.Request) error { return errors.New(quoted) })
		if logged := fmt.Sprint(logs.All()); leaks(logged) || !strings.Contains(logged, secret.Redacted) {
			t.Errorf("%s: logged %s", name, logged)
		}
	}
}

// A request may fail long after it began, when the key's file has changed.
func TestAFormerKeyInAForeignErrorIsNotLogged(t *testing.T) {
	h, logs := testGate()
	answerTo(t, h, goodRequest(), func(_ http.ResponseWriter, r *http.Request) error {
		quoted := errors.New("bad header value " + heldKeyOf(r.Context()).value.Reveal())
		h.credential.use(secret.New("skNew")) // what another request does that sees the file change
		return quoted
	})
	if logged := fmt.Sprint(logs.All()); leaks(logged) {
		t.Errorf("logged %s", logged)
	}
}

func TestAnAnswerThatBreaksOffIsNotTakenForTheWhole(t *testing.T) {
	for name, begin := range map[string]func(http.ResponseWriter){
		"after its header":    func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) },
		"after its body":      func(w http.ResponseWriter) { _, _ = io.WriteString(w, "data: 1\n") },
		"after a flush":       func(w http.ResponseWriter) { _ = http.NewResponseController(w).Flush() },
		"after a copy":        func(w http.ResponseWriter) { _, _ = io.Copy(w, strings.NewReader("data: 1\n")) },
		"after an error 500":  func(w http.ResponseWriter) { w.WriteHeader(http.StatusInternalServerError) },
		"and the caller left": func(w http.ResponseWriter) { w.WriteHeader(http.StatusOK) },
	} {
		t.Run(name, func(t *testing.T) {
			h, logs := testGate()
			r := goodRequest()
			defer func() {
				if thrown := recover(); thrown != http.ErrAbortHandler { //nolint:errorlint // as net/http compares it
					t.Errorf("thrown: %v", thrown)
				}
				if logs.FilterLevelExact(zap.ErrorLevel).Len() != 1 {
					t.Errorf("logged %v", logs.All())
				}
				if leaks(fmt.Sprint(r.Header)) {
					t.Error("the request still has the key")
				}
			}()
			err := h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				begin(w)
				return io.ErrUnexpectedEOF
			}))
			t.Errorf("the gate returned %v", err)
		})
	}
	t.Run("over the wire", func(t *testing.T) {
		h, _ := testGate()
		server := served(t, h, func(w http.ResponseWriter, _ *http.Request) error {
			_, _ = io.WriteString(w, "data: 1\n")
			_ = http.NewResponseController(w).Flush()
			return io.ErrUnexpectedEOF
		})
		out, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/responses", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		out.Header = goodRequest().Header
		answer, err := server.Client().Do(out)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		if body, err := io.ReadAll(answer.Body); err == nil {
			t.Errorf("the caller reads %q as a whole answer", body)
		}
	})
}

func TestAGateWithNothingBehindItSaysSo(t *testing.T) {
	for name, next := range map[string]caddyhttp.HandlerFunc{
		"at all":                        func(http.ResponseWriter, *http.Request) error { return nil },
		"but hints":                     func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(103); return nil },
		"but headers that nobody sends": func(w http.ResponseWriter, _ *http.Request) error { w.Header().Set("X", "y"); return nil },
	} {
		h, logs := testGate()
		w := answerTo(t, h, goodRequest(), next)
		if got := w.Header().Get(codeHeaderName); got != "upstream_missing" || !strings.Contains(w.Body.String(), "upstream_missing") {
			t.Errorf("%s: the answer is %d %q", name, w.Code, got)
		}
		if logs.FilterMessageSnippet("put reverse_proxy after").Len() != 1 {
			t.Errorf("%s: logged %v", name, logs.All())
		}
	}
}

// Handlers may log or copy the request, those before the gate when it is done.
func TestTheKeyIsInNoRequestThatAHandlerSees(t *testing.T) {
	for name, next := range map[string]caddyhttp.HandlerFunc{
		"after an answer": func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(200); return nil },
		"after a failure": func(http.ResponseWriter, *http.Request) error { return os.ErrDeadlineExceeded },
		"after a panic":   func(http.ResponseWriter, *http.Request) error { panic(http.ErrAbortHandler) },
		"after a 401":     func(w http.ResponseWriter, r *http.Request) error { takeKey(r); w.WriteHeader(401); return nil },
		"after no answer": func(http.ResponseWriter, *http.Request) error { return nil },
		"after it is kept": func(w http.ResponseWriter, r *http.Request) error {
			r.Header.Add("Authorization", "x")
			w.WriteHeader(200)
			return nil
		},
	} {
		for _, header := range []string{"Authorization", "api-key"} {
			h, _ := testGate()
			h.credential = newCredential(header, 1)
			h.credential.use(secret.New(testKey))
			r := goodRequest()
			r.Header.Set("Cookie", "a=b")
			func() {
				defer func() { _ = recover() }()
				_ = h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
					if _ = heldKeyOf(r.Context()).addTo(r); leaks(fmt.Sprint(r.Header)) {
						t.Errorf("%s: a handler sees the key", name)
					}
					return next(w, r)
				}))
			}()
			if printed := fmt.Sprint(r.Header); leaks(printed) || strings.Contains(printed, testToken) {
				t.Errorf("%s, in %s: the request has %s", name, header, printed)
			}
		}
	}
}

// net/http's client takes such an answer, and its server panics at it.
func TestAStatusThatIsNoneIsAnsweredByTheGate(t *testing.T) {
	for _, status := range []int{0, 99, 1000, -1} {
		h, logs := testGate()
		w := answerTo(t, h, goodRequest(), func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("X-Upstream", "odd")
			w.WriteHeader(status)
			_, err := io.WriteString(w, "odd")
			return err
		})
		if header := w.Result().Header; w.Code != http.StatusBadGateway || header.Get(codeHeaderName) != "upstream_unreachable" ||
			strings.Contains(fmt.Sprint(header, w.Body), "odd") {
			t.Errorf("status %d: the answer is %d %v %s", status, w.Code, header, w.Body)
		}
		if logs.FilterMessageSnippet("a status that is none").Len() != 1 {
			t.Errorf("status %d: logged %v", status, logs.All())
		}
	}
}
