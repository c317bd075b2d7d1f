package responsesproxygate

import (
	"bytes"
	"io"
	"log"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// FuzzAConnectionPassesNoMoreThanItsTokens sends bytes to net/http's server,
// all at once and one by one, with the gate as its handler. However requests
// are framed, pipelined or hidden in one another: each that passes has a token
// of its own, an allowed request line of its own, and a JSON body.
func FuzzAConnectionPassesNoMoreThanItsTokens(f *testing.F) {
	f.Add([]byte("POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nX-Proxy-Token: " + testToken +
		"\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, sent []byte) {
		whole := passedRequests(sent, func(r io.Reader) io.Reader { return r })
		if bytewise := passedRequests(sent, iotest.OneByteReader); !slices.Equal(whole, bytewise) {
			t.Errorf("at once %q pass, byte by byte %q", whole, bytewise)
		}
		tokens := bytes.Count(sent, []byte(testToken))
		if lines := bytes.Count(sent, []byte("POST /v1/responses HTTP/1.")); len(whole) > min(tokens, lines) {
			t.Errorf("%d requests pass with %d tokens and %d request lines: %q", len(whole), tokens, lines, whole)
		}
		for _, passed := range whole {
			if !strings.HasPrefix(passed, "POST /v1/responses application/json ") {
				t.Errorf("this passes: %q", passed)
			}
			if strings.Contains(passed, testToken) && tokens < 2 {
				t.Errorf("the one token goes upstream: %q", passed)
			}
		}
	})
}

// passedRequests is what the upstream would see of a connection.
func passedRequests(sent []byte, pace func(io.Reader) io.Reader) (passed []string) {
	var mu sync.Mutex
	p, credential := testPolicy(), newCredential("Authorization", 1)
	credential.use(secret.New("operators-key"))
	conn := &scriptedConn{in: pace(bytes.NewReader(sent)), closed: make(chan struct{})}
	server := &http.Server{
		ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if refused := check(p, r); refused != nil {
				leaveBody(w, r)
				refused.Write(w, r)
				return
			}
			credential.dropCallerCredentials(r)
			r = asSent(credential, r)
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // broken off: reverse_proxy breaks off the upstream's too
			}
			kind := lowerASCII(strings.Trim(strings.Split(r.Header.Get("Content-Type")+";", ";")[0], " \t"))
			if len(body) == 0 {
				kind = "application/json" // there is nothing to be of another type
			}
			delete(r.Header, "Content-Type")
			var fields bytes.Buffer
			_ = r.Header.Write(&fields) // sorted
			mu.Lock()
			defer mu.Unlock()
			passed = append(passed, r.Method+" "+r.RequestURI+" "+kind+" "+fields.String()+string(body))
		}),
	}
	_ = server.Serve(&oneConnListener{conn: conn}) // returns after Accept's second call
	<-conn.closed
	mu.Lock()
	defer mu.Unlock()
	return passed
}

// scriptedConn is a connection whose other side sends what in has, and reads
// whatever comes.
type scriptedConn struct {
	in     io.Reader
	once   sync.Once
	closed chan struct{}
}

func (c *scriptedConn) Read(p []byte) (int, error)  { return c.in.Read(p) }
func (c *scriptedConn) Write(p []byte) (int, error) { return len(p), nil }
func (c *scriptedConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

func (c *scriptedConn) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 18080}
}

func (c *scriptedConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}
}
func (c *scriptedConn) SetDeadline(time.Time) error      { return nil }
func (c *scriptedConn) SetReadDeadline(time.Time) error  { return nil }
func (c *scriptedConn) SetWriteDeadline(time.Time) error { return nil }

// oneConnListener gives one connection out.
type oneConnListener struct {
	conn net.Conn
}

func (l *oneConnListener) Accept() (net.Conn, error) {
	if conn := l.conn; conn != nil {
		l.conn = nil
		return conn, nil
	}
	return nil, io.EOF
}
func (l *oneConnListener) Close() error { return nil }
func (l *oneConnListener) Addr() net.Addr {
	return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 18080}
}

func TestWhatPassesOnAFuzzedConnectionIsSeen(t *testing.T) {
	request := "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nX-Proxy-Token: " + testToken +
		"\r\nContent-Type: Application/JSON\r\nContent-Length: 2\r\n\r\n{}"
	one := "POST /v1/responses application/json Authorization: Bearer operators-key\r\nContent-Length: 2\r\n{}"
	for name, c := range map[string]struct {
		sent string
		want []string
	}{
		"a request":                          {request, []string{one}},
		"two, pipelined":                     {request + request, []string{one, one}},
		"one, and one with a wrong token":    {request + strings.Replace(request, testToken, "guess", 1) + request, []string{one, one}},
		"one, and half of another":           {request + request[:len(request)-1], []string{one}},
		"one, and what is no request at all": {request + "\r\n\x00\r\n\r\n" + request, []string{one}},
	} {
		if got := passedRequests([]byte(c.sent), func(r io.Reader) io.Reader { return r }); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q passes, want %q", name, got, c.want)
		}
	}
}
