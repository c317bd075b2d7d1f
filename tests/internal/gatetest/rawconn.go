//go:build unix

package gatetest

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// RawConn is a connection on which a test writes bytes by hand.
type RawConn struct {
	net.Conn
	t       testing.TB
	Reader  *bufio.Reader
	Request *http.Request // what to read answers as: HEAD has no body
}

// Dial opens a connection to the gate. It is closed when the test ends.
func (g *Gate) Dial(t testing.TB) *RawConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", g.Addr, Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(Patience))
	return &RawConn{Conn: conn, t: t, Reader: bufio.NewReader(conn)}
}

// Send writes bytes as they are.
func (c *RawConn) Send(data string) {
	c.t.Helper()
	if _, err := io.WriteString(c, data); err != nil {
		c.t.Fatalf("writing: %v", err)
	}
}

// Answer reads one whole response.
func (c *RawConn) Answer() Answer {
	c.t.Helper()
	response, err := http.ReadResponse(c.Reader, c.Request)
	if err != nil {
		c.t.Fatalf("reading the answer: %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatalf("reading the answer's body: %v", err)
	}
	return Answer{response.StatusCode, response.Header, string(body), response.Proto}
}

// ClosedByServer fails the test unless the server now closes the connection
// without another byte.
func (c *RawConn) ClosedByServer() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	rest, err := io.ReadAll(c.Reader)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Error("the server keeps the connection open")
	}
	if len(rest) > 0 {
		c.t.Errorf("the server sent more: %q", rest)
	}
}

// RawBody is a body for the headers of RawGood.
const RawBody = `{"model":"gpt-5"}`

// RawRequest composes a request: the request line, then headers, one a line.
// TOKEN stands for the gate's token.
func (g *Gate) RawRequest(line string, headers []string, body string) string {
	var b bytes.Buffer
	b.WriteString(line + "\r\n")
	for _, header := range headers {
		b.WriteString(strings.ReplaceAll(header, "TOKEN", g.Token) + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

// RawGood are the headers of a request that passes.
func RawGood(more ...string) []string {
	return append([]string{
		"Host: 127.0.0.1", "Content-Type: application/json", "X-Proxy-Token: TOKEN", "Content-Length: 17",
	}, more...)
}

// Without leaves the headers out whose line begins with prefix.
func Without(headers []string, prefixes ...string) []string {
	var kept []string
next:
	for _, header := range headers {
		for _, prefix := range prefixes {
			if strings.HasPrefix(header, prefix) {
				continue next
			}
		}
		kept = append(kept, header)
	}
	return kept
}

// MaybeAnswer reads one more response, or nil if the connection ends.
func (c *RawConn) MaybeAnswer() *Answer {
	if _, err := c.Reader.Peek(1); err != nil {
		return nil
	}
	got := c.Answer()
	return &got
}

// RawDo sends a request over a connection of its own, and reads the answer.
func (g *Gate) RawDo(t testing.TB, line string, headers []string, body string) Answer {
	t.Helper()
	conn := g.Dial(t)
	conn.Send(g.RawRequest(line, headers, body))
	return conn.Answer()
}

// RawUpgrade are the headers of a WebSocket handshake that passes.
var RawUpgrade = []string{
	"Host: 127.0.0.1", "X-Proxy-Token: TOKEN", "Connection: keep-alive, Upgrade", "Upgrade: websocket",
	"Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
}
