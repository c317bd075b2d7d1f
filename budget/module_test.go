package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

// open makes a handler over a folder, as Provision does.
func open(t *testing.T, folder string, limits Limits, clients ...Client) *Handler {
	t.Helper()
	h := &Handler{Name: "default", Limits: limits, Client: clients, logger: zap.NewNop()}
	if err := h.resolve(); err != nil {
		t.Fatal(err)
	}
	book, err := openBook(&certmagic.FileStorage{Path: folder}, h.Name, h.logger)
	if err != nil {
		t.Fatal(err)
	}
	h.book = book
	h.book.join(h)
	t.Cleanup(func() { stop(t, h) })
	return h
}

// stop ends a handler as the end of the last config does; it may have ended.
func stop(t *testing.T, h *Handler) {
	t.Helper()
	select {
	case <-h.book.done:
	default:
		h.book.leave(h)
		if err := h.book.Destruct(); err != nil {
			t.Log(err) // (a test may have broken the storage)
		}
	}
}

type handlerFunc = caddyhttp.HandlerFunc

// answers answers with a whole response that costs so much.
func costs(input, output int) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/json")
		_, err := fmt.Fprintf(w, `{"model":"gpt-5","usage":{"input_tokens":%d,"output_tokens":%d}}`, input, output)
		return err
	}
}

// call makes a request of a caller's.
func call(t *testing.T, h *Handler, user, body string, next caddyhttp.Handler, edits ...func(*http.Request)) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, newRequest(user, body, edits...), next); err != nil {
		w.Code = http.StatusBadGateway
	}
	return w
}

// callWith makes a request whose answer is written elsewhere.
func callWith(t *testing.T, h *Handler, wrap func(http.ResponseWriter) http.ResponseWriter, next caddyhttp.Handler) {
	t.Helper()
	if err := h.ServeHTTP(wrap(httptest.NewRecorder()), newRequest("codex", "{}"), next); err != nil {
		t.Error(err)
	}
}

// newRequest is a request of a caller's.
func newRequest(user, body string, edits ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest("POST", "/v1/responses", strings.NewReader(body))
	replacer := caddy.NewReplacer()
	if user != "" {
		replacer.Set("http.auth.user.id", user)
	}
	r = r.WithContext(context.WithValue(r.Context(), caddy.ReplacerCtxKey, replacer))
	for _, edit := range edits {
		edit(r)
	}
	return r
}

// spentBy is what a caller has spent in a window.
func spentBy(t *testing.T, h *Handler, user, name string) Spent {
	t.Helper()
	w, err := parseWindow(name)
	if err != nil {
		t.Fatal(err)
	}
	spent, _, _ := h.book.standing(user, w, time.Now())
	return spent
}

func code(w *httptest.ResponseRecorder) string { return w.Header().Get(codeHeaderName) }

func TestARequestThatCrossesALimitEndsAndTheNextIsRefusedUntilTheWindowEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1h", Tokens: 100}}})
		if w := call(t, h, "codex", "{}", costs(90, 30)); w.Code != 200 || code(w) != "" {
			t.Fatalf("the first request got %d %s", w.Code, code(w))
		}
		w := call(t, h, "codex", "{}", costs(1, 1))
		var answer struct {
			Error struct {
				Type     string
				ResetsAt int64 `json:"resets_at"`
			}
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		resets := time.Now().Truncate(time.Hour).Add(time.Hour)
		if w.Code != 429 || code(w) != "budget_exhausted" || answer.Error.Type != "usage_limit_reached" || answer.Error.ResetsAt != resets.Unix() ||
			w.Header().Get("X-Should-Retry") != "false" || w.Header().Get("Retry-After") == "" {
			t.Errorf("the second request got %d %v %s", w.Code, w.Header(), w.Body)
		}
		if w := call(t, h, "other", "{}", costs(1, 1)); w.Code != 200 {
			t.Errorf("another caller got %d", w.Code)
		}
		time.Sleep(time.Until(resets))
		if w := call(t, h, "codex", "{}", costs(1, 1)); w.Code != 200 {
			t.Errorf("in the next window, it got %d %s", w.Code, w.Body)
		}
	})
}

func TestABudgetSurvivesARestartAndAddsUpOverReplicas(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		limits := Limits{Per: []Per{{Window: "1d", Requests: 5, Tokens: 1000}}}
		first, second := open(t, folder, limits), open(t, folder, limits)
		call(t, first, "codex", "{}", costs(1, 2))
		call(t, second, "codex", "{}", costs(10, 20))
		time.Sleep(saveInterval + readInterval)
		synctest.Wait()
		for _, h := range []*Handler{first, second} {
			if got := spentBy(t, h, "codex", "1d"); got.Tokens() != 33 || got.Calls() != 2 {
				t.Errorf("a replica counts %+v", got)
			}
		}
		call(t, first, "codex", "{}", costs(100, 200))
		stop(t, first)
		if got := spentBy(t, open(t, folder, limits), "codex", "1d"); got.Tokens() != 333 || got.Calls() != 3 {
			t.Errorf("after a restart, it counts %+v", got)
		}
	})
}

func TestLeavingEarlyIsNotFree(t *testing.T) {
	const deltas = "data: {\"type\":\"response.output_text.delta\",\"delta\":\"all of it\"}\n\n"
	for name, c := range map[string]struct {
		output int64
		next   handlerFunc
	}{
		"gone after the last delta": {tokensPerSecond, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, deltas)
			panic(http.ErrAbortHandler)
		}},
		"cut off": {tokensPerSecond, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, deltas)
			return errors.New("unexpected EOF")
		}},
		"gone when the answer was created": {tokensPerSecond, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: {\"type\":\"response.created\"}\n\n")
			panic(http.ErrAbortHandler)
		}},
		"a stream of which nothing has come": {defaultOutput, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, ": wait\n\n")
			panic(http.ErrAbortHandler)
		}},
		"no stream, but in name": {defaultOutput, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "text/event-stream")
			_, err := io.WriteString(w, "{\"output\":[],\n\"usage\":{\"input_tokens\":1,\"output_tokens\":15000}}")
			return err
		}},
		"gone before the header": {defaultOutput, func(http.ResponseWriter, *http.Request) error { return context.Canceled }},
		"gone in the midst of JSON": {defaultOutput, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"output":[`)
			return context.Canceled
		}},
		"not reached": {-200, func(http.ResponseWriter, *http.Request) error {
			return caddyhttp.Error(http.StatusBadGateway, reverseproxy.DialError{})
		}},
		"no usage": {defaultOutput, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Type", "application/json")
			_, err := io.WriteString(w, "{}")
			return err
		}},
		"compressed all the same": {defaultOutput, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Encoding", "br")
			w.WriteHeader(200)
			return nil
		}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 100_000}}})
				func() {
					defer func() { _ = recover() }()
					call(t, h, "codex", `{"input":"`+strings.Repeat("x", 588)+`"}`, c.next)
				}()
				// 600 bytes, and what the answer is taken for
				if got := spentBy(t, h, "codex", "1d"); got.Tokens() != 200+c.output || got.Estimated != got.Tokens() {
					t.Errorf("it is charged %+v", got)
				}
				if len(h.book.held) != 0 {
					t.Errorf("it is still reserved for: %v", h.book.held)
				}
			})
		})
	}
}

// (reverse_proxy answers 499 then, in the upstream's stead.)
func TestLeavingBeforeTheAnswerBeginsIsNotFree(t *testing.T) {
	for name, c := range map[string]struct {
		left   bool
		output int64
	}{"the caller has left": {true, defaultOutput}, "an upstream says so": {false, -3}} {
		t.Run(name, func(t *testing.T) {
			h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 100_000}}})
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			call(t, h, "codex", `{"a":1}`, handlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
				if c.left {
					leave()
				}
				w.WriteHeader(499)
				return nil
			}), func(r *http.Request) {
				*r = *r.WithContext(context.WithValue(ctx, caddy.ReplacerCtxKey, replacerOf(r)))
			})
			if got := spentBy(t, h, "codex", "1d"); got.Tokens() != 3+c.output || got.Estimated != got.Tokens() || got.Calls() != 1 {
				t.Errorf("it is charged %+v", got)
			}
		})
	}
}
