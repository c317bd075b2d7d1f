//go:build unix

package e2e

import (
	"bytes"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// upstream stands in for the OpenAI API. It keeps everything it saw: every
// byte that came over its connections, and each request as it was understood.
type upstream struct {
	*httptest.Server

	mu     sync.Mutex
	raw    bytes.Buffer
	conns  int
	seen   []seenRequest
	answer http.HandlerFunc
}

// seenRequest is a request as it reached the upstream.
type seenRequest struct {
	method, target, host string
	header, trailer      http.Header
	body                 string
}

// jsonAnswer is what an upstream answers unless a test wants something else.
const jsonAnswer = `{"id":"resp_1","object":"response","status":"completed"}`

func answerJSON(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, jsonAnswer)
}

// newUpstream starts an upstream that answers with answer, or with JSON.
func newUpstream(t *testing.T, answer http.HandlerFunc) *upstream {
	t.Helper()
	return startUpstream(t, answer, (*httptest.Server).Start)
}

// newTLSUpstream is an upstream behind TLS. The bytes it keeps are encrypted.
func newTLSUpstream(t *testing.T) (up *upstream, certificate []byte) {
	t.Helper()
	up = startUpstream(t, nil, (*httptest.Server).StartTLS)
	return up, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw})
}

func startUpstream(t *testing.T, answer http.HandlerFunc, start func(*httptest.Server)) *upstream {
	t.Helper()
	if answer == nil {
		answer = answerJSON
	}
	up := &upstream{answer: answer}
	up.Server = httptest.NewUnstartedServer(http.HandlerFunc(up.serve))
	up.Config.ErrorLog = log.New(io.Discard, "", 0)
	up.Listener = recordingListener{up.Listener, up}
	start(up.Server)
	t.Cleanup(func() {
		up.CloseClientConnections()
		up.Close()
	})
	return up
}

func (up *upstream) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a body that breaks off is a short one
	seen := seenRequest{
		method: r.Method, target: r.RequestURI, host: r.Host,
		header: r.Header.Clone(), trailer: r.Trailer.Clone(), body: string(body),
	}
	up.mu.Lock()
	up.seen = append(up.seen, seen)
	answer := up.answer
	up.mu.Unlock()
	answer(w, r)
}

// setAnswer changes what the upstream answers from now on.
func (up *upstream) setAnswer(answer http.HandlerFunc) {
	up.mu.Lock()
	defer up.mu.Unlock()
	up.answer = answer
}

func (up *upstream) requests() []seenRequest {
	up.mu.Lock()
	defer up.mu.Unlock()
	return append([]seenRequest(nil), up.seen...)
}

// bytesSeen is every byte that ever reached the upstream.
func (up *upstream) bytesSeen() string {
	up.mu.Lock()
	defer up.mu.Unlock()
	return up.raw.String()
}

// forget starts the record anew.
func (up *upstream) forget() {
	up.mu.Lock()
	defer up.mu.Unlock()
	up.raw.Reset()
	up.seen = nil
	up.conns = 0
}

// sawNothing fails the test if the upstream was contacted at all since the
// last forget: a connection is enough.
func (up *upstream) sawNothing(t *testing.T) {
	t.Helper()
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.conns > 0 || up.raw.Len() > 0 || len(up.seen) > 0 {
		t.Errorf("the upstream saw %d connections and:\n%s", up.conns, up.raw.String())
	}
}

// only is the only request that the upstream saw since the last forget.
func (up *upstream) only(t *testing.T) seenRequest {
	t.Helper()
	seen := up.requests()
	if len(seen) != 1 {
		t.Fatalf("the upstream saw %d requests, want 1; bytes:\n%s", len(seen), up.bytesSeen())
	}
	return seen[0]
}

// sawNo fails the test if text is anywhere in what the upstream got, in
// headers, trailers, bodies or WebSocket frames.
func (up *upstream) sawNo(t *testing.T, text string) {
	t.Helper()
	if raw := up.bytesSeen(); strings.Contains(raw, text) {
		t.Errorf("the upstream got %q:\n%s", text, raw)
	}
}

// hasKey fails the test unless the request carries the operator's bearer, and
// once only.
func (s seenRequest) hasKey(t *testing.T) {
	t.Helper()
	if got := s.header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer "+operatorKey {
		t.Errorf("Authorization upstream is %q, want the operator's bearer once", got)
	}
}

type recordingListener struct {
	net.Listener
	up *upstream
}

func (l recordingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.up.mu.Lock()
	l.up.conns++
	l.up.mu.Unlock()
	return recordingConn{conn, l.up}, nil
}

type recordingConn struct {
	net.Conn
	up *upstream
}

func (c recordingConn) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	c.up.mu.Lock()
	c.up.raw.Write(data[:n])
	c.up.mu.Unlock()
	return n, err
}
