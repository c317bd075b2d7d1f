package infofile

import (
	"sync"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
)

// Sweep has files that share a directory look for leftovers in it once, and not
// once each: a gate with thousands of clients may have all of their files in one.
// Its files are of one config, of which it also finds out once whether it is
// only validated.
type Sweep struct {
	mu         sync.Mutex
	done       map[swept]bool
	look       sync.Once
	validating bool
}

func (s *Sweep) isValidating() bool {
	s.look.Do(func() { s.validating = process.IsValidating() })
	return s.validating
}

// swept is a directory, and for whom leftovers were looked for there.
type swept struct {
	dir   string
	owner fileOwner
}

// begin reports whether leftovers are still to be looked for where the file is.
func (s *Sweep) begin(f *File) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	here := swept{f.dir, f.owner}
	if s.done[here] {
		return false
	}
	if s.done == nil {
		s.done = make(map[swept]bool)
	}
	s.done[here] = true
	return true
}
