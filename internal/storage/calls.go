package storage

import (
	"context"
	"errors"
	"sync"
)

// Calls are the calls of a storage that have not come back in time. On a
// network file system, one can hang where no context reaches it. The same call
// is not made again until it has come back, so that nothing piles up.
type Calls struct {
	mu   sync.Mutex
	hung map[string]int
}

// ErrHangs says that a call has not come back in time.
var ErrHangs = errors.New("it has not answered in time")

// call is one call: either it has an outcome, or nobody waits for one.
type call struct {
	finished, abandoned bool
}

// Within runs a call, and waits for it as long as the context says. If it
// succeeds after that, it is undone.
func Within[T any](ctx context.Context, c *Calls, what string, run func() (T, error), undo func()) (value T, err error) {
	c.mu.Lock()
	hangs := c.hung[what] > 0
	c.mu.Unlock()
	if hangs {
		return value, ErrHangs
	}
	type outcome struct {
		value T
		err   error
	}
	call, done := new(call), make(chan outcome, 1)
	go func() {
		value, err := run()
		done <- outcome{value, err}
		if c.finish(call, what) && err == nil && undo != nil {
			undo()
		}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
	}
	if c.abandon(call, what) {
		return value, ErrHangs
	}
	o := <-done
	return o.value, o.err
}

// finish notes that a call has come back, and reports whether that was too late.
func (c *Calls) finish(call *call, what string) (late bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	call.finished = true
	if call.abandoned {
		if c.hung[what]--; c.hung[what] == 0 {
			delete(c.hung, what)
		}
	}
	return call.abandoned
}

// abandon gives a call up, unless it has come back after all.
func (c *Calls) abandon(call *call, what string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if call.finished {
		return false
	}
	call.abandoned = true
	if c.hung == nil {
		c.hung = make(map[string]int)
	}
	c.hung[what]++
	return true
}
