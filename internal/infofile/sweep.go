package infofile

import "sync"

// Sweep has files that share a directory look for leftovers in it once, and not
// once each: a gate with thousands of clients may have all of their files in one.
type Sweep struct {
	mu   sync.Mutex
	done map[swept]bool
}

// swept is a directory, and for whom leftovers were looked for there.
type swept struct {
	dir   string
	owner fileOwner
}

// ShareSweep has the file look for leftovers only where no other file has that
// has the same Sweep. By default, each looks for itself.
func (f *File) ShareSweep(s *Sweep) { f.sweep = s }

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
