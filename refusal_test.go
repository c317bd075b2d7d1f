package responsesproxygate

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/timeouts"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// testGate is a provisioned gate with defaults, testToken and testKey, and
// what it logs.
func testGate() (*Handler, *observer.ObservedLogs) {
	core, logs := observer.New(zap.DebugLevel)
	h := &Handler{
		Name: "default", logger: zap.New(core), policy: testPolicy(), credential: newCredential("Authorization", 1),
		AllowRoute: []Route{{Method: http.MethodPost, Path: "/v1/responses"}},
	}
	h.credential.use(secret.New(testKey))
	h.metrics = newGateMetrics(h.Name)
	h.openAuditTrail()
	return h, logs
}

// served runs a gate behind a real net/http server.
func served(t *testing.T, h *Handler, next caddyhttp.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h.ServeHTTP(w, r, next); err != nil {
			t.Errorf("the gate returned an error to Caddy: %v", err)
		}
	}))
	t.Cleanup(server.Close)
	return server
}

// unreached is a next handler that no request may get to.
func unreached(t *testing.T) caddyhttp.HandlerFunc {
	return func(http.ResponseWriter, *http.Request) error {
		t.Error("the request went upstream")
		return nil
	}
}

// allRefusals are the answers of the gate's own, with the status each must have.
var allRefusals = map[*refusal]int{
	errOriginNotAllowed: 403, errCrossSiteRequest: 403, errHostNotAllowed: 403, errContentTypeNotJSON: 415,
	errMissingToken: 401, errInvalidToken: 401, errRouteNotAllowed: 403, errWebSocketNotEnabled: 426,
	errUpstreamUnauthorized: 400, errIdentityUnavailable: 503, errAccountRefused: 400, errUpstreamUnreachable: 502, errUpstreamUnavailable: 503, errUpstreamTimeout: 504,
	errRequestTooLarge: 413, errRequestFailed: 400, errNoUpstream: 502, errTooEarly: 425, errUpstreamRedirects: 502,
	errTokenEnded: 401, errRateLimited: 429,
	errRequestTooSlow: 408, errWebSocketWithBody: 400, errTooManyInFlight: 429,
}

func TestTheListOfRefusalsIsWhole(t *testing.T) {
	const others = 7 // outcomes that are no refusals
	if got, want := len(allRefusals), len(outcomesOfGate)+len(outcomesOfCallers)-others; got != want {
		t.Errorf("the list has %d refusals, the gate %d", got, want)
	}
}

func TestEveryRefusalCanBeReadByAnOpenAIClient(t *testing.T) {
	codes := make(map[string]bool)
	for refused, status := range allRefusals {
		t.Run(refused.Code, func(t *testing.T) {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { refused.Write(w, r) }))
			defer server.Close()
			got, err := server.Client().Get(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			defer got.Body.Close()
			text, err := io.ReadAll(got.Body)
			if err != nil || got.StatusCode != status {
				t.Errorf("status %d, want %d (%v)", got.StatusCode, status, err)
			}
			var body map[string]map[string]any
			if err := json.Unmarshal(text, &body); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			answer := body["error"]
			param, hasParam := answer["param"]
			message, _ := answer["message"].(string)
			if len(body) != 1 || len(answer) != 4 || answer["code"] != refused.Code || param != nil || !hasParam || len(message) < 20 {
				t.Errorf("the body is %s", text)
			}
			wantType := map[int]string{401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}[status]
			if status >= 500 {
				wantType = "server_error"
			} else if wantType == "" {
				wantType = "invalid_request_error"
			}
			if answer["type"] != wantType {
				t.Errorf("the type is %v, want %s", answer["type"], wantType)
			}
			want := http.Header{
				"Content-Type": {"application/json"}, "Content-Length": {strconv.Itoa(len(text))}, "Cache-Control": {"no-store"},
				"X-Content-Type-Options": {"nosniff"}, "X-Responses-Proxy-Gate": {refused.Code},
			}
			if status == http.StatusUnauthorized {
				want["Www-Authenticate"] = []string{"Bearer"}
			}
			if status == http.StatusUpgradeRequired {
				want["Upgrade"] = []string{"HTTP/1.1"}
			}
			if refused == errTooManyInFlight {
				want["Retry-After"] = []string{"1"}
			}
			if refused == errUpstreamUnauthorized || refused == errAccountRefused || refused == errUpstreamRedirects {
				want["X-Should-Retry"] = []string{"false"}
			}
			if got.Header.Del("Date"); !reflect.DeepEqual(got.Header, want) {
				t.Errorf("the headers are %v, want %v", got.Header, want)
			}
			if codes[refused.Code] {
				t.Error("the code is used twice")
			}
			codes[refused.Code] = true
		})
	}
}

// A handler around the gate, such as Caddy's header directive with a
// replacement, changes header values in place.
func TestWhatIsDoneToOneRefusalsHeadersLeavesTheNextOneWhole(t *testing.T) {
	for refused := range allRefusals {
		first, second := httptest.NewRecorder(), httptest.NewRecorder()
		refused.Write(first, new(http.Request))
		want := first.Header().Clone()
		for name, values := range first.Header() {
			values[0] = "changed"
			defer copy(values, want[name]) // for the tests after this one
		}
		refused.Write(second, new(http.Request))
		if got := second.Header(); !reflect.DeepEqual(got, want) {
			t.Fatalf("%s: the next answer has the headers %v, want %v", refused.Code, got, want)
		}
	}
}

func TestAddingToOneRefusalsHeadersLeavesTheNextOneWhole(t *testing.T) {
	for range 2 {
		w := httptest.NewRecorder()
		errMissingToken.Write(w, new(http.Request))
		for name, values := range w.Header() {
			if len(values) != 1 {
				t.Errorf("%s is %q", name, values)
			}
			w.Header().Add(name, "added")
		}
	}
}

func TestTheBodyOfARefusedRequestIsNotWaitedFor(t *testing.T) {
	for name, c := range map[string]struct {
		proto  int
		length int64
		expect string
		want   string // of Connection
	}{
		"HTTP/1 without a body":            {1, 0, "", ""},
		"HTTP/1 with a body like Codex's":  {1, 40 << 10, "", ""},
		"HTTP/1 with a large body":         {1, 1 << 20, "", "close"},
		"HTTP/1 with a body of any length": {1, -1, "", "close"},
		"HTTP/1 that expects 100 Continue": {1, 2, "100-continue", "close"},
		"HTTP/2 with a body":               {2, 2, "", ""},
		"HTTP/3 with a body":               {3, -1, "", ""},
	} {
		r := goodRequest()
		r.ProtoMajor, r.ContentLength = c.proto, c.length
		if c.expect != "" {
			r.Header.Set("Expect", c.expect)
		}
		w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
		leaveBody(w, r)
		if got := w.Header().Get("Connection"); got != c.want {
			t.Errorf("%s: Connection is %q, want %q", name, got, c.want)
		}
		if bounded := !w.deadline.IsZero(); bounded != (c.proto == 1 && c.length != 0) {
			t.Errorf("%s: reading is bounded: %v", name, bounded)
		}
	}
}

// Caddy bounds bodies itself. A handler around the gate may put another deadline
// in force, or have net/http skip the body before Caddy is done with the request.
func TestNoHandlerAroundTheGateMakesARefusedBodyWaitedForLonger(t *testing.T) {
	w := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}
	body := &caddyhttp.IdleTimeoutReader{
		ReadCloser: io.NopCloser(strings.NewReader("{}")), Ctrl: http.NewResponseController(w),
		Deadline: caddyhttp.IdleDeadline{Timeout: time.Hour}, Logger: zap.NewNop(), DrainDeadline: true,
	}
	isShort := func(when string) {
		t.Helper()
		if left := time.Until(w.deadline); w.deadline.IsZero() || left > refusedBodyTimeout {
			t.Errorf("%s, the body is waited for %s, want %s at most", when, left, refusedBodyTimeout)
		}
	}
	r := goodRequest()
	r = r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), body, nil))
	around := timeouts.Timeouts{ReadTimeout: time.Minute}
	err := around.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		leaveBody(w, r)
		isShort("while handlers around the gate may write")
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	body.HandlerDone()
	isShort("when Caddy is done with the request")
}

// A handler behind the gate prepares an answer, and then returns an error.
func TestARefusalIsWholeWhateverAnotherHandlerHasLeftInTheHeader(t *testing.T) {
	for _, left := range []string{"2", "900"} {
		h, _ := testGate()
		answer, body := send(t, served(t, h, func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Content-Length", left)
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Trailer", "X-Sum")
			w.Header().Set("Retry-After", "7")
			return caddyhttp.Error(http.StatusTooManyRequests, errors.New("later"))
		}))
		if body != string(errRateLimited.Body) || answer.ContentLength != int64(len(body)) || answer.Header["Content-Encoding"] != nil || answer.Trailer != nil {
			t.Errorf("after %s bytes were announced: %v %q", left, answer.Header, body)
		}
		if answer.Header.Get("Retry-After") != "7" {
			t.Error("the caller is not told when to try again")
		}
	}
}

// deadlineRecorder records the deadlines that are set through it.
type deadlineRecorder struct {
	*httptest.ResponseRecorder
	deadline, writing time.Time
}

func (w *deadlineRecorder) SetWriteDeadline(deadline time.Time) error {
	w.writing = deadline
	return nil
}

func (w *deadlineRecorder) SetReadDeadline(deadline time.Time) error {
	w.deadline = deadline
	return nil
}

func TestARefusalNeverQuotesTheRequest(t *testing.T) {
	const mark = "markthatmustnotcomeback"
	h, logs := testGate()
	h.policy.shutdownPath = "/shutdown"
	requests := []func(*http.Request){
		func(r *http.Request) { r.Header.Set("Origin", "https://"+mark) },
		func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", mark) },
		func(r *http.Request) { r.Host = mark },
		func(r *http.Request) { r.Header.Set("Content-Type", mark) },
		func(r *http.Request) { r.Header.Set("Authorization", mark) },
		func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+mark) },
		func(r *http.Request) { r.Header.Set("X-Proxy-Token", mark) },
		func(r *http.Request) { r.Method = mark },
		func(r *http.Request) { r.RequestURI, r.URL.Path = "/"+mark, "/"+mark },
	}
	for i, spoil := range requests {
		r := goodRequest()
		spoil(r)
		w := httptest.NewRecorder()
		if err := h.ServeHTTP(w, r, unreached(t)); err != nil {
			t.Errorf("request %d: %v", i, err)
		}
		if answer := fmt.Sprint(w.Header(), w.Body); strings.Contains(answer, mark) || w.Code < 400 {
			t.Errorf("request %d: status %d, %s", i, w.Code, answer)
		}
	}
	if logs.Len() != len(requests) {
		t.Errorf("%d of %d refusals are in the audit trail", logs.Len(), len(requests))
	}
	for _, entry := range logs.All() {
		fields := entry.ContextMap()
		delete(fields, "path") // (which the audit trail is there to tell)
		if logged := fmt.Sprint(entry.Message, fields); strings.Contains(logged, mark) {
			t.Errorf("logged: %s", logged)
		}
	}
}

// The body of a refused request is neither asked for nor read: it could be
// huge, and slow.
func TestARefusedRequestsBodyIsNeverRead(t *testing.T) {
	h, _ := testGate()
	server := served(t, h, unreached(t))
	for name, head := range map[string]string{
		"that waits for 100 Continue": "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 1000000\r\n\r\n",
		"that is longer than memory":  "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 1000000000000\r\n\r\n",
		"that comes in chunks":        "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, head); err != nil {
				t.Fatal(err)
			}
			// No body is ever sent: a server that waits for it answers nothing.
			status, err := bufio.NewReader(conn).ReadString('\n')
			if err != nil || status != "HTTP/1.1 401 Unauthorized\r\n" {
				t.Errorf("the first line of the answer is %q, %v", status, err)
			}
		})
	}
}
