//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// request is what a caller sends.
type request struct {
	path        string   // /v1/responses, if none is said
	headers     []string // beside those of every request
	contentType string   // application/json, if none is said
	token       string   // the peer's own, if none is said
	noToken     bool
	size        int // of the body, in bytes; as small as can be if 0
}

// bytes is the request as it goes over the wire.
func (r request) bytes(t *target) []byte {
	const before, after = `{"model":"gpt-5","stream":true,"input":"hi`, `"}`
	body := before + strings.Repeat("x", max(0, r.size-len(before)-len(after))) + after
	lines := []string{
		"POST " + or(r.path, "/v1/responses") + " HTTP/1.1",
		"Host: " + t.addr,
		"User-Agent: codex_exec/0.169.0",
		"Accept: text/event-stream",
		"Content-Type: " + or(r.contentType, "application/json"),
		fmt.Sprintf("Content-Length: %d", len(body)),
	}
	if !r.noToken {
		lines = append(lines, "X-Proxy-Token: "+or(r.token, t.token))
	}
	if !t.injects {
		lines = append(lines, "Authorization: Bearer "+operatorKey)
	}
	lines = append(lines, r.headers...)
	return []byte(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
}

func or(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

// phases of a closed loop.
const (
	warming int32 = iota
	measuring
	over
)

// closedLoop keeps a number of connections busy, each with one request at a
// time, and counts what is answered within the time that is measured. They
// come one after another, each when the one before has had an answer: how a
// peer takes many at once is burst's question.
type closedLoop struct {
	connections int
	request     request
	status      int // of every answer
}

// loopState is what the connections of a closed loop share.
type loopState struct {
	target   *target
	request  []byte
	status   int
	phase    atomic.Int32
	deadline time.Time     // who has no answer by then hangs
	counted  chan struct{} // closed when the first answer was counted
	first    sync.Once

	mu         sync.Mutex
	timings    timings
	done       int64
	errors     int64
	reconnects int64
	hung       int64
	firstError string
}

func (l closedLoop) run(ctx context.Context, m *measurement) error {
	s := &loopState{
		target: m.target, request: l.request.bytes(m.target), status: l.status, timings: newTimings(),
		counted: make(chan struct{}),
	}
	open := s.open(l.connections, time.Now().Add(m.patience))
	s.deadline = time.Now().Add(m.warmUp + m.duration + m.patience)
	var callers sync.WaitGroup
	for _, conn := range open {
		callers.Go(func() { s.call(conn) })
	}
	pause(ctx, m.warmUp)
	used, begin := m.cpu(), time.Now()
	s.phase.Store(measuring)
	pause(ctx, m.duration)
	select { // on a busy machine, the first answer can take longer than that
	case <-s.counted:
	case <-time.After(m.patience / 2):
	case <-ctx.Done():
	}
	s.phase.Store(over)
	seconds := time.Since(begin).Seconds()
	used = m.cpu() - used
	callers.Wait()

	figures := m.figures
	figures[requestsDone] = float64(s.done)
	figures[perSecond] = float64(s.done) / seconds
	figures[errorsSeen], figures[reconnects], figures[hung] = float64(s.errors), float64(s.reconnects), float64(s.hung)
	s.timings.into(figures, latency)
	if s.done > 0 && used > 0 {
		figures[cpuPerRequest] = used.Seconds() * 1e6 / float64(s.done)
	}
	if l.request.size >= 1<<20 {
		figures[mibPerSecond] = figures[perSecond] * float64(l.request.size) / (1 << 20)
	}
	m.complain(s.firstError)
	return ctx.Err()
}

// open makes the connections, and lets each ask once. Those without an answer
// by the deadline hang.
func (s *loopState) open(connections int, deadline time.Time) (open []*connection) {
	for range connections {
		conn, h, err := ask(s.target.addr, s.request, deadline)
		if timedOut(err) {
			s.hung++
		} else if err != nil || h.status != s.status {
			s.errors++
			s.firstError = s.problem(h, err)
		}
		if conn != nil && (err != nil || h.closes) {
			_ = conn.Close()
			conn = nil
		}
		if !timedOut(err) {
			open = append(open, conn)
		}
	}
	return open
}

func (s *loopState) problem(h head, err error) string {
	return fmt.Sprintf("status %d, want %d (%v)", h.status, s.status, err)
}

// call is one caller, with a connection or one after the other.
func (s *loopState) call(conn *connection) {
	var (
		done, failed, redials int64

		problem string
		took    = newTimings()
	)
	if conn != nil {
		_ = conn.SetDeadline(s.deadline)
	}
	for s.phase.Load() != over {
		if conn == nil {
			redials++
			var err error
			if conn, err = dial(s.target.addr, s.deadline); err != nil {
				failed++
				problem = err.Error()
				time.Sleep(10 * time.Millisecond)
				continue
			}
		}
		begin := time.Now()
		h, err := conn.exchange(s.request)
		latency := time.Since(begin)
		if timedOut(err) {
			s.mu.Lock()
			s.hung++
			s.mu.Unlock()
			break
		}
		if err != nil || h.status != s.status {
			failed++
			problem = s.problem(h, err)
		} else if s.phase.Load() == measuring {
			done++
			took.add(latency)
			s.first.Do(func() { close(s.counted) })
		}
		if err != nil || h.closes {
			_ = conn.Close()
			conn = nil
		}
	}
	if conn != nil {
		_ = conn.Close()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.done += done
	s.errors += failed
	s.reconnects += redials
	s.timings.Merge(took.Histogram)
	if problem != "" {
		s.firstError = problem
	}
}

// connection is one of a caller's.
type connection struct {
	net.Conn
	in *bufio.Reader
}

// dial connects; by the deadline, everything on the connection must be over.
func dial(addr string, deadline time.Time) (*connection, error) {
	conn, err := (&net.Dialer{Deadline: deadline}).Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(deadline); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &connection{conn, bufio.NewReader(conn)}, nil
}

// ask sends one request on a new connection, and leaves that open.
func ask(addr string, request []byte, deadline time.Time) (conn *connection, h head, err error) {
	if conn, err = dial(addr, deadline); err != nil {
		return nil, head{}, err
	}
	h, err = conn.exchange(request)
	return conn, h, err
}

// exchange sends a request and reads the whole answer.
func (c *connection) exchange(request []byte) (head, error) {
	if _, err := c.Write(request); err != nil {
		return head{}, err
	}
	h, err := readHead(c.in)
	if err != nil {
		return h, err
	}
	return h, h.discardBody(c.in)
}

// pause waits, but not beyond the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// timedOut tells whether something was not over by its deadline.
func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}
