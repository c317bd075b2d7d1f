package responsesproxygate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

// deadKey is a gate, and an upstream that takes one key and no other.
type deadKey struct {
	*Handler
	good string // the key that the upstream takes
	hits int    // requests that reached it
}

func (d *deadKey) upstream(w http.ResponseWriter, r *http.Request) error {
	d.hits++
	takeKey(r)
	if !strings.HasSuffix(heldKeyOf(r.Context()).value.Reveal(), d.good) {
		w.WriteHeader(http.StatusUnauthorized)
		return nil
	}
	_, err := io.WriteString(w, "{}")
	return err
}

// asks sends requests, of which each must be answered with a status.
func (d *deadKey) asks(t *testing.T, status int, times int, change func(*http.Request)) {
	t.Helper()
	for range times {
		r := goodRequest()
		if change != nil {
			change(r)
		}
		w := answerTo(t, d.Handler, r, d.upstream)
		if w.Code != status {
			t.Fatalf("answered %d %s, want %d", w.Code, w.Body, status)
		}
		if status == http.StatusBadRequest && w.Result().Header["X-Should-Retry"] == nil {
			t.Errorf("nothing tells clients not to try again: %v", w.Result().Header)
		}
	}
}

func (d *deadKey) saw(t *testing.T, hits int) {
	t.Helper()
	if d.hits != hits {
		t.Fatalf("%d requests reached the upstream, want %d", d.hits, hits)
	}
}

func TestADeadKeyCostsOneUpstreamRequestForEachWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		d := &deadKey{Handler: h, good: "skNew"}
		for n, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60} {
			d.asks(t, http.StatusBadRequest, 30, nil) // as many as Codex made of one turn
			d.saw(t, n+1)
			if lines := logs.FilterLevelExact(zap.ErrorLevel).Len(); lines != n+1 {
				t.Errorf("%d errors are logged in %d waits", lines, n+1)
			}
			time.Sleep(wait * time.Second)
		}
		d.good = testKey // the upstream takes it again
		d.asks(t, http.StatusOK, 3, nil)
		d.saw(t, 8+3)
		h.trail.close()
	})
}

func TestAnotherKeyEndsTheWaitAtOnce(t *testing.T) {
	h, _ := testGate()
	d := &deadKey{Handler: h, good: "skNew"}
	d.asks(t, http.StatusBadRequest, 2, nil)
	h.credential.use(secret.New(testKey)) // a file that was written, with the same key
	d.asks(t, http.StatusBadRequest, 2, nil)
	d.saw(t, 1)
	h.credential.use(secret.New("skNew"))
	d.asks(t, http.StatusOK, 2, nil)
	d.saw(t, 3)
}

// The key's former value may be refused long after it was replaced.
func TestALate401OfAFormerKeyHoldsNobodyBack(t *testing.T) {
	h, logs := testGate()
	answerTo(t, h, goodRequest(), func(w http.ResponseWriter, r *http.Request) error {
		takeKey(r)
		h.credential.use(secret.New("skNew")) // what the watcher of its file does
		w.WriteHeader(http.StatusUnauthorized)
		return nil
	})
	d := &deadKey{Handler: h, good: "skNew"}
	d.asks(t, http.StatusOK, 1, nil)
	if logs.FilterLevelExact(zap.ErrorLevel).Len() != 0 {
		t.Errorf("logged %v", logs.All())
	}
}

// Otherwise one caller could lock out all others.
func TestAnAccountThatACallerNamesHoldsNobodyBack(t *testing.T) {
	for _, name := range []string{"Openai-Organization", "Openai-Project"} {
		t.Run(name, func(t *testing.T) {
			h, logs := testGate()
			h.credential.allowed = []string{"Openai-Organization", "Openai-Project"}
			for range 3 {
				r := goodRequest()
				r.Header.Set(name, "of-somebody-else")
				w := answerTo(t, h, r, func(w http.ResponseWriter, r *http.Request) error {
					takeKey(r)
					w.WriteHeader(http.StatusUnauthorized)
					return nil
				})
				if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), errAccountRefused.Code) {
					t.Errorf("the answer is %d %s", w.Code, w.Body)
				}
			}
			d := &deadKey{Handler: h, good: testKey}
			d.asks(t, http.StatusOK, 1, nil)
			if logs.Len() != 0 {
				t.Errorf("logged %v", logs.All())
			}
		})
	}
}

// A server that is down says nothing of the key.
func TestAnUpstreamThatFailsDoesNotEndTheWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := testGate()
		d := &deadKey{Handler: h, good: "skNew"}
		d.asks(t, http.StatusBadRequest, 2, nil)
		time.Sleep(time.Second)
		answerTo(t, h, goodRequest(), func(w http.ResponseWriter, r *http.Request) error {
			takeKey(r)
			w.WriteHeader(http.StatusInternalServerError)
			return nil
		})
		d.asks(t, http.StatusBadRequest, 2, nil)
		d.saw(t, 1)
		time.Sleep(time.Second)
		answerTo(t, h, goodRequest(), func(w http.ResponseWriter, r *http.Request) error {
			takeKey(r)
			w.WriteHeader(http.StatusTooManyRequests)
			return nil
		})
		d.good = testKey
		d.asks(t, http.StatusOK, 2, nil)
		h.trail.close()
	})
}

// Go's server cuts the connection of a request whose body is still on its way.
func TestACallerWhoStillSendsSeesThatTheKeyIsDead(t *testing.T) {
	h, _ := testGate()
	server := served(t, h, func(w http.ResponseWriter, r *http.Request) error {
		takeKey(r)
		_, err := io.Copy(io.Discard, r.Body) // (of the first request, and of one for each wait on a slow machine)
		w.WriteHeader(http.StatusUnauthorized)
		return err
	})
	for range 20 {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		const length = 4 << 20
		_, err = fmt.Fprintf(conn, "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+
			"X-Proxy-Token: %s\r\nContent-Length: %d\r\n\r\n%s", testToken, length, strings.Repeat(" ", length))
		if err != nil {
			t.Fatalf("the connection is cut: %v", err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("the caller sees no answer: %v", err)
		}
		if answer.StatusCode != http.StatusBadRequest {
			t.Fatalf("status %d", answer.StatusCode)
		}
		_ = conn.Close()
	}
}

func TestAHeldBackRequestIsCountedAndWritten(t *testing.T) {
	h, logs := testGate()
	d := &deadKey{Handler: h, good: "skNew"}
	d.asks(t, http.StatusBadRequest, 3, nil)
	var lines int
	for _, entry := range logs.FilterMessage("refused").All() {
		if strings.Contains(fmt.Sprint(entry.ContextMap()), "upstream_unauthorized") {
			lines++
		}
	}
	if lines != 2 {
		t.Errorf("of 2 requests that were held back, %d are in the audit trail: %v", lines, logs.All())
	}
	h.trail.close()
}

// OpenAI answers 401 to a key that lacks a scope. A caller who knows a route for
// which it does must not keep the others from theirs.
func TestARouteForWhichTheKeyLacksAScopeHoldsNoOtherBack(t *testing.T) {
	h := openGate()
	h.credential = newCredential("Authorization", len(h.policy.routes))
	h.credential.use(secret.New(testKey))
	hits := 0
	upstream := func(w http.ResponseWriter, r *http.Request) error {
		hits++
		takeKey(r)
		if strings.HasSuffix(r.URL.Path, "/models") {
			w.WriteHeader(http.StatusUnauthorized)
			return nil
		}
		_, err := io.WriteString(w, "{}")
		return err
	}
	for range 3 {
		models := goodRequest()
		models.Method, models.RequestURI, models.URL.Path, models.Body, models.ContentLength = http.MethodGet, "/v1/models", "/v1/models", http.NoBody, 0
		if w := answerTo(t, h, models, upstream); w.Code != http.StatusBadRequest {
			t.Fatalf("models: %d %s", w.Code, w.Body)
		}
		if w := answerTo(t, h, goodRequest(), upstream); w.Code != http.StatusOK {
			t.Fatalf("responses: %d %s", w.Code, w.Body)
		}
	}
	if hits != 1+3 {
		t.Errorf("%d requests reached the upstream, want 4", hits)
	}
	if !h.isHealthy(goodRequest()) {
		t.Error("the gate is not healthy")
	}
}

func TestAPresetsModelsAreNoWebSocket(t *testing.T) {
	p := &policy{routes: presets["codex"]}
	r := goodRequest()
	r.Method, r.RequestURI, r.URL.Path, r.URL.RawQuery = http.MethodGet, "/v1/models?a=b", "/v1/models", "a=b"
	if refused := p.checkRoute(r); refused != nil {
		t.Errorf("over HTTP: %v", refused)
	}
	r.Header["Connection"], r.Header["Upgrade"] = []string{"Upgrade"}, []string{"websocket"}
	if refused := p.checkRoute(r); refused != errWebSocketNotEnabled {
		t.Errorf("as a WebSocket: %v", refused)
	}
}
