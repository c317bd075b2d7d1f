//go:build unix

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"time"
)

// request is what a caller sends.
type request struct {
	path        string   // /v1/responses, if none is said
	headers     []string // beside those of every request
	contentType string   // application/json, if none is said
	token       string   // the peer's own, if none is said
	noToken     bool
	size        int  // of the body, in bytes; as small as can be if 0
	messages    bool // the body is many short messages, not one long text
}

// body is a question of about r.size.
func (r request) body() string {
	before, piece, after := `{"model":"gpt-5","stream":true,"input":"hi`, "x", `"}`
	if r.messages {
		before, after = `{"model":"gpt-5","stream":true,"input":[{"role":"user","content":"hi"}`, `]}`
		piece = `,{"role":"user","content":[{"type":"input_text","text":"` + strings.Repeat("some words ", 20) + `"}]}`
	}
	return before + strings.Repeat(piece, max(0, r.size-len(before)-len(after))/len(piece)) + after
}

// bytes is the request as it goes over the wire.
func (r request) bytes(t *target) []byte {
	body := r.body()
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

// closedLoop keeps a number of connections busy, each with one request at a
// time. They come one after another, each when the one before has had an
// answer: how a peer takes many at once is burst's question.
type closedLoop struct {
	connections int
	request     request
	status      int // of every answer
}

// slice is about how long a peer's turn is. Peers take turns so that what the
// machine's neighbours do touches all of them alike.
const slice = 100 * time.Millisecond

// inTurns is what one of the peers that take turns has had.
type inTurns struct {
	*measurement
	*callers
	took, used time.Duration // of time, and of CPU time
}

func (l closedLoop) run(ctx context.Context, m *measurement) error {
	return l.runInTurns(ctx, []*measurement{m})
}

// runInTurns measures all peers, each for its duration. Their callers all live
// on this thread, and the connections stay open between the turns.
func (l closedLoop) runInTurns(ctx context.Context, measured []*measurement) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var peers []*inTurns
	for _, m := range measured {
		callers, err := newCallers(m.target, l.request, l.status)
		if err != nil {
			return err
		}
		defer callers.close()
		if err := callers.open(ctx, l.connections, m.patience); err != nil {
			return err
		}
		if _, err := callers.keepAsking(ctx, m.warmUp, m.patience); err != nil {
			return err
		}
		callers.counting = true
		m.settle(ctx)
		peers = append(peers, &inTurns{measurement: m, callers: callers})
	}
	for first, left := 0, true; left; first++ {
		left = false
		for n := range peers {
			p := peers[(n+first)%len(peers)]
			if p.took >= p.duration {
				continue
			}
			left = true
			if err := p.takeTurn(ctx); err != nil {
				return err
			}
		}
	}
	for _, p := range peers {
		p.report(l.request)
	}
	return nil
}

// takeTurn measures a slice. It is from the first request to the last answer:
// when its time is over no more is asked, but what is under way counts, and so
// do the time and the CPU time that it takes. CPU time goes on to count until
// the peer rests: collecting garbage, say, is a part of what it has done.
func (p *inTurns) takeTurn(ctx context.Context) error {
	slices := max(1, p.duration.Round(slice)/slice)
	used := p.cpu()
	took, err := p.keepAsking(ctx, p.duration/slices, p.patience)
	p.took += took
	p.used += p.settle(ctx) - used
	p.noteThreads()
	return err
}

func (p *inTurns) report(r request) {
	figures, done := p.figures, float64(p.done)
	figures[requestsDone] = done
	figures[perSecond] = done / p.took.Seconds()
	figures[errorsSeen], figures[reconnects], figures[hung] = float64(p.errors), float64(p.reconnects), float64(p.hung)
	p.timings.into(figures, latency)
	if done > 0 && p.used > 0 {
		figures[cpuPerRequest] = p.used.Seconds() * 1e6 / done
	}
	if r.size >= 1<<20 {
		figures[mibPerSecond] = figures[perSecond] * float64(r.size) / (1 << 20)
	}
	p.measurement.complain(p.problem)
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

// timedOut reports whether something was not over by its deadline.
func timedOut(err error) bool {
	return errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)
}
