package responsesproxygate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// drip is a body of single bytes, each after a while, without end.
type drip struct{ pause time.Duration }

func (d drip) Read(p []byte) (int, error) {
	time.Sleep(d.pause)
	p[0] = ' '
	return 1, nil
}

func (d drip) Close() error { return nil }

// With a byte now and then, a request goes on for ever.
func TestABodyThatDripsIsGivenUp(t *testing.T) {
	for _, length := range []int64{1 << 20, -1} {
		for _, c := range []struct {
			pause   time.Duration
			started bool // the answer, before the body has come
			given   bool // up
		}{
			{40 * time.Second, false, true},
			{2 * time.Millisecond, false, true},
			{40 * time.Second, true, true},
			{time.Millisecond / 2, false, false},
		} {
			t.Run(fmt.Sprint(length, c), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h, _ := testGate()
					begin := time.Now()
					r := goodRequest()
					r.Body, r.ContentLength = drip{c.pause}, length
					var failed error
					w := httptest.NewRecorder()
					err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
						if _, failed = io.CopyN(io.Discard, r.Body, 200_000); failed != nil {
							if _, again := r.Body.Read(make([]byte, 1)); !errors.Is(again, failed) {
								t.Errorf("who reads on waits again, for %v", again)
							}
							return caddyhttp.Error(http.StatusBadGateway, failed)
						}
						w.WriteHeader(http.StatusOK)
						return nil
					}))
					if err != nil {
						t.Error(err)
					}
					if took := time.Since(begin); c.given && (failed == nil || took > 2*time.Minute) {
						t.Errorf("it goes on for %v, and ends by %v", took, failed)
					}
					if code := w.Header().Get(codeHeaderName); (code == errRequestTooSlow.Code) != c.given {
						t.Errorf("answered %d %s", w.Code, code)
					}
				})
			})
		}
	}
}

// slowUpstream is a next handler that takes a byte each hour.
func slowUpstream(w http.ResponseWriter, r *http.Request) error {
	for one := make([]byte, 1); ; time.Sleep(time.Hour) {
		if _, err := r.Body.Read(one); err == io.EOF {
			w.WriteHeader(http.StatusOK)
			return nil
		} else if err != nil {
			return err
		}
	}
}

func TestACallerIsNotGivenUpForASlowUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := testGate()
		if w := answerTo(t, h, goodRequest(), slowUpstream); w.Code != http.StatusOK {
			t.Errorf("answered %d %s", w.Code, w.Body)
		}
	})
}

// The "body" of a WebSocket over HTTP/2 is the session.
func TestAWebSocketNeedsNoPace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := testGate()
		h.policy.routes = append(h.policy.routes, Route{Method: http.MethodGet, Path: "/v1/responses"})
		r := goodRequest()
		r.Method, r.ProtoMajor, r.Body, r.ContentLength = http.MethodConnect, 2, drip{time.Hour}, -1
		r.Header[":protocol"] = []string{"websocket"}
		w := answerTo(t, h, r, func(w http.ResponseWriter, r *http.Request) error {
			if n, err := io.CopyN(io.Discard, r.Body, 10); err != nil {
				t.Errorf("it ends after %d bytes: %v", n, err)
			}
			w.WriteHeader(http.StatusOK)
			return nil
		})
		if w.Code != http.StatusOK {
			t.Errorf("answered %d %s", w.Code, w.Body)
		}
	})
}

// While the operator's key is dead, bodies are read to their end.
func TestABodyThatDripsIsGivenUpWhileTheKeyIsDead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := goodRequest()
		r.Body, r.ContentLength = drip{40 * time.Second}, 1<<20
		begin := time.Now()
		if takeBody(r); time.Since(begin) > 2*time.Minute {
			t.Errorf("it goes on for %v", time.Since(begin))
		}
	})
}

// One caller's requests leave the others room, and what ends makes room.
func TestNoCallerHasMoreRequestsUnderWayThanItsShare(t *testing.T) {
	h, _ := testGate()
	h.logger = zap.NewNop()
	tokens := tokensOf("default", testToken)
	other := strings.Repeat("o", 43)
	h.policy.tokens = newTokenSet(append(tokens.callers, tokensOf("other", other).callers...), nil)
	h.policy.shutdownPath = ""
	end := make(chan struct{})
	var begun, all sync.WaitGroup
	waits := func(w http.ResponseWriter, _ *http.Request) error {
		begun.Done()
		<-end
		w.WriteHeader(http.StatusOK)
		return nil
	}
	for range maxInFlight() {
		begun.Add(1)
		all.Go(func() {
			if w := answerTo(t, h, goodRequest(), waits); w.Code != http.StatusOK {
				t.Errorf("answered %d %s", w.Code, w.Body)
			}
		})
	}
	begun.Wait()
	for range 3 { // what is refused takes no room, and makes none
		w := answerTo(t, h, goodRequest(), unreached(t))
		if w.Code != http.StatusTooManyRequests || w.Header().Get(codeHeaderName) != "too_many_in_flight" || w.Header().Get("Retry-After") != "1" {
			t.Errorf("answered %d %v", w.Code, w.Header())
		}
	}
	r := goodRequest()
	r.Header.Set("Authorization", "Bearer "+other)
	if w := answerTo(t, h, r, answerOK); w.Code != http.StatusOK {
		t.Errorf("the other caller got %d %s", w.Code, w.Body)
	}
	close(end)
	all.Wait()
	if w := answerTo(t, h, goodRequest(), answerOK); w.Code != http.StatusOK {
		t.Errorf("afterwards: %d %s", w.Code, w.Body)
	}
}

func TestAWebSocketHandshakeHasNoBody(t *testing.T) {
	for name, c := range map[string]struct {
		proto  int
		length int64
		want   *refusal
	}{
		"HTTP/1, the control": {1, 0, nil}, "HTTP/1 with a body": {1, 2, errWebSocketWithBody}, "HTTP/1 in chunks": {1, -1, errWebSocketWithBody},
		"HTTP/2, the control": {2, -1, nil}, "HTTP/2 with a body": {2, 2, errWebSocketWithBody},
		"HTTP/3, the control": {3, -1, nil}, "HTTP/3 with a body": {3, 2, errWebSocketWithBody},
	} {
		p := testPolicy()
		p.routes = append(p.routes, Route{Method: http.MethodGet, Path: "/v1/responses"})
		r := goodRequest()
		r.ProtoMajor, r.ContentLength = c.proto, c.length
		switch c.proto {
		case 1:
			r.Method = http.MethodGet
			r.Header["Upgrade"], r.Header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
		case 2:
			r.Method = http.MethodConnect
			r.Header[":protocol"] = []string{"websocket"}
		case 3:
			r.Method, r.Proto = http.MethodConnect, "websocket"
		}
		if got := check(p, r); got != c.want {
			t.Errorf("%s: %s", name, codeOf(got))
		}
	}
}

// A caller who reads nothing has the gate hold what the upstream sends.
func TestACallerWhoDoesNotReadHoldsLittleOfAnHTTP2Answer(t *testing.T) {
	sent := make(chan int, 1)
	up := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		out := http.NewResponseController(w)
		_ = out.SetWriteDeadline(time.Now().Add(2 * time.Second)) // by then, it is stuck
		total := 0
		for {
			n, err := w.Write(make([]byte, 16<<10))
			total += n
			if err != nil {
				sent <- total
				return
			}
		}
	}))
	up.EnableHTTP2 = true
	up.StartTLS()
	defer up.Close()
	for _, control := range []bool{true, false} {
		transport := up.Client().Transport.(*http.Transport).Clone()
		if !control {
			leaveDeadConnections(transport, connectionKeepAlive)
		}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, up.URL, nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil || answer.ProtoMajor != 2 {
			t.Fatal(answer, err)
		}
		if got := <-sent; (got > 1<<20) != control {
			t.Errorf("control %t: the upstream could send %d bytes of an answer that nobody reads", control, got)
		}
		_ = answer.Body.Close()
		transport.CloseIdleConnections()
	}
}
