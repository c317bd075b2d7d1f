// Package backoff answers one question: is it worth trying this credential
// again? Once the upstream has refused it, one request after another would
// only be refused, too, and clients send many.
package backoff

import (
	"sync/atomic"
	"time"
)

// A credential that was refused is not tried for First. Each refusal of a
// later try doubles that, up to Last.
const (
	First = time.Second
	Last  = time.Minute
)

// Backoff is what is known of one credential. The zero value is one that was
// never refused. It may be used by many goroutines.
type Backoff struct {
	now atomic.Pointer[state]
}

// state is never changed, only replaced.
type state struct {
	round uint64        // grows with each refusal that counts, and with each Reset
	wait  time.Duration // 0: nothing is held back
	until time.Time     // then the next try is let through
}

// Try is one request with the credential.
type Try struct{ round uint64 }

func (b *Backoff) load() (*state, state) {
	at := b.now.Load()
	if at == nil {
		return nil, state{}
	}
	return at, *at
}

// Begin reports whether a request may be sent with the credential. While it is
// refused, that is one request for each wait; if its answer is late, the next
// wait has another.
func (b *Backoff) Begin() (try Try, ok bool) {
	for {
		at, s := b.load()
		if s.wait == 0 {
			return Try{s.round}, true
		}
		now := time.Now()
		if now.Before(s.until) {
			return Try{}, false
		}
		next := s // (s itself would be allocated, also for requests that need not wait)
		next.until = now.Add(s.wait)
		if b.now.CompareAndSwap(at, &next) {
			return Try{s.round}, true
		}
	}
}

// Ready reports whether Begin would let a request be sent now. It changes nothing.
func (b *Backoff) Ready() bool {
	_, s := b.load()
	return s.wait == 0 || !time.Now().Before(s.until)
}

// Refused notes that the upstream refused the credential. It reports whether a
// wait begins with that, and for how long. Of requests that were under way
// together, the first one's refusal counts; so does none that was begun before
// the credential changed.
func (b *Backoff) Refused(try Try) (wait time.Duration, began bool) {
	for {
		at, s := b.load()
		if s.round != try.round {
			return s.wait, false
		}
		next := state{round: s.round + 1, wait: min(max(2*s.wait, First), Last)}
		next.until = time.Now().Add(next.wait)
		if b.now.CompareAndSwap(at, &next) {
			return next.wait, true
		}
	}
}

// Accepted notes that the upstream took the credential, and ends the wait,
// unless the credential was refused after the request was begun. It reports
// whether there was a wait that has ended.
func (b *Backoff) Accepted(try Try) (ended bool) {
	for {
		at, s := b.load()
		if s.wait == 0 || s.round != try.round {
			return false
		}
		if b.now.CompareAndSwap(at, &state{round: s.round}) {
			return true
		}
	}
}

// Reset begins anew, with another credential.
func (b *Backoff) Reset() {
	for {
		at, s := b.load()
		if b.now.CompareAndSwap(at, &state{round: s.round + 1}) {
			return
		}
	}
}
