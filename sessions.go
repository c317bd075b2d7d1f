package responsesproxygate

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// usage is what is counted of a caller's requests.
type usage struct {
	accepted atomic.Uint64
	last     atomic.Int64 // Unix nanoseconds; 0 is never
}

// count counts one accepted request.
func (u *usage) count() {
	u.accepted.Add(1)
	u.last.Store(time.Now().UnixNano())
}

// sessions are the WebSockets that a caller has open. Each was opened with a
// token that was valid then, and can go on for hours: taking a caller's access
// away has to end them.
type sessions struct {
	mu   sync.Mutex
	ends map[*context.CancelFunc]struct{}
}

// begin derives the context of one session; done must be called at its end.
func (s *sessions) begin(parent context.Context) (ctx context.Context, done func()) {
	ctx, cancel := context.WithCancel(parent)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ends == nil {
		s.ends = make(map[*context.CancelFunc]struct{})
	}
	s.ends[&cancel] = struct{}{}
	return ctx, func() {
		cancel()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.ends, &cancel)
	}
}

// count is how many are open.
func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.ends)
}

// end ends every open session.
func (s *sessions) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for cancel := range s.ends {
		(*cancel)()
	}
}
