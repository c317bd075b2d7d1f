package backoff

import (
	"sync"
	"sync/atomic"
	"time"
)

// Shared is a Backoff of a credential that several callers use. A refusal can be
// about what one of them asks for: some upstreams say 401 to a model that a key
// may not use. Nobody can tell that from one refusal, so it holds all back. But
// whose refusal it was leaves the next try to the others, if they ask; and once
// another's is accepted, that caller's refusals are about that caller alone.
//
// Callers are compared with ==. The zero value is of a credential that was never
// refused. It may be used by many goroutines.
type Shared struct {
	all Backoff

	mu     sync.Mutex
	blamed any              // whose refusal began the wait
	others bool             // another has asked since
	own    map[any]*Backoff // of callers who were refused what another was not
	alone  atomic.Int64     // how many these are
}

// SharedTry is one request of a caller's with the credential.
type SharedTry struct {
	caller   any
	all, one Try
	own      *Backoff // nil: what becomes of the try is about everybody
}

// Begin reports whether a request of a caller's may be sent with the credential.
func (s *Shared) Begin(caller any) (try SharedTry, ok bool) {
	try.caller = caller
	if try.own = s.ownOf(caller); try.own != nil {
		_, now := s.all.load()
		try.all = Try{now.round}
		try.one, ok = try.own.Begin()
		return try, ok
	}
	if s.leaves(caller) {
		return try, false
	}
	try.all, ok = s.all.Begin()
	return try, ok
}

// ownOf is what is known of a caller alone; nil if that is nothing.
func (s *Shared) ownOf(caller any) *Backoff {
	if s.alone.Load() == 0 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own[caller]
}

// leaves reports whether a caller leaves the next try to others, who have asked.
// If they do not come, it has the try after another wait.
func (s *Shared) leaves(caller any) bool {
	_, now := s.all.load()
	if now.wait == 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if caller != s.blamed {
		s.others = true
		return false
	}
	return s.others && time.Now().Before(now.until.Add(now.wait))
}

// Ready reports whether a request could be sent now. It changes nothing.
func (s *Shared) Ready() bool { return s.all.Ready() }

// Refused is Backoff.Refused.
func (s *Shared) Refused(try SharedTry) (wait time.Duration, began bool) {
	if try.own != nil {
		return try.own.Refused(try.one)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait, began = s.all.Refused(try.all); began {
		s.blamed, s.others = try.caller, false
	}
	return wait, began
}

// Accepted is Backoff.Accepted.
func (s *Shared) Accepted(try SharedTry) {
	if try.own != nil {
		try.own.Accepted(try.one)
	}
	if _, now := s.all.load(); now.wait == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.all.Accepted(try.all) || s.blamed == try.caller || s.own[s.blamed] != nil {
		return
	}
	if s.own == nil {
		s.own = make(map[any]*Backoff)
	}
	own := new(Backoff)
	own.Refused(Try{}) // it was
	s.own[s.blamed] = own
	s.alone.Store(int64(len(s.own)))
}

// Reset begins anew, with another credential. What is about one caller alone
// goes on to be.
func (s *Shared) Reset() {
	s.all.Reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, own := range s.own {
		own.Reset()
	}
}
