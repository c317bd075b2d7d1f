//go:build unix

package gatetest

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

// Upstream stands in for the OpenAI API. It keeps everything it saw: every
// byte that came over its connections, and each request as it was understood.
type Upstream struct {
	*httptest.Server

	mu     sync.Mutex
	raw    bytes.Buffer
	conns  int
	byConn []*bytes.Buffer
	seen   []SeenRequest
	answer http.HandlerFunc
}

// SeenRequest is a request as it reached the upstream.
type SeenRequest struct {
	Method, Target, Host string
	Header, Trailer      http.Header
	Body                 string
}

// JSONAnswer is what an upstream answers unless a test wants something else.
const JSONAnswer = `{"id":"resp_1","object":"response","status":"completed"}`

// AnswerJSON answers with JSONAnswer.
func AnswerJSON(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, JSONAnswer)
}

// NewUpstream starts an upstream that answers with answer, or with JSON.
func NewUpstream(t testing.TB, answer http.HandlerFunc) *Upstream {
	t.Helper()
	return startUpstream(t, answer, (*httptest.Server).Start)
}

// NewTLSUpstream is an upstream behind TLS. The bytes it keeps are encrypted.
func NewTLSUpstream(t testing.TB) (up *Upstream, certificate []byte) {
	t.Helper()
	up = startUpstream(t, nil, (*httptest.Server).StartTLS)
	return up, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: up.Certificate().Raw})
}

func startUpstream(t testing.TB, answer http.HandlerFunc, start func(*httptest.Server)) *Upstream {
	t.Helper()
	if answer == nil {
		answer = AnswerJSON
	}
	up := &Upstream{answer: answer}
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

func (up *Upstream) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body) // a body that breaks off is a short one
	seen := SeenRequest{
		Method: r.Method, Target: r.RequestURI, Host: r.Host,
		Header: r.Header.Clone(), Trailer: r.Trailer.Clone(), Body: string(body),
	}
	up.mu.Lock()
	up.seen = append(up.seen, seen)
	answer := up.answer
	up.mu.Unlock()
	r.Body = io.NopCloser(bytes.NewReader(body))
	answer(w, r)
}

// SetAnswer changes what the upstream answers from now on.
func (up *Upstream) SetAnswer(answer http.HandlerFunc) {
	up.mu.Lock()
	defer up.mu.Unlock()
	up.answer = answer
}

// Requests are the requests that the upstream saw since the last Forget.
func (up *Upstream) Requests() []SeenRequest {
	up.mu.Lock()
	defer up.mu.Unlock()
	return append([]SeenRequest(nil), up.seen...)
}

// BytesSeen is every byte that ever reached the upstream.
func (up *Upstream) BytesSeen() string {
	up.mu.Lock()
	defer up.mu.Unlock()
	return up.raw.String()
}

// Conversations are the bytes of each connection that was opened since the
// last Forget. Unless keepalive is off, later requests may use an older one.
func (up *Upstream) Conversations() (all []string) {
	up.mu.Lock()
	defer up.mu.Unlock()
	for _, conn := range up.byConn {
		all = append(all, conn.String())
	}
	return all
}

// Forget starts the record anew.
func (up *Upstream) Forget() {
	up.mu.Lock()
	defer up.mu.Unlock()
	up.raw.Reset()
	up.seen = nil
	up.conns = 0
	up.byConn = nil
}

// SawNothing fails the test if the upstream was contacted at all since the
// last forget: a connection is enough.
func (up *Upstream) SawNothing(t testing.TB) {
	t.Helper()
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.conns > 0 || up.raw.Len() > 0 || len(up.seen) > 0 {
		t.Errorf("the upstream saw %d connections and:\n%s", up.conns, up.raw.String())
	}
}

// Only is the only request that the upstream saw since the last forget.
func (up *Upstream) Only(t testing.TB) SeenRequest {
	t.Helper()
	seen := up.Requests()
	if len(seen) != 1 {
		t.Fatalf("the upstream saw %d requests, want 1; bytes:\n%s", len(seen), up.BytesSeen())
	}
	return seen[0]
}

// SawNo fails the test if text is anywhere in what the upstream got, in
// headers, trailers, bodies or WebSocket frames.
func (up *Upstream) SawNo(t testing.TB, text string) {
	t.Helper()
	if raw := up.BytesSeen(); strings.Contains(raw, text) {
		t.Errorf("the upstream got %q:\n%s", text, raw)
	}
}

// HasKey fails the test unless the request carries the operator's bearer, and
// once only.
func (s SeenRequest) HasKey(t testing.TB) {
	t.Helper()
	if got := s.Header.Values("Authorization"); len(got) != 1 || got[0] != "Bearer "+OperatorKey {
		t.Errorf("Authorization upstream is %q, want the operator's bearer once", got)
	}
}

type recordingListener struct {
	net.Listener
	Up *Upstream
}

func (l recordingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.Up.mu.Lock()
	l.Up.conns++
	own := new(bytes.Buffer)
	l.Up.byConn = append(l.Up.byConn, own)
	l.Up.mu.Unlock()
	return recordingConn{conn, l.Up, own}, nil
}

type recordingConn struct {
	net.Conn
	Up  *Upstream
	own *bytes.Buffer
}

func (c recordingConn) Read(data []byte) (int, error) {
	n, err := c.Conn.Read(data)
	c.Up.mu.Lock()
	c.Up.raw.Write(data[:n])
	c.own.Write(data[:n])
	c.Up.mu.Unlock()
	return n, err
}

// CloseWrite ends what is sent, and leaves the other direction open.
func (c recordingConn) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

// ResetOnClose has an upstream's connection, once hijacked, end with a reset
// when it is closed.
func ResetOnClose(conn net.Conn) { _ = conn.(recordingConn).Conn.(*net.TCPConn).SetLinger(0) }
