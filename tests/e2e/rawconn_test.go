//go:build unix

package e2e

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

// rawConn is a connection on which a test writes bytes by hand.
type rawConn struct {
	net.Conn
	t       *testing.T
	reader  *bufio.Reader
	request *http.Request // what to read answers as: HEAD has no body
}

func (g *gate) dial(t *testing.T) *rawConn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", g.addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return &rawConn{Conn: conn, t: t, reader: bufio.NewReader(conn)}
}

// send writes bytes as they are.
func (c *rawConn) send(data string) {
	c.t.Helper()
	if _, err := io.WriteString(c, data); err != nil {
		c.t.Fatalf("writing: %v", err)
	}
}

// answer reads one whole response.
func (c *rawConn) answer() answer {
	c.t.Helper()
	response, err := http.ReadResponse(c.reader, c.request)
	if err != nil {
		c.t.Fatalf("reading the answer: %v", err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		c.t.Fatalf("reading the answer's body: %v", err)
	}
	return answer{response.StatusCode, response.Header, string(body), response.Proto}
}

// closedByServer fails the test unless the server now closes the connection
// without another byte.
func (c *rawConn) closedByServer() {
	c.t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	rest, err := io.ReadAll(c.reader)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Error("the server keeps the connection open")
	}
	if len(rest) > 0 {
		c.t.Errorf("the server sent more: %q", rest)
	}
}

const rawBody = `{"model":"gpt-5"}`

// rawRequest composes a request: the request line, then headers, one a line.
// TOKEN stands for the gate's token.
func (g *gate) rawRequest(line string, headers []string, body string) string {
	var b bytes.Buffer
	b.WriteString(line + "\r\n")
	for _, header := range headers {
		b.WriteString(strings.ReplaceAll(header, "TOKEN", g.token) + "\r\n")
	}
	b.WriteString("\r\n" + body)
	return b.String()
}

// rawGood are the headers of a request that passes.
func rawGood(more ...string) []string {
	return append([]string{
		"Host: 127.0.0.1", "Content-Type: application/json", "X-Proxy-Token: TOKEN", "Content-Length: 17",
	}, more...)
}

// without leaves the headers out whose line begins with prefix.
func without(headers []string, prefixes ...string) []string {
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

// maybeAnswer reads one more response, or nil if the connection ends.
func (c *rawConn) maybeAnswer() *answer {
	if _, err := c.reader.Peek(1); err != nil {
		return nil
	}
	got := c.answer()
	return &got
}
