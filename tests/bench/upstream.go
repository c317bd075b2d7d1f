//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"
)

// operatorKey is what the peers put in, and what the upstream asks for.
const operatorKey = "sk-bench-0123456789-of-nobody"

// upstreams stand in for the API, each on a port of its own. They are cheap:
// what they cost is not to hide what the peers do.
type upstreams struct {
	byKind map[string]upstream
	ca     []byte // of those with TLS, PEM

	closers []io.Closer
	serving sync.WaitGroup
}

// upstream is where a peer forwards to.
type upstream struct {
	Addr       string
	TLS, HTTP2 bool
}

// Scheme is that of the upstream's URL.
func (u upstream) Scheme() string {
	if u.TLS {
		return "https"
	}
	return "http"
}

// URL is the upstream's, without a path.
func (u upstream) URL() string { return u.Scheme() + "://" + u.Addr }

// startUpstreams starts them all.
func startUpstreams() (*upstreams, error) {
	certificate, ca, err := newCertificate()
	if err != nil {
		return nil, err
	}
	u := &upstreams{byKind: map[string]upstream{}, ca: ca}
	h1 := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}, MinVersion: tls.VersionTLS12}
	h2 := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"h2"}, MinVersion: tls.VersionTLS12}
	for _, kind := range []struct {
		name  string
		how   upstream
		serve func(net.Listener) // nil is an event loop
	}{
		{"json", upstream{}, nil},
		{"events", upstream{}, func(l net.Listener) { u.acceptRaw(l, (*upstreamConn).answerEvents) }},
		{"websocket", upstream{}, func(l net.Listener) { u.serveHTTP(l, answerWebSocket) }},
		{"tls", upstream{TLS: true}, func(l net.Listener) { u.acceptRaw(tls.NewListener(l, h1), (*upstreamConn).answerJSON) }},
		{"h2", upstream{TLS: true, HTTP2: true}, func(l net.Listener) { u.serveHTTP(tls.NewListener(l, h2), answerHTTP) }},
	} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			u.close()
			return nil, err
		}
		kind.how.Addr = listener.Addr().String()
		u.byKind[kind.name] = kind.how
		if kind.serve != nil {
			u.closers = append(u.closers, listener)
			u.serving.Go(func() { kind.serve(listener) })
			continue
		}
		loop, err := u.serveJSON(listener)
		if err != nil {
			u.close()
			return nil, errors.Join(err, listener.Close())
		}
		u.closers = append(u.closers, loop)
	}
	return u, nil
}

func (u *upstreams) close() {
	for _, c := range u.closers {
		_ = c.Close()
	}
	u.serving.Wait()
}

// serveHTTP serves what needs more than the raw upstream can do.
func (u *upstreams) serveHTTP(l net.Listener, answer http.HandlerFunc) {
	server := &http.Server{Handler: answer, ReadHeaderTimeout: time.Minute}
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		fmt.Println("upstream:", err)
	}
	_ = server.Close()
}

// acceptRaw serves HTTP/1.1 with as little work as can be.
func (u *upstreams) acceptRaw(l net.Listener, answer func(*upstreamConn) error) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			c := &upstreamConn{Conn: conn, in: bufio.NewReaderSize(conn, 16<<10)}
			for {
				if err := c.readRequest(); err != nil {
					return
				}
				if !c.hasKey {
					if _, err := conn.Write(answerUnauthorized); err != nil {
						return
					}
					continue
				}
				if err := answer(c); err != nil {
					return
				}
			}
		}()
	}
}

// upstreamConn is a peer's connection to the raw upstream.
type upstreamConn struct {
	net.Conn
	in     *bufio.Reader
	hasKey bool // the request that was read last has the operator's key
}

var (
	keyLine            = []byte("Bearer " + operatorKey)
	answerUnauthorized = []byte("HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
	usageTold          = `"usage":{"input_tokens":9,"input_tokens_details":{"cached_tokens":0},"output_tokens":2,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":11}`
	smallAnswer        = []byte(`{"id":"resp_1","object":"response","status":"completed","model":"gpt-5","output":[{"type":"message","role":"assistant","content":[{"type":"output_text","text":"hello"}]}],` + usageTold + `}`)
	streamEnd          = []byte(`{"type":"response.completed","response":{"status":"completed","model":"gpt-5",` + usageTold + `}}`)
	answerOK           = fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(smallAnswer), smallAnswer)
)

// readRequest reads a request and drops its body.
func (c *upstreamConn) readRequest() error {
	head, err := readHead(c.in)
	if err != nil {
		return err
	}
	c.hasKey = head.authorized
	return head.discardBody(c.in)
}

func (c *upstreamConn) answerJSON() error {
	_, err := c.Write(answerOK)
	return err
}

// answerEvents sends a stream of small events, evenly spaced, each with the
// time at which it was sent.
func (c *upstreamConn) answerEvents() error {
	_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n")
	if err != nil {
		return err
	}
	var chunk bytes.Buffer
	err = pace(func(event []byte) error {
		chunk.Reset()
		writeChunk(&chunk, "response.output_text.delta", event)
		_, err := c.Write(chunk.Bytes())
		return err
	})
	if err != nil {
		return err
	}
	chunk.Reset()
	writeChunk(&chunk, "response.completed", streamEnd)
	chunk.WriteString("0\r\n\r\n")
	_, err = c.Write(chunk.Bytes())
	return err
}

// writeChunk adds an event as a chunk of its own.
func writeChunk(to *bytes.Buffer, name string, event []byte) {
	fmt.Fprintf(to, "%x\r\nevent: %s\ndata: %s\n\n\r\n", len("event: \ndata: \n\n")+len(name)+len(event), name, event)
}

// answerHTTP is answerJSON for net/http.
func answerHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != string(keyLine) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = io.Copy(io.Discard, r.Body)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(smallAnswer)))
	_, _ = w.Write(smallAnswer)
}

// answerWebSocket answers each message with the events of a stream.
func answerWebSocket(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != string(keyLine) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	ctx := context.Background()
	for {
		if _, _, err := conn.Read(ctx); err != nil {
			return
		}
		err := pace(func(event []byte) error { return conn.Write(ctx, websocket.MessageText, event) })
		if err != nil {
			return
		}
	}
}
