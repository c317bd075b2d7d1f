package responsesproxygate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/keptconn"
)

// Whoever was let in with the first byte may be revoked before the last one.
func TestABankedRequestOfARevokedCallersIsNotFinished(t *testing.T) {
	const first, rest = `{"model":"gpt-5","input":`, `"a new prompt"}`
	for _, length := range []int64{int64(len(first + rest)), -1} {
		for proto, serve := range map[string]func(*testing.T, *Handler, caddyhttp.HandlerFunc) *httptest.Server{
			"HTTP/1": served, "HTTP/2": servedHTTP2,
		} {
			for _, revoked := range []bool{true, false} {
				t.Run(fmt.Sprintf("%s, length %d, revoked %t", proto, length, revoked), func(t *testing.T) {
					h, _ := testGate()
					begun := make(chan struct{})
					var got []byte
					var gotErr error
					server := serve(t, h, func(w http.ResponseWriter, r *http.Request) error {
						one := make([]byte, 1)
						if _, err := io.ReadFull(r.Body, one); err != nil {
							t.Errorf("the first byte: %v", err)
						}
						close(begun)
						got, gotErr = io.ReadAll(r.Body)
						if gotErr != nil {
							w.WriteHeader(statusClientGone) // as reverse_proxy does
							return nil
						}
						w.WriteHeader(http.StatusOK)
						return nil
					})
					body, send := io.Pipe()
					go func() {
						_, _ = io.WriteString(send, first)
						<-begun
						if revoked {
							h.policy.tokens.callers[0].gone.Store(true)
						}
						_, _ = io.WriteString(send, rest)
						_ = send.Close()
					}()
					r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/responses", body)
					if err != nil {
						t.Fatal(err)
					}
					r.ContentLength = length
					r.Header = http.Header{"Content-Type": {"application/json"}, "X-Proxy-Token": {testToken}}
					answer, err := server.Client().Do(r)
					if err != nil {
						t.Fatal(err)
					}
					defer answer.Body.Close()
					text, _ := io.ReadAll(answer.Body)
					if !revoked {
						if answer.StatusCode != http.StatusOK || gotErr != nil || string(got) != (first + rest)[1:] {
							t.Errorf("the control: %d, upstream has %q, %v", answer.StatusCode, got, gotErr)
						}
						return
					}
					if answer.StatusCode != http.StatusUnauthorized || !strings.Contains(string(text), "access_ended") {
						t.Errorf("the answer is %d %s", answer.StatusCode, text)
					}
					if !errors.Is(gotErr, context.Canceled) || strings.HasSuffix(string(got), "}") {
						t.Errorf("the upstream has %q, %v", got, gotErr)
					}
				})
			}
		}
	}
}

func TestAWholeRequestGoesOnWithoutItsCaller(t *testing.T) {
	h, _ := testGate()
	answer, body := send(t, served(t, h, func(w http.ResponseWriter, r *http.Request) error {
		if _, err := io.ReadAll(r.Body); err != nil {
			return err
		}
		h.policy.tokens.callers[0].gone.Store(true)
		_, err := io.WriteString(w, "answer")
		return err
	}))
	if answer.StatusCode != http.StatusOK || body != "answer" {
		t.Errorf("the answer is %d %q", answer.StatusCode, body)
	}
}

func TestARunningConfigDecidesForRequestsOfFormerOnes(t *testing.T) {
	h, _ := testGate()
	caller, token := h.policy.tokens.callers[0], markOf(testToken)
	without, with := newTokenSet(nil, nil), newTokenSet(h.policy.tokens.callers, nil)
	for _, c := range []struct {
		what    string
		running *tokenSet
		want    bool
	}{
		{"no config has started", nil, true},
		{"its own runs", h.policy.tokens, true},
		{"a later one has taken the caller out", without, false},
		{"a later one has the caller, too", with, true},
	} {
		h.metrics.running.Store(c.running)
		if got := h.stillAdmits(caller, token); got != c.want {
			t.Errorf("%s: admitted %t", c.what, got)
		}
	}
	former := *h // a gate that has just been set up, beside one that still runs
	former.metrics.running.Store(without)
	policy := *h.policy
	policy.tokens = newTokenSet(h.policy.tokens.callers, nil)
	former.policy = &policy
	if !former.stillAdmits(caller, token) {
		t.Error("a config that runs no more decides for a later one's request")
	}
}

func TestABodyThatGoesOnOneByteLateIsTheSameBody(t *testing.T) {
	whole := []byte(strings.Repeat("0123456789", 5000))
	h, _ := testGate()
	for _, length := range []int{0, 1, 2, 3, 511, 40 << 10} {
		for name, in := range map[string]func(io.Reader) io.Reader{
			"at once":              func(r io.Reader) io.Reader { return r },
			"byte by byte":         iotest.OneByteReader,
			"in halves":            iotest.HalfReader,
			"with the end at once": iotest.DataErrReader,
		} {
			for _, room := range []int{1, 2, 3, 512, 64 << 10} {
				body := callersBody{
					ReadCloser: io.NopCloser(in(bytes.NewReader(whole[:length]))), left: -1, late: true,
					access: &access{handler: h, caller: h.policy.tokens.callers[0], token: markOf(testToken)},
				}
				var got []byte
				buffer := make([]byte, room)
				var err error
				for err == nil {
					var n int
					n, err = body.Read(buffer)
					got = append(got, buffer[:n]...)
					if n == 0 && err == nil {
						t.Fatal("nothing is read, and no error")
					}
				}
				if err != io.EOF || !bytes.Equal(got, whole[:length]) {
					t.Errorf("%s, %d bytes into %d: %d bytes come through, %v", name, length, room, len(got), err)
				}
			}
		}
	}
}

func TestABodyWithoutBytesIsLeftAlone(t *testing.T) {
	h, _ := testGate()
	for _, r := range []*http.Request{httptest.NewRequest(http.MethodGet, "/v1/responses", nil), httptest.NewRequest(http.MethodGet, "/v1/responses", http.NoBody)} {
		for _, length := range []int64{0, -1} {
			r.ContentLength = length
			before := r.Body
			answer, r := h.newAnswer(httptest.NewRecorder(), r, h.policy.tokens.callers[0], h.credential.current())
			answer.wrapBody(r)
			if r.Body != before {
				t.Errorf("length %d: the body is %T", length, r.Body)
			}
			answer.cutOff()
		}
	}
}

// A stream need not end, and a caller need not read it.
func TestAnExitCutsOffWhatDoesNotEnd(t *testing.T) {
	for name, stream := range map[string]func(w http.ResponseWriter, r *http.Request) error{
		"silent": func(w http.ResponseWriter, r *http.Request) error {
			_, _ = io.ReadAll(r.Body)
			_ = http.NewResponseController(w).Flush()
			<-r.Context().Done()
			return r.Context().Err()
		},
		"to a caller who does not read": func(w http.ResponseWriter, r *http.Request) error {
			_, _ = io.ReadAll(r.Body)
			for {
				if _, err := w.Write(make([]byte, 64<<10)); err != nil {
					return err
				}
			}
		},
		"from a caller who does not write": func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(io.Discard, r.Body)
			return err
		},
	} {
		for _, over := range []string{"HTTP/1", "HTTP/2", "what is not known"} {
			t.Run(name+", over "+over, func(t *testing.T) {
				h, _ := testGate()
				begun, ended := make(chan struct{}), make(chan struct{})
				server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					_ = h.ServeHTTP(w, r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
						defer close(ended)
						close(begun)
						return stream(w, r)
					}))
				}))
				if over != "what is not known" {
					server.Config.ConnContext = keptconn.InContext // as Provision has it
				}
				server.EnableHTTP2 = over == "HTTP/2"
				server.StartTLS()
				t.Cleanup(server.Close)
				body, write := io.Pipe()
				defer write.Close()
				go func() {
					_, _ = io.WriteString(write, "{}")
					if name != "from a caller who does not write" {
						_ = write.Close()
					}
				}()
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/responses", body)
				if err != nil {
					t.Fatal(err)
				}
				r.Header = http.Header{"Content-Type": {"application/json"}, "X-Proxy-Token": {testToken}}
				go func() {
					if answer, err := server.Client().Do(r); err == nil {
						<-ended
						_ = answer.Body.Close()
					}
				}()
				<-begun
				if underWay.cutOff() == 0 {
					t.Error("no request is under way")
				}
				<-ended
			})
		}
	}
}
