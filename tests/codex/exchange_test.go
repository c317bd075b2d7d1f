//go:build unix

package codex

import (
	"bufio"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"slices"
	"testing"
	"time"
)

// call is a request as it goes over the wire, byte by byte.
type call struct {
	method  string   // POST, if nothing is said
	target  string   // /v1/responses, if nothing is said
	headers []string // whole lines, beside Host, Content-Length and the token
	body    []byte
	chunked bool   // the body goes in chunks, without a length
	host    string // the proxy's own, if nothing is said
	noToken bool   // otherwise, the gate's token is sent to the gate
}

// jsonType is the header that every call with a body has to have.
const jsonType = "Content-Type: application/json"

// head is the request without its body.
func (c call) head(p *proxy) []byte {
	var head bytes.Buffer
	method := cmp.Or(c.method, http.MethodPost)
	target := cmp.Or(c.target, "/v1/responses")
	host := cmp.Or(c.host, p.addr())
	fmt.Fprintf(&head, "%s %s HTTP/1.1\r\nHost: %s\r\n", method, target, host)
	for _, line := range c.headers {
		head.WriteString(line + "\r\n")
	}
	if p.token != "" && !c.noToken {
		fmt.Fprintf(&head, "X-Proxy-Token: %s\r\n", p.token)
	}
	if c.chunked {
		head.WriteString("Transfer-Encoding: chunked\r\n")
	} else if len(c.body) > 0 || method == http.MethodPost || method == http.MethodPut {
		fmt.Fprintf(&head, "Content-Length: %d\r\n", len(c.body))
	}
	head.WriteString("\r\n")
	return head.Bytes()
}

// write sends the request. Whoever refuses one does not read its body to the
// end, so that an error here means nothing.
func (c call) write(conn net.Conn, p *proxy) {
	_, _ = conn.Write(c.head(p))
	if !c.chunked {
		_, _ = conn.Write(c.body)
		return
	}
	chunks := httputil.NewChunkedWriter(conn)
	for half := range slices.Chunk(c.body, len(c.body)/2+1) {
		_, _ = chunks.Write(half)
	}
	_ = chunks.Close()
	_, _ = conn.Write([]byte("\r\n"))
}

// answered is what came back.
type answered struct {
	status    int // 0 is no answer within the time
	header    http.Header
	body      []byte
	truncated bool // the answer broke off, or did not end within the time
}

// exchange sends c to p on a connection of its own and reads the answer.
func (c call) exchange(t *testing.T, p *proxy, within time.Duration) answered {
	t.Helper()
	conn, err := net.DialTimeout("tcp", p.addr(), patience)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(within)); err != nil {
		t.Fatal(err)
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		c.write(conn, p)
	}()
	defer func() {
		conn.Close()
		<-sent
	}()
	in := bufio.NewReader(conn)
	for {
		response, err := http.ReadResponse(in, &http.Request{Method: c.method})
		if err != nil {
			return answered{}
		}
		if response.StatusCode == http.StatusContinue {
			continue // the final answer follows
		}
		body, err := io.ReadAll(response.Body)
		return answered{response.StatusCode, response.Header, body, err != nil}
	}
}

// framing are the headers by which a server delimits and dates what it sends.
// They are each proxy's own.
var framing = []string{"Connection", "Content-Length", "Date", "Keep-Alive", "Server", "Transfer-Encoding"}

// headerLines are the headers apart from those of framing, one a line, sorted.
func headerLines(header http.Header) []string {
	var lines []string
	for _, name := range slices.Sorted(maps.Keys(header)) {
		if slices.Contains(framing, name) {
			continue
		}
		for _, value := range header[name] {
			lines = append(lines, name+": "+value)
		}
	}
	return lines
}
