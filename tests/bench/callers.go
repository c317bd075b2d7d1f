//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sys/unix"
)

// callers are those of a closed loop through one peer. They all live on one
// thread: each turn reads once from the connections that have something, and
// writes once to those whose answer is whole.
type callers struct {
	addr    unix.Sockaddr
	request []byte
	status  int // of every answer
	poller  *poller
	all     []*caller
	byFD    map[int]*caller
	buffer  []byte
	asking  int // callers without an answer to their request

	end      time.Time // no requests from then on
	deadline time.Time // who has no answer by then hangs
	counting bool
	last     time.Time // when the last answer was whole

	timings    timings
	done       int64 // while counting, as are the timings
	errors     int64
	reconnects int64
	hung       int64
	problem    string // the last
}

// caller has one request at a time.
type caller struct {
	fd         int  // negative without a connection
	dialed     bool // once, at least
	asks       bool
	connecting bool
	waits      bool   // for room to write
	unsent     []byte // of the request
	asked      time.Time
	answer     message
	hangs      bool // and so takes no part any more
}

func newCallers(t *target, r request, status int) (*callers, error) {
	addr, err := socketAddress(t.addr)
	if err != nil {
		return nil, err
	}
	poller, err := newPoller()
	return &callers{
		addr: addr, request: r.bytes(t), status: status, poller: poller, byFD: map[int]*caller{},
		buffer: make([]byte, 64<<10), timings: newTimings(),
	}, err
}

func (c *callers) close() {
	for _, one := range c.all {
		c.disconnect(one)
	}
	c.poller.close()
}

// open makes the connections, one after another, and lets each ask once.
// Those without an answer in time hang.
func (c *callers) open(ctx context.Context, connections int, patience time.Duration) error {
	c.end = time.Now()
	c.deadline = c.end.Add(patience)
	for range connections {
		one := &caller{fd: -1}
		c.all = append(c.all, one)
		if time.Now().After(c.deadline) {
			c.hang(one)
			continue
		}
		c.ask(one)
		if err := c.awaitAnswers(ctx); err != nil {
			return err
		}
	}
	return nil
}

// keepAsking lets all callers ask, again and again for that long, and waits
// for the answers. It returns the time to the last of them.
func (c *callers) keepAsking(ctx context.Context, d, patience time.Duration) (time.Duration, error) {
	if err := c.takeIn(0); err != nil { // connections that were closed meanwhile
		return 0, err
	}
	begin := time.Now()
	c.end = begin.Add(d)
	c.deadline = c.end.Add(patience)
	c.last = c.end
	for _, one := range c.all {
		if !one.hangs {
			c.ask(one)
		}
	}
	err := c.awaitAnswers(ctx)
	return c.last.Sub(begin), err
}

// awaitAnswers lets callers go on until all have their last answer.
func (c *callers) awaitAnswers(ctx context.Context) error {
	for yields := (yields{}); c.asking > 0 && ctx.Err() == nil; yields.nowAndThen() {
		left := time.Until(c.deadline)
		if left <= 0 {
			for _, one := range c.all {
				if one.asks {
					c.hang(one)
				}
			}
			break
		}
		if err := c.takeIn(min(left, 100*time.Millisecond)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// takeIn waits for what comes, for so long at most, and handles it.
func (c *callers) takeIn(limit time.Duration) error {
	found, err := c.poller.wait(limit)
	for _, r := range found {
		one := c.byFD[r.fd]
		if one == nil {
			continue
		}
		asked, connecting := one.asks, one.connecting
		if r.write && asked {
			c.send(one)
		}
		if r.read && one.fd >= 0 {
			c.receive(one)
		}
		if asked && !one.asks && !connecting && time.Now().Before(c.end) {
			c.ask(one)
		}
	}
	return err
}

// ask sends a request, on a new connection if there is none. Who gets none
// waits for the next slice.
func (c *callers) ask(one *caller) {
	one.asks = true
	c.asking++
	one.unsent = c.request
	one.asked = time.Now()
	if one.fd >= 0 {
		c.send(one)
		return
	}
	if one.dialed {
		c.reconnects++
	}
	one.dialed = true
	fd, err := dialSocket(c.addr)
	if err == nil {
		one.fd, one.connecting, one.waits, one.answer = fd, true, true, message{}
		c.byFD[fd] = one
		err = c.poller.add(fd, true)
	}
	if err != nil {
		c.fail(one, err)
	}
}

// send sends what it can of a request.
func (c *callers) send(one *caller) {
	if one.connecting {
		if err := connected(one.fd); err != nil {
			c.fail(one, err)
			return
		}
		one.connecting, one.asked = false, time.Now()
	}
	n, err := send(one.fd, one.unsent)
	one.unsent = one.unsent[n:]
	if waits := len(one.unsent) > 0; err == nil && waits != one.waits {
		one.waits = waits
		err = c.poller.watchWriting(one.fd, waits)
	}
	if err != nil {
		c.fail(one, err)
	}
}

// receive takes in what there is of an answer.
func (c *callers) receive(one *caller) {
	n, err := receive(one.fd, c.buffer)
	if err == errNotYet {
		return
	}
	if !one.asks { // a connection that nothing is asked on may be closed
		c.disconnect(one)
		return
	}
	var rest []byte
	whole := err == io.EOF && one.answer.endsWithConnection()
	if err == nil {
		rest, whole, err = one.answer.feed(c.buffer[:n])
	}
	switch {
	case len(rest) > 0:
		c.fail(one, errUnasked)
	case whole:
		c.answered(one)
	case err != nil:
		c.fail(one, err)
	}
}

var errUnasked = errors.New("more came than the answer")

// answered counts an answer.
func (c *callers) answered(one *caller) {
	c.rest(one)
	c.last = time.Now()
	if one.answer.status != c.status {
		c.countError(one, nil)
	} else if c.counting {
		c.done++
		c.timings.add(c.last.Sub(one.asked))
	}
	if one.answer.closes || len(one.unsent) > 0 {
		c.disconnect(one)
	}
}

// fail gives up a request, and the connection with it.
func (c *callers) fail(one *caller, err error) {
	c.rest(one)
	c.countError(one, err)
	c.disconnect(one)
}

func (c *callers) countError(one *caller, err error) {
	c.errors++
	c.problem = fmt.Sprintf("status %d, want %d (%v)", one.answer.status, c.status, err)
}

// hang gives up a caller.
func (c *callers) hang(one *caller) {
	c.rest(one)
	c.disconnect(one)
	c.hung++
	one.hangs = true
}

func (c *callers) rest(one *caller) {
	if one.asks {
		one.asks = false
		c.asking--
	}
}

func (c *callers) disconnect(one *caller) {
	if one.fd >= 0 {
		delete(c.byFD, one.fd)
		_ = unix.Close(one.fd)
	}
	one.fd, one.connecting, one.waits = -1, false, false
}
