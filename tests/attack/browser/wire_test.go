//go:build unix

package browser

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"
)

// wire is a TCP port that passes every byte on to a server, and keeps what
// was asked and answered. Each attack gets a wire of its own to the proxy
// that it attacks: so the test knows what the browser really sent, and that
// it was answered, before it says that nothing got through.
type wire struct {
	port string

	mu        sync.Mutex
	to        string // host:port
	conns     map[net.Conn]bool
	exchanges []*exchange
	changed   chan struct{}
}

// exchange is a request that a browser sent, and its answer.
type exchange struct {
	method, uri, host string
	header            http.Header
	answer            *http.Response // nil until it comes
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	w := &wire{port: port, to: to, conns: map[net.Conn]bool{}, changed: make(chan struct{})}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go w.pass(conn)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		w.leadTo("")
	})
	return w
}

// leadTo makes connections from now on lead to another server, and ends those
// that there are.
func (w *wire) leadTo(to string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = to
	w.exchanges = nil
	for conn := range w.conns {
		_ = conn.Close()
	}
}

// pass passes one connection on.
func (w *wire) pass(client net.Conn) {
	defer client.Close()
	w.mu.Lock()
	to := w.to
	w.mu.Unlock()
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	w.mu.Lock()
	if w.to != to { // it leads elsewhere by now
		w.mu.Unlock()
		return
	}
	w.conns[client] = true
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.conns, client)
		w.mu.Unlock()
	}()

	asked := make(chan *exchange, 64)
	sent, sentCopy := io.Pipe()
	received, receivedCopy := io.Pipe()
	go w.readRequests(sent, asked)
	go w.readAnswers(received, asked)
	var both sync.WaitGroup
	copyOn := func(to, from net.Conn, watched *io.PipeWriter) {
		_, _ = io.Copy(to, io.TeeReader(from, watched))
		_ = watched.Close()
		_ = to.(*net.TCPConn).CloseWrite()
	}
	both.Go(func() { copyOn(server, client, sentCopy) })
	both.Go(func() {
		copyOn(client, server, receivedCopy)
		_ = client.Close() // a browser keeps its half open
	})
	both.Wait()
}

// readRequests keeps the requests that a browser sends on a connection.
func (w *wire) readRequests(from io.Reader, asked chan<- *exchange) {
	defer close(asked)
	defer io.Copy(io.Discard, from) // what is no HTTP, after an upgrade, goes on all the same
	for in := bufio.NewReader(from); ; {
		r, err := http.ReadRequest(in)
		if err != nil {
			return
		}
		e := &exchange{method: r.Method, uri: r.RequestURI, host: r.Host, header: r.Header}
		w.keep(func() { w.exchanges = append(w.exchanges, e) })
		asked <- e
		if _, err := io.Copy(io.Discard, r.Body); err != nil {
			return
		}
	}
}

// readAnswers keeps the answers to them.
func (w *wire) readAnswers(from io.Reader, asked <-chan *exchange) {
	defer io.Copy(io.Discard, from)
	for in := bufio.NewReader(from); ; {
		if _, err := in.Peek(1); err != nil {
			return
		}
		e, ok := <-asked
		if !ok {
			return
		}
		answer, err := http.ReadResponse(in, &http.Request{Method: e.method})
		if err != nil {
			return
		}
		w.keep(func() { e.answer = answer })
		if answer.StatusCode == http.StatusSwitchingProtocols {
			return
		}
		if _, err := io.Copy(io.Discard, answer.Body); err != nil {
			return
		}
	}
}

func (w *wire) keep(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
	close(w.changed)
	w.changed = make(chan struct{})
}

// answered waits until there were requests and all of them have their
// answers, and reports whether that came about.
func (w *wire) answered(within time.Duration) ([]exchange, bool) {
	return w.await(within, func(exchanges []exchange) bool { return len(exchanges) > 0 })
}

// await waits until all requests have their answers, and enough says that they
// are all. A preflight that was granted is not the end: the browser goes on to
// the request itself.
func (w *wire) await(within time.Duration, enough func([]exchange) bool) ([]exchange, bool) {
	for timeout := time.After(within); ; {
		w.mu.Lock()
		changed := w.changed
		var exchanges []exchange
		pending := false
		for _, e := range w.exchanges {
			exchanges = append(exchanges, *e)
			pending = e.answer == nil || e.isGrantedPreflight()
			if e.answer == nil {
				break
			}
		}
		w.mu.Unlock()
		if !pending && enough(exchanges) {
			return exchanges, true
		}
		select {
		case <-changed:
		case <-timeout:
			return exchanges, false
		}
	}
}

func (e exchange) isGrantedPreflight() bool {
	return e.method == http.MethodOptions && e.header.Get("Access-Control-Request-Method") != "" &&
		e.answer.StatusCode < 300 && e.answer.Header.Get("Access-Control-Allow-Origin") != ""
}

// isForIcon reports whether a browser asks for what it shows beside an address.
func (e exchange) isForIcon() bool { return e.uri == "/favicon.ico" }
