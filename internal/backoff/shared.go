package backoff

import (
	"sync"
	"sync/atomic"
	"time"
)

// Shared is a Backoff of a credential that several callers use. A refusal can be
// about what one of them asks for: some upstreams say 401 to a model that a key
// may not use. So it holds back the caller whose refusal it was. All are held
// back when another one is refused, too, before anybody is accepted. Once another
// is accepted, the caller's refusals are about that caller alone.
//
// Callers are compared with ==. The zero value is of a credential that was never
// refused. It may be used by many goroutines.
type Shared struct {
	all Backoff

	mu      sync.Mutex
	blamed  any              // whose refusal began the wait; nil: nobody was refused since one was accepted
	since   uint64           // the round that its first refusal began
	several bool             // others were refused, too
	others  bool             // others have asked since the wait began
	blames  atomic.Bool      // blamed is not nil
	own     map[any]*Backoff // of callers who were refused what another was not
	alone   atomic.Int64     // how many these are
}

// leaveFor is how much longer than others who was refused last waits, if they
// have asked: of several callers, not always the same one has the try.
const leaveFor = 2 * time.Second

// SharedTry is one request of a caller's with the credential.
type SharedTry struct {
	caller   any
	all, one Try
	own      *Backoff // nil: what becomes of the try is about everybody
}

// Alone reports whether what becomes of the try is about its caller alone.
func (t SharedTry) Alone() bool { return t.own != nil }

// Begin reports whether a request of a caller's may be sent with the credential.
func (s *Shared) Begin(caller any) (try SharedTry, ok bool) {
	try.caller = caller
	if try.own = s.ownOf(caller); try.own != nil {
		try.one, ok = try.own.Begin()
		return try, ok
	}
	if !s.blames.Load() {
		try.all, ok = s.all.Begin()
		return try, ok
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, now := s.all.load()
	switch {
	case caller != s.blamed && !s.several:
		try.all = Try{now.round}
		return try, true
	case caller != s.blamed:
		s.others = true
	case s.others && time.Now().Before(now.until.Add(leaveFor)):
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

// Ready reports whether a request could be sent now. It changes nothing.
func (s *Shared) Ready() bool { return s.all.Ready() }

// Refused is Backoff.Refused.
func (s *Shared) Refused(try SharedTry) (wait time.Duration, began bool) {
	if try.own != nil {
		return try.own.Refused(try.one)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if wait, began = s.all.Refused(try.all); !began {
		return wait, false
	}
	if s.blamed == nil {
		s.since = try.all.round + 1
	} else if s.blamed != try.caller {
		s.several = true
	}
	s.blamed, s.others = try.caller, false
	s.blames.Store(true)
	return wait, true
}

// Accepted is Backoff.Accepted.
func (s *Shared) Accepted(try SharedTry) {
	if try.own != nil {
		try.own.Accepted(try.one)
		return // what it asks for is not what it was refused
	}
	if !s.blames.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	another := try.caller != s.blamed && !s.several && try.all.round >= s.since
	if another { // all refusals since then were the one caller's
		_, now := s.all.load()
		try.all = Try{now.round}
	}
	if !s.all.Accepted(try.all) && !another {
		return
	}
	if another {
		s.setApart(s.blamed)
	}
	s.blamed, s.several, s.others = nil, false, false
	s.blames.Store(false)
}

// setApart has a caller's refusals be about it alone from now on.
func (s *Shared) setApart(caller any) {
	if s.own[caller] != nil {
		return
	}
	if s.own == nil {
		s.own = make(map[any]*Backoff)
	}
	own := new(Backoff)
	own.Refused(Try{}) // it was
	s.own[caller] = own
	s.alone.Store(int64(len(s.own)))
}

// Reset begins anew, with another credential. Who was refused is remembered:
// where each refusal makes another credential, it would never be found out.
func (s *Shared) Reset() {
	s.all.Reset()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.several, s.others = false, false
	for _, own := range s.own {
		own.Reset()
	}
}
