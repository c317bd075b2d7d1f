package responsesproxygate

import (
	"context"
	"sync"
)

// storageCalls are the calls of a storage that have not come back in time. On a
// network file system, one can hang where no context reaches it. What hangs is
// not asked for again until it has come back, so that nothing piles up.
type storageCalls struct {
	mu   sync.Mutex
	hung map[string]int
}

// storageCall is one call: either it has an outcome, or nobody waits for one.
type storageCall struct {
	finished, abandoned bool
}

// within runs a call, and waits for it as long as the context says. If it
// succeeds after that, it is undone.
func within[T any](ctx context.Context, c *storageCalls, what string, run func() (T, error), undo func()) (value T, err error) {
	c.mu.Lock()
	hangs := c.hung[what] > 0
	c.mu.Unlock()
	if hangs {
		return value, errHangs
	}
	type outcome struct {
		value T
		err   error
	}
	call, done := new(storageCall), make(chan outcome, 1)
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
		return value, errHangs
	}
	o := <-done
	return o.value, o.err
}

// finish notes that a call has come back, and tells whether that was too late.
func (c *storageCalls) finish(call *storageCall, what string) (late bool) {
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
func (c *storageCalls) abandon(call *storageCall, what string) bool {
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
