package responsesproxygate

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
)

// takeKey is what the Transport does first.
func takeKey(r *http.Request) { heldKeyOf(r.Context()).taken.Store(true) }

// OpenAI's 401 quotes a part of the operator's key.
func TestAnUpstreams401TellsTheCallerNothing(t *testing.T) {
	const secretPart = "Incorrect API key provided: skOp***6789"
	for name, next := range map[string]caddyhttp.HandlerFunc{
		"written": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusUnauthorized)
			for range 3 {
				if n, err := io.WriteString(w, secretPart); n != len(secretPart) || err != nil {
					return fmt.Errorf("wrote %d, %w", n, err)
				}
			}
			return nil
		},
		"without a body": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusUnauthorized)
			return nil
		},
		"after an informational answer": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusEarlyHints)
			w.WriteHeader(http.StatusUnauthorized)
			_, err := io.WriteString(w, secretPart)
			return err
		},
		"copied": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusUnauthorized)
			n, err := w.(io.ReaderFrom).ReadFrom(strings.NewReader(secretPart))
			if n != int64(len(secretPart)) {
				t.Errorf("%d bytes were taken", n)
			}
			return err
		},
		"flushed": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusUnauthorized)
			if err := http.NewResponseController(w).Flush(); err != nil {
				return err
			}
			_, err := io.WriteString(w, secretPart)
			return errors.Join(err, http.NewResponseController(w).Flush())
		},
		"with announced trailers": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Trailer", "X-Secret")
			w.WriteHeader(http.StatusUnauthorized)
			w.Header().Set("X-Secret", secretPart)
			return nil
		},
		"with other trailers": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusUnauthorized)
			w.Header().Set(http.TrailerPrefix+"X-Secret", secretPart)
			return nil
		},
		"with trailers through a header it kept": func(w http.ResponseWriter, _ *http.Request) error {
			header := w.Header()
			w.WriteHeader(http.StatusUnauthorized)
			header.Set(http.TrailerPrefix+"X-Secret", secretPart)
			return nil
		},
		"and a second status": func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusUnauthorized)
			w.Header().Set("X-Secret", secretPart)
			w.WriteHeader(http.StatusOK)
			_, err := io.WriteString(w, secretPart)
			return err
		},
	} {
		for proto, serve := range map[string]func(*testing.T, *Handler, caddyhttp.HandlerFunc) *httptest.Server{
			"over HTTP/1": served, "over HTTP/2": servedHTTP2,
		} {
			t.Run(name+" "+proto, func(t *testing.T) {
				h, logs := testGate()
				answer, body := send(t, serve(t, h, func(w http.ResponseWriter, r *http.Request) error {
					takeKey(r)
					w.Header().Set("Www-Authenticate", `Bearer realm="`+secretPart+`"`)
					w.Header().Set("X-Secret-Header", secretPart)
					w.Header().Set("Content-Length", "117")
					return next(w, r)
				}))
				if answer.StatusCode != http.StatusBadRequest || body != string(errUpstreamUnauthorized.Body) {
					t.Errorf("the answer is %d %q", answer.StatusCode, body)
				}
				if all := fmt.Sprint(answer.Header, answer.Trailer, body); strings.Contains(all, "skOp") || strings.Contains(all, "Www-Authenticate") {
					t.Errorf("a part of the upstream's answer came through: %s", all)
				}
				if got := answer.Header.Get(codeHeaderName); got != "upstream_unauthorized" {
					t.Errorf("the code is %q", got)
				}
				errorsLogged := logs.FilterLevelExact(zap.ErrorLevel).All()
				if len(errorsLogged) != 1 || !strings.Contains(errorsLogged[0].Message, "renew the key") || strings.Contains(fmt.Sprint(errorsLogged), "skOp") {
					t.Errorf("logged %v", errorsLogged)
				}
			})
		}
	}
}

// The withheld answer's body may break off, or cost too much to read on: the
// caller's answer is complete all the same.
func TestAWithheld401ThatBreaksOffIsStillAnswered(t *testing.T) {
	h, _ := testGate()
	w := httptest.NewRecorder()
	defer func() {
		if thrown := recover(); thrown != nil {
			t.Errorf("the connection is cut (%v) though the gate's answer was complete", thrown)
		}
		if w.Code != http.StatusBadRequest {
			t.Errorf("status %d", w.Code)
		}
	}()
	_ = h.ServeHTTP(w, goodRequest(), caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		takeKey(r)
		w.WriteHeader(http.StatusUnauthorized)
		return io.ErrUnexpectedEOF
	}))
}

// A withheld answer may never end, or say one thing more after another.
func TestAWithheld401ThatDoesNotEndIsCutOff(t *testing.T) {
	for name, next := range map[string]caddyhttp.HandlerFunc{
		"written": func(w http.ResponseWriter, _ *http.Request) error {
			for range 1 << 20 {
				if _, err := w.Write(make([]byte, 1<<10)); err != nil {
					return err
				}
			}
			t.Error("1 GiB was taken")
			return nil
		},
		"copied": func(w http.ResponseWriter, _ *http.Request) error {
			n, err := io.Copy(w, io.LimitReader(endless{}, 1<<30))
			if err == nil {
				t.Errorf("%d bytes were taken", n)
			}
			return err
		},
		"copied by a handler that then panics": func(w http.ResponseWriter, _ *http.Request) error {
			if _, err := io.Copy(w, io.LimitReader(endless{}, 1<<30)); err != nil {
				panic(http.ErrAbortHandler) // as reverse_proxy does
			}
			return nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			h, _ := testGate()
			answer, body := send(t, served(t, h, func(w http.ResponseWriter, r *http.Request) error {
				takeKey(r)
				w.WriteHeader(http.StatusUnauthorized)
				return next(w, r)
			}))
			if answer.StatusCode != http.StatusBadRequest || body != string(errUpstreamUnauthorized.Body) {
				t.Errorf("the answer is %d %q", answer.StatusCode, body)
			}
		})
	}
}

type endless struct{}

func (endless) Read(data []byte) (int, error) { return len(data), nil }

func TestAPanicBehindAWithheld401IsNotSwallowed(t *testing.T) {
	h, _ := testGate()
	defer func() {
		if thrown := recover(); thrown != "a bug" {
			t.Errorf("thrown: %v", thrown)
		}
	}()
	_ = h.ServeHTTP(httptest.NewRecorder(), goodRequest(), caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		takeKey(r)
		w.WriteHeader(http.StatusUnauthorized)
		panic("a bug")
	}))
}

func TestALate401DoesNotBreakIntoAnAnswer(t *testing.T) {
	h, logs := testGate()
	w := answerTo(t, h, goodRequest(), func(w http.ResponseWriter, _ *http.Request) error {
		_, err := io.WriteString(w, "one ")
		w.WriteHeader(http.StatusUnauthorized) // superfluous
		_, err2 := io.WriteString(w, "two")
		return errors.Join(err, err2)
	})
	if w.Code != http.StatusOK || w.Body.String() != "one two" || logs.Len() != 0 {
		t.Errorf("the answer is %d %q, logged %v", w.Code, w.Body, logs.All())
	}
}

// A client that follows takes its gate token and the prompt along.
func TestAnUpstreamsRedirectReachesNoCaller(t *testing.T) {
	for _, status := range []int{300, 301, 302, 303, 304, 305, 307, 308, 399} {
		for _, location := range []string{"https://attacker.example/", ""} {
			t.Run(fmt.Sprint(status, location), func(t *testing.T) {
				h, _ := testGate()
				server := served(t, h, func(w http.ResponseWriter, _ *http.Request) error {
					if location != "" {
						w.Header().Set("Location", location)
					}
					w.Header().Set("Link", location)
					w.WriteHeader(status)
					return nil
				})
				client := *server.Client()
				followed := false
				client.CheckRedirect = func(*http.Request, []*http.Request) error {
					followed = true
					return http.ErrUseLastResponse
				}
				server.Client().CheckRedirect = client.CheckRedirect
				answer, body := send(t, server)
				if location == "" {
					if answer.StatusCode != status {
						t.Errorf("the answer is %d, and nobody can follow it", answer.StatusCode)
					}
					return
				}
				if answer.StatusCode != http.StatusBadGateway || body != string(errUpstreamRedirects.Body) || followed {
					t.Errorf("the answer is %d %q, followed %t", answer.StatusCode, body, followed)
				}
				if strings.Contains(fmt.Sprint(answer.Header), "attacker") || answer.Header.Get("X-Should-Retry") != "false" {
					t.Errorf("its headers are %v", answer.Header)
				}
			})
		}
	}
}

// The access log has what is in the writer's header when the request ends.
func TestAWithheldAnswersHeadersAreThereForTheAccessLog(t *testing.T) {
	h, _ := testGate()
	w := httptest.NewRecorder()
	err := h.ServeHTTP(w, goodRequest(), caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		header := w.Header()
		header.Set("Location", "/elsewhere")
		w.WriteHeader(http.StatusFound)
		header.Set("X-Late", "of the upstream's")
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Header(); got.Get(codeHeaderName) != "upstream_redirects" || got.Get("Content-Type") != "application/json" || got.Get("X-Late") != "" || got.Get("Location") != "" {
		t.Errorf("the headers at the end are %v, those that were sent %v", got, w.Result().Header)
	}
}

func TestNoTrailerOfAnUpstreamsSaysThatTheGateRefused(t *testing.T) {
	for name, next := range map[string]caddyhttp.HandlerFunc{
		"announced": func(w http.ResponseWriter, _ *http.Request) error {
			w.Header().Set("Trailer", codeHeaderName+", X-Checksum")
			_, err := io.WriteString(w, "answer")
			w.Header().Set(codeHeaderName, "forged")
			w.Header().Set("X-Checksum", "kept")
			return err
		},
		"not announced": func(w http.ResponseWriter, _ *http.Request) error {
			_, err := io.WriteString(w, "answer")
			err = errors.Join(err, http.NewResponseController(w).Flush())
			w.Header().Set(http.TrailerPrefix+codeHeaderName, "forged")
			w.Header().Set(http.TrailerPrefix+"X-Checksum", "kept")
			return err
		},
	} {
		for proto, serve := range map[string]func(*testing.T, *Handler, caddyhttp.HandlerFunc) *httptest.Server{
			"over HTTP/1": served, "over HTTP/2": servedHTTP2,
		} {
			t.Run(name+" "+proto, func(t *testing.T) {
				h, _ := testGate()
				answer, _ := send(t, serve(t, h, next))
				if got := answer.Trailer.Get(codeHeaderName); got != "" || answer.Trailer.Get("X-Checksum") != "kept" {
					t.Errorf("the trailers are %v", answer.Trailer)
				}
			})
		}
	}
}
