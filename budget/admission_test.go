package budget

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// waits answers when it is told to.
func waits(release <-chan struct{}, next handlerFunc) handlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		<-release
		return next(w, r)
	}
}

// asking is a body that asks for so many tokens at most.
func asking(maxOutput int) string { return fmt.Sprintf(`{"max_output_tokens":%d}`, maxOutput) }

func TestManyRequestsAtTheEdgeSpendNoMoreThanTheLimitAndOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 1000}}})
		release := make(chan struct{})
		var codes sync.Map
		var group sync.WaitGroup
		for range 200 {
			group.Go(func() {
				w := call(t, h, "codex", asking(300), waits(release, costs(10, 290)))
				n, _ := codes.LoadOrStore(fmt.Sprint(w.Code, " ", code(w)), new(atomic.Int64))
				n.(*atomic.Int64).Add(1)
			})
		}
		synctest.Wait()
		close(release)
		group.Wait()
		n, _ := codes.Load("200 ")
		passed := n.(*atomic.Int64).Load()
		if passed != 3 { // (each reserves 309 or so)
			t.Errorf("%d passed", passed)
		}
		if n, ok := codes.Load("429 budget_reserved"); !ok || n.(*atomic.Int64).Load() != 197 {
			t.Error("the others were not told to try again soon")
		}
		// What is left is for one more, which may cross the limit.
		if w := call(t, h, "codex", asking(300), costs(10, 290)); w.Code != 200 {
			t.Errorf("the request that crosses the limit got %d %s", w.Code, code(w))
		}
		if w := call(t, h, "codex", asking(300), costs(10, 290)); code(w) != "budget_exhausted" {
			t.Errorf("the next got %d %s", w.Code, code(w))
		}
		if got := spentBy(t, h, "codex", "1d").Tokens(); got != 1200 {
			t.Errorf("%d were spent", got)
		}
	})
}

func TestRequestsUnderWayAreNoMoreThanAllowedAndAWaitingBodyIsOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{Concurrent: 2, Per: []Per{{Window: "1d", Tokens: 1 << 30}}})
		release := make(chan struct{})
		var group sync.WaitGroup
		group.Go(func() { call(t, h, "codex", "{}", waits(release, costs(1, 1))) })
		body, rest := io.Pipe()
		group.Go(func() {
			call(t, h, "codex", "", costs(1, 1), func(r *http.Request) { r.Body, r.ContentLength = body, -1 })
		})
		synctest.Wait()
		if w := call(t, h, "codex", "{}", costs(1, 1)); code(w) != "too_many_at_once" || w.Header().Get("Retry-After") != "2" || w.Header().Get("X-Should-Retry") != "" {
			t.Errorf("the third got %d %v", w.Code, w.Header())
		}
		if w := call(t, h, "other", "{}", costs(1, 1)); w.Code != 200 {
			t.Errorf("another caller got %d %s", w.Code, code(w))
		}
		_, _ = io.WriteString(rest, "{}")
		_ = rest.Close()
		close(release)
		group.Wait()
		if w := call(t, h, "codex", "{}", costs(1, 1)); w.Code != 200 {
			t.Errorf("when they had ended, it got %d %s", w.Code, code(w))
		}
	})
}

func TestRequestsAreCountedWhateverComesOfThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "10m", Requests: 2}, {Window: "1d", Requests: 3}}})
		fails := handlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusBadRequest)
			return nil
		})
		for i, want := range []string{"", "", "budget_exhausted"} {
			if w := call(t, h, "codex", "{}", fails); code(w) != want {
				t.Errorf("request %d: %q, want %q", i, code(w), want)
			}
		}
		if got := spentBy(t, h, "codex", "1d"); got.Tokens() != 0 || got.Calls() != 2 {
			t.Errorf("what the upstream refused cost %+v", got)
		}
		time.Sleep(10 * time.Minute)
		call(t, h, "codex", "{}", fails)
		w := call(t, h, "codex", "{}", fails)
		if !strings.Contains(w.Body.String(), "3 requests per 1d") {
			t.Errorf("of two limits, it was not told the one that lasts longer: %s", w.Body)
		}
	})
}

func TestACallerWithLimitsOfItsOwnHasThemAndOthersNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 10, Requests: 100}}},
			Client{Name: "ci", Limits: Limits{Per: []Per{{Window: "1d", Tokens: 1000}, {Window: "1h", Requests: 2}}}})
		for _, user := range []string{"ci", "codex"} {
			call(t, h, user, "{}", costs(10, 10))
		}
		if w := call(t, h, "codex", "{}", costs(1, 1)); code(w) != "budget_exhausted" {
			t.Errorf("codex got %d", w.Code)
		}
		if w := call(t, h, "ci", "{}", costs(1, 1)); w.Code != 200 {
			t.Errorf("ci got %d %s", w.Code, w.Body)
		}
		if w := call(t, h, "ci", "{}", costs(1, 1)); !strings.Contains(w.Body.String(), "2 requests per 1h") {
			t.Errorf("ci got %d %s", w.Code, w.Body)
		}
	})
}

func TestWhoSetsTheClockBackGetsNoWindowTwice(t *testing.T) {
	h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1h", Tokens: 100}}})
	limits, now := h.limits, time.Date(2030, 5, 6, 12, 30, 0, 0, time.UTC)
	spend := func(now time.Time) reason {
		r, said := h.book.enter("codex", limits, now)
		if said.reason != admitted {
			return said.reason
		}
		defer r.end()
		if said := r.admit(limits, amount{tokens: 10}, now); said.reason != admitted {
			return said.reason
		}
		r.book("", Spent{Input: 100}, now)
		return admitted
	}
	for i, step := range []struct {
		now  time.Time
		want reason
	}{
		{now, admitted},
		{now, exhausted},
		{now.Add(-time.Hour), exhausted},      // back: the hour before is not open again
		{now.Add(-48 * time.Hour), exhausted}, // nor any other
		{now.Add(time.Hour), admitted},        // forward: the next window
		{now, exhausted},                      // and set right: the clock stands still until it has caught up
		{now.Add(2 * time.Hour), admitted},
	} {
		if got := spend(step.now); got != step.want {
			t.Errorf("step %d: %d, want %d", i, got, step.want)
		}
	}
}

func TestARefusalNamesWhatItIsAbout(t *testing.T) {
	for member, wrong := range map[string]string{"max_output_tokens": `"5"`, "store": `1`, "background": `"no"`, "tools": `{}`} {
		if _, err := readAsked([]byte(`{"`+member+`":`+wrong+`}`), false); err == nil || !strings.Contains(string(errBody.Body), member) {
			t.Errorf("%s of a wrong type: %v, and a caller is told %s", member, err, errBody.Body)
		}
		if _, err := readAsked([]byte(`{"`+member+`":null}`), false); err != nil {
			t.Errorf("%s may be null, and gets %v", member, err)
		}
	}
	for _, path := range []string{"/v1/responses", "/v1/responses/compact"} {
		r := httptest.NewRequest(http.MethodPost, path, nil)
		if !isCounted(r) || !regexp.MustCompile(path+`[ ,]`).Match(errRoute.Body) {
			t.Errorf("%s is counted (%v), and a caller is told %s", path, isCounted(r), errRoute.Body)
		}
	}
}

func TestWhatCannotBeCountedIsRefusedWhereTokensAreLimited(t *testing.T) {
	route := func(method, path string) func(*http.Request) {
		return func(r *http.Request) { r.Method, r.URL.Path = method, path }
	}
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	for name, c := range map[string]struct {
		body   string
		edit   func(*http.Request)
		status int
		code   string
	}{
		"a response":                 {"{}", nil, 200, ""},
		"an unknown length":          {`{"input":"x"}`, func(r *http.Request) { r.ContentLength = -1 }, 200, ""},
		"compaction":                 {"{}", route("POST", "/v1/responses/compact"), 200, ""},
		"a list":                     {"", route("GET", "/v1/models"), 200, ""},
		"the end of a response":      {"", route("POST", "/v1/responses/resp_1/cancel"), 200, ""},
		"what looks like one":        {"{}", route("POST", "/v1/batches/cancel"), 400, "route_not_counted"},
		"images":                     {"{}", route("POST", "/v1/images/generations"), 400, "route_not_counted"},
		"chat completions":           {"{}", route("POST", "/v1/chat/completions"), 400, "route_not_counted"},
		"a websocket":                {"", func(r *http.Request) { r.Method = "GET"; r.Header.Set("Upgrade", "websocket") }, 426, "websocket_not_counted"},
		"a websocket over HTTP/2":    {"", func(r *http.Request) { r.Method = "CONNECT" }, 426, "websocket_not_counted"},
		"another protocol, offered":  {"{}", header("Upgrade", "h2c"), 200, ""},
		"a websocket by POST":        {"{}", header("Upgrade", "websocket"), 200, ""},
		"a compressed request":       {"{}", header("Content-Encoding", "zstd"), 400, "encoding_not_readable"},
		"no compression":             {"{}", header("Content-Encoding", "identity"), 200, ""},
		"no body":                    {"", nil, 400, "body_not_readable"},
		"no object":                  {"[]", nil, 400, "body_not_readable"},
		"two objects":                {"{}{}", nil, 400, "body_not_readable"},
		"a name twice":               {`{"max_output_tokens":1,"max_output_tokens":99}`, nil, 400, "body_not_readable"},
		"a name twice, escaped":      {`{"max_output_tokens":1,"max_outp\u0075t_tokens":99}`, nil, 400, "body_not_readable"},
		"a name twice, deep down":    {`{"input":[{"a":1,"a":2}]}`, nil, 400, "body_not_readable"},
		"a name in another case":     {`{"Background":true}`, nil, 400, "body_not_readable"},
		"a name that is no UTF-8":    {"{\"backgr\xffound\":true}", nil, 400, "body_not_readable"},
		"half a surrogate in a text": {`{"input":"cut off \ud83d"}`, nil, 200, ""},
		"no tokens at most":          {asking(0), nil, 400, "body_not_readable"},
		"fewer":                      {asking(-5), nil, 400, "body_not_readable"},
		"tokens as text":             {`{"max_output_tokens":"5"}`, nil, 400, "body_not_readable"},
		"tokens as null":             {`{"max_output_tokens":null}`, nil, 200, ""},
		"in the background":          {`{"background":true}`, nil, 400, "background_refused"},
		"not in the background":      {`{"background":false}`, nil, 200, ""},
		"too large":                  {"{}", func(r *http.Request) { r.Body = io.NopCloser(tooLarge{}) }, 400, "request_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				limited := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 1 << 30}}})
				var got string
				next := handlerFunc(func(w http.ResponseWriter, r *http.Request) error {
					content, err := io.ReadAll(r.Body)
					got = string(content)
					if r.Header.Get("Accept-Encoding") != "identity" || r.Header["Upgrade"] != nil {
						t.Errorf("it is sent on with %v", r.Header)
					}
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, `{"usage":{"input_tokens":1,"output_tokens":1}}`)
					return err
				})
				edit := c.edit
				if edit == nil {
					edit = func(*http.Request) {}
				}
				w := call(t, limited, "codex", c.body, next, edit)
				if w.Code != c.status || code(w) != c.code {
					t.Errorf("it got %d %s: %s", w.Code, code(w), w.Body)
				}
				if c.status == 200 && got != c.body {
					t.Errorf("%q was sent on", got)
				}
				if want := int64(0); c.status != 200 && spentBy(t, limited, "codex", "1d").Requests != want {
					t.Error("what was refused is counted")
				}
				if len(limited.book.held) != 0 {
					t.Errorf("it is still under way: %v", limited.book.held)
				}
			})
		})
	}
}

// tooLarge is a body that the server has a limit for.
type tooLarge struct{}

func (tooLarge) Read([]byte) (int, error) { return 0, &http.MaxBytesError{Limit: 1} }

func TestNothingIsReadOrRefusedWithoutALimitOfTokens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Requests: 100}}})
		for _, edit := range []func(*http.Request){
			func(r *http.Request) { r.URL.Path = "/v1/images/generations" },
			func(r *http.Request) { r.Header.Set("Upgrade", "websocket") }, // (no handshake, so not free)
			func(r *http.Request) { r.Header.Set("Content-Encoding", "zstd") },
		} {
			if w := call(t, h, "codex", "no JSON", costs(1, 1), edit); w.Code != 200 {
				t.Errorf("it got %d %s", w.Code, code(w))
			}
		}
		if got := spentBy(t, h, "codex", "1d"); got.Calls() != 3 || got.Tokens() != 6 {
			t.Errorf("they cost %+v", got)
		}
	})
}

func TestOnlyTheBudgetSaysItsCode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{})
		w := call(t, h, "codex", "{}", handlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set(codeHeaderName, "forged")
			w.Header().Set("Trailer", codeHeaderName)
			w.WriteHeader(200)
			w.Header().Set(codeHeaderName, "forged")
			w.Header().Set(http.TrailerPrefix+codeHeaderName, "forged")
			return nil
		}))
		if result := w.Result(); result.Header.Get(codeHeaderName) != "" || result.Trailer.Get(codeHeaderName) != "" || w.Header().Get(http.TrailerPrefix+codeHeaderName) != "" {
			t.Errorf("it got %v %v", result.Header, result.Trailer)
		}
		if w := call(t, h, "", "{}", costs(1, 1)); w.Code != 500 || code(w) != "no_user" {
			t.Errorf("nobody got %d %s", w.Code, code(w))
		}
	})
}

func TestAnAnswerPassesAsItComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 100_000}}})
		events := []string{"data: {\"type\":\"response.output_text.delta\"}\n\n", "data: " + completed, "\n\n"}
		var w *flushes
		next := handlerFunc(func(rw http.ResponseWriter, _ *http.Request) error {
			rw.Header().Set("Content-Type", "text/event-stream")
			rw.WriteHeader(http.StatusEarlyHints)
			for i, event := range events {
				_, _ = io.Copy(rw, strings.NewReader(event))
				if err := http.NewResponseController(rw).Flush(); err != nil {
					t.Error(err)
				}
				if w.flushed != strings.Join(events[:i+1], "") {
					t.Errorf("after event %d, the caller has %q", i, w.flushed)
				}
				if got := spentBy(t, h, "codex", "1d").Tokens(); (got == 46) != (i > 0) {
					t.Errorf("after event %d, %d are spent", i, got)
				}
			}
			return nil
		})
		callWith(t, h, func(rw http.ResponseWriter) http.ResponseWriter {
			w = &flushes{ResponseWriter: rw}
			return w
		}, next)
		if fmt.Sprint(w.statuses) != "[103 200]" {
			t.Errorf("the statuses were %v", w.statuses)
		}
	})
}

// flushes notes what had been written at the last flush.
type flushes struct {
	http.ResponseWriter
	statuses         []int
	written, flushed string
}

func (f *flushes) WriteHeader(status int) { f.statuses = append(f.statuses, status) }

func (f *flushes) Write(p []byte) (int, error) {
	f.written += string(p)
	return len(p), nil
}

func (f *flushes) Flush() { f.flushed = f.written }
