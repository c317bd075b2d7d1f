package responsesproxygate

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// answerOK is a next handler that takes the body.
func answerOK(w http.ResponseWriter, r *http.Request) error {
	if _, err := io.Copy(io.Discard, r.Body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

// held are requests, and whether a connection goes on after them.
var held = []struct {
	name, head, code     string
	overHTTP1, overHTTP2 bool
}{
	{"a page's", "POST /v1/responses\nOrigin: https://attacker.example", "origin_not_allowed", false, false},
	{"a preflight", "OPTIONS /v1/responses\nOrigin: https://app.example\nAccess-Control-Request-Method: POST", "", false, false},
	{"one for the health endpoint", "GET /healthz", "", false, false},
	{"one without a token", "GET /", "missing_token", false, false},
	{"one with a wrong token", "GET /\nX-Proxy-Token: wrong", "invalid_token", false, false},
	{"one of a caller's for another route", "GET /\nX-Proxy-Token: " + testToken, "route_not_allowed", false, true},
	{"a good one, the control", "GET /v1/models\nX-Proxy-Token: " + testToken, "", true, true},
}

// heldGate is a gate that answers them.
func heldGate() *Handler {
	h, _ := testGate()
	h.logger = zap.NewNop()
	h.HealthEndpoint = "/healthz"
	h.policy.origins = []string{"https://app.example"}
	h.policy.routes = append(h.policy.routes, Route{Method: http.MethodGet, Path: "/v1/models"})
	return h
}

// Anybody could have connections, each for one refused request, until there are
// none left for callers.
func TestARefusedRequestHoldsNoConnection(t *testing.T) {
	server := served(t, heldGate(), answerOK)
	for _, c := range held {
		t.Run(c.name, func(t *testing.T) {
			conn, err := net.Dial("tcp", server.Listener.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			line, headers, _ := strings.Cut(c.head+"\n", "\n")
			sent := line + " HTTP/1.1\r\nHost: localhost\r\n" + strings.ReplaceAll(headers, "\n", "\r\n") + "\r\n"
			_, _ = io.WriteString(conn, sent)
			reader := bufio.NewReader(conn)
			answer, err := http.ReadResponse(reader, nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, answer.Body); err != nil || answer.Header.Get(codeHeaderName) != c.code {
				t.Fatalf("answered %d %v, %v", answer.StatusCode, answer.Header, err)
			}
			if answer.Close == c.overHTTP1 {
				t.Errorf("the answer says that the connection ends: %t", answer.Close)
			}
			_, _ = io.WriteString(conn, sent)
			if _, err := http.ReadResponse(reader, nil); (err == nil) != c.overHTTP1 {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}

// h2Conn is a connection of somebody who writes frames.
type h2Conn struct {
	*http2.Framer
	net.Conn
	t *testing.T
}

func dialHTTP2(t *testing.T, server *httptest.Server, settings ...http2.Setting) *h2Conn {
	t.Helper()
	conn, err := tls.Dial("tcp", server.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_, _ = io.WriteString(conn, http2.ClientPreface)
	framer := http2.NewFramer(conn, conn)
	if err := framer.WriteSettings(settings...); err != nil {
		t.Fatal(err)
	}
	return &h2Conn{framer, conn, t}
}

// ask sends a request without a body.
func (c *h2Conn) ask(stream uint32, head string) {
	c.t.Helper()
	line, headers, _ := strings.Cut(head, "\n")
	method, path, _ := strings.Cut(line, " ")
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	write := func(name, value string) { _ = encoder.WriteField(hpack.HeaderField{Name: name, Value: value}) }
	write(":method", method)
	write(":scheme", "https")
	write(":authority", "localhost")
	write(":path", path)
	for line := range strings.SplitSeq(headers, "\n") {
		if name, value, ok := strings.Cut(line, ": "); ok {
			write(strings.ToLower(name), value)
		}
	}
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true})
	if err != nil {
		c.t.Fatal(err)
	}
}

// await reads frames until one is wanted, or the connection ends.
func (c *h2Conn) await(wanted func(http2.Frame) bool) error {
	for {
		frame, err := c.ReadFrame()
		if err != nil || wanted(frame) {
			return err
		}
	}
}

func TestARefusedRequestHoldsNoHTTP2Connection(t *testing.T) {
	server := servedHTTP2(t, heldGate(), answerOK)
	for _, c := range held {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			conn := dialHTTP2(t, server)
			conn.ask(1, c.head)
			ended, goesAway := false, false
			err := conn.await(func(frame http2.Frame) bool {
				_, away := frame.(*http2.GoAwayFrame)
				goesAway = goesAway || away
				if f := frame.Header(); f.StreamID == 1 && f.Flags.Has(http2.FlagDataEndStream) {
					ended = true
				}
				return ended && (goesAway || c.overHTTP2)
			})
			if err != nil {
				t.Fatalf("the answer: %v", err)
			}
			if !c.overHTTP2 {
				if err := conn.await(func(http2.Frame) bool { return false }); !errors.Is(err, io.EOF) {
					t.Errorf("the connection ends by %v", err)
				}
				return
			}
			conn.ask(3, held[len(held)-1].head)
			err = conn.await(func(frame http2.Frame) bool {
				if _, away := frame.(*http2.GoAwayFrame); away {
					t.Error("the connection of a caller who is known ends")
				}
				return frame.Header().StreamID == 3 && frame.Header().Type == http2.FrameHeaders
			})
			if err != nil {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}

// Whoever opens no window for an answer, and asks for many, holds each of them.
func TestARefusalThatNobodyReadsIsGivenUp(t *testing.T) {
	conn := dialHTTP2(t, servedHTTP2(t, heldGate(), answerOK), http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	const streams = 100
	for i := range uint32(streams) {
		conn.ask(1+2*i, "GET /\n")
	}
	answers, resets := 0, 0
	err := conn.await(func(frame http2.Frame) bool {
		switch frame.(type) {
		case *http2.HeadersFrame:
			answers++
		case *http2.RSTStreamFrame:
			resets++
		}
		return false
	})
	// (After the first, those that have not begun are not answered any more.)
	if !errors.Is(err, io.EOF) || answers == 0 || resets != answers {
		t.Errorf("%d of %d answers are given up; the connection ends by %v", resets, answers, err)
	}
}

// Caddy puts a deadline of its own in place of any other with each write.
func TestNoHandlerAroundTheGateHasARefusalWaitedForForLonger(t *testing.T) {
	for _, caddys := range []bool{true, false} {
		w, r := &deadlineRecorder{ResponseRecorder: httptest.NewRecorder()}, goodRequest()
		writer := http.ResponseWriter(w)
		if caddys {
			answer := &caddyhttp.IdleTimeoutWriter{
				ResponseWriterWrapper: &caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, Ctrl: http.NewResponseController(w),
				Deadline: caddyhttp.IdleDeadline{Timeout: time.Hour}, Logger: zap.NewNop(),
			}
			writer, r = answer, r.WithContext(caddyhttp.ContextWithIdleTimeouts(r.Context(), nil, answer))
		}
		leave(writer, r, false)
		errInvalidToken.Write(writer, r)
		if left := time.Until(w.writing); w.writing.IsZero() || left > refusedAnswerTimeout {
			t.Errorf("with a deadline of Caddy's, %t: the answer is waited for %v", caddys, left)
		}
	}
}

// A client may send all of its request before it reads.
func TestAClientThatSendsSlowlyReadsItsRefusal(t *testing.T) {
	server := served(t, heldGate(), unreached(t))
	for _, headers := range []string{"Content-Length: 200000", "Content-Length: 200000\r\nX-Proxy-Token: wrong"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+headers+"\r\n\r\n")
		for range 10 {
			if _, err := conn.Write(bytes.Repeat([]byte(" "), 20000)); err != nil {
				t.Fatalf("the body cannot be sent: %v", err)
			}
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != http.StatusUnauthorized || !bytes.Contains(body, []byte("error")) {
			t.Errorf("the client reads %d %s, %v", answer.StatusCode, body, err)
		}
	}
}
