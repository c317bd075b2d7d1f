//go:build unix

package main

import (
	"fmt"
	"io"
	"net"
	"runtime"

	"golang.org/x/sys/unix"
)

// jsonLoop answers every request with the same small JSON, on one thread for
// all connections: each turn reads once from those that have something, and
// answers with one write.
type jsonLoop struct {
	poller   *poller
	listener int
	stop     int // can be read from when the loop is to end
	conns    map[int]*jsonConn
	buffer   []byte
}

// jsonConn is a peer's connection to the loop.
type jsonConn struct {
	fd      int
	request message
	unsent  []byte
	waits   bool // for room to write
}

// loopBuffer is how much a loop reads at once: large bodies are drained fast,
// and what others have to say is not kept waiting.
const loopBuffer = 256 << 10

// serveJSON answers on a listener, until what it returns is closed.
func (u *upstreams) serveJSON(l net.Listener) (io.Closer, error) {
	listener, err := listeningSocket(l)
	if err != nil {
		return nil, err
	}
	stopped, stop, err := newPipe()
	if err != nil {
		_ = unix.Close(listener)
		return nil, err
	}
	loop := &jsonLoop{listener: listener, stop: stopped, conns: map[int]*jsonConn{}, buffer: make([]byte, loopBuffer)}
	u.serving.Go(loop.run)
	return stop, nil
}

func (l *jsonLoop) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := l.serve(); err != nil {
		fmt.Println("upstream:", err)
	}
	for fd := range l.conns {
		_ = unix.Close(fd)
	}
	_ = unix.Close(l.listener)
	_ = unix.Close(l.stop)
	l.poller.close()
}

func (l *jsonLoop) serve() (err error) {
	if l.poller, err = newPoller(); err != nil {
		return err
	}
	for _, fd := range []int{l.listener, l.stop} {
		if err := l.poller.add(fd, false); err != nil {
			return err
		}
	}
	for yields := (yields{}); ; yields.nowAndThen() {
		found, err := l.poller.wait(-1)
		if err != nil {
			return err
		}
		for _, r := range found {
			conn := l.conns[r.fd]
			switch {
			case r.fd == l.stop:
				return nil
			case r.fd == l.listener:
				err = l.accept()
			case conn != nil && !l.answer(conn, r):
				delete(l.conns, r.fd)
				_ = unix.Close(r.fd)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (l *jsonLoop) accept() error {
	fd, err := acceptSocket(l.listener)
	if err == errNotYet {
		return nil
	}
	if err != nil {
		return err
	}
	l.conns[fd] = &jsonConn{fd: fd}
	return l.poller.add(fd, false)
}

// answer reads and writes what can be now. It returns false when the
// connection is over.
func (l *jsonLoop) answer(c *jsonConn, r ready) bool {
	if r.read {
		n, err := receive(c.fd, l.buffer)
		if err != nil {
			return err == errNotYet
		}
		for data := l.buffer[:n]; len(data) > 0; {
			rest, whole, err := c.request.feed(data)
			if err != nil {
				return false
			}
			if data = rest; whole && c.request.authorized {
				c.unsent = append(c.unsent, answerOK...)
			} else if whole {
				c.unsent = append(c.unsent, answerUnauthorized...)
			}
		}
	}
	if len(c.unsent) == 0 {
		return true
	}
	n, err := send(c.fd, c.unsent)
	if err != nil {
		return false
	}
	c.unsent = append(c.unsent[:0], c.unsent[n:]...)
	if waits := len(c.unsent) > 0; waits != c.waits {
		c.waits = waits
		return l.poller.watchWriting(c.fd, waits) == nil
	}
	return true
}
