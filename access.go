package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
)

// errEnded is for reverse_proxy, which does not count it against the upstream.
var errEnded = fmt.Errorf("the caller's access has ended: %w", context.Canceled)

// access is a caller's permission to have one request sent on. A caller who was
// let in with the first byte may be revoked before the last one.
type access struct {
	handler *Handler
	caller  *configuredCaller
	token   tokenMark   // that the request came with
	ended   atomic.Bool // the request is given up

	abort atomic.Pointer[context.CancelFunc] // ends an attempt over HTTP/3; nil without one
}

// check gives the request up if the caller has no access any more: it is not
// sent, or its body fails.
func (a *access) check() error {
	if !a.ended.Load() && a.handler.stillAdmits(a.caller, a.token) {
		return nil
	}
	a.ended.Store(true)
	if abort := a.abort.Load(); abort != nil {
		(*abort)()
	}
	return errEnded
}

// abortable is a context of one attempt that check cancels. It ends with r at the
// latest, which net/http sees to.
func (a *access) abortable(r context.Context) context.Context {
	ctx, cancel := context.WithCancel(r)
	a.abort.Store(&cancel)
	return ctx
}

// stillAdmits reports whether a token is still the caller's. Once a later
// config runs, that one decides, also on requests that are under way.
func (h *Handler) stillAdmits(caller *configuredCaller, token tokenMark) bool {
	tokens := h.policy.tokens
	if running := h.metrics.running.Load(); running != nil && running.number > tokens.number {
		tokens = running
	}
	now, ok := tokens.match(token)
	return ok && now.id == caller.id
}

// callersBody is the body of a caller's request. Before it lets the last byte
// go, or the end if it cannot know which byte is the last, it asks whether the
// caller still has access: what is not whole is of no use to anybody.
//
// It also notes whether the body could not be read to its end, because it
// breaks off or its framing is malformed.
type callersBody struct {
	io.ReadCloser
	access *access // nil: it is a WebSocket, whose end is its session's
	left   int64   // of the Content-Length; less than 0 if there was none
	late   bool    // its end is known only when it is there: it goes on one byte late
	kept   []byte  // that byte, or none
	end    error   // it has been read to this
	broken atomic.Bool
	paced  bool // it has to come at a pace
	pace   pace
	slow   atomic.Bool // it has not
}

// wrapBody replaces r's body, if it has one, by one that asks for access.
func (a *answerWriter) wrapBody(r *http.Request) {
	if r.ContentLength == 0 || r.Body == nil || r.Body == http.NoBody {
		return
	}
	access := &a.access
	if isWebSocketUpgrade(r) {
		access = nil
	}
	a.body.ReadCloser, a.body.access, a.body.left = r.Body, access, r.ContentLength
	a.body.late = access != nil && r.ContentLength < 0
	a.body.paced = access != nil
	r.Body = &a.body
}

// Read implements io.Reader.
func (b *callersBody) Read(p []byte) (int, error) {
	if b.end != nil {
		return 0, b.end
	}
	if b.late {
		return b.readLate(p)
	}
	n, err := b.read(p)
	if b.access != nil && (err == io.EOF || b.left <= 0) {
		if ended := b.access.check(); ended != nil {
			b.end = ended
			return 0, ended
		}
		b.access = nil // it is whole: nothing takes it back
	}
	return n, err
}

// readLate reads, and keeps the last byte until another one follows or the
// caller has access at the end.
func (b *callersBody) readLate(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	n := copy(p, b.kept)
	b.kept = b.kept[:0]
	if n == len(p) { // one byte of room: the next one comes into its place here
		var next [1]byte
		if _, err := b.readSome(next[:]); err != nil {
			return b.finish(n, err)
		}
		b.kept = append(b.kept, next[0])
		return n, nil
	}
	read, err := b.readSome(p[n:])
	n += read
	if err != nil {
		return b.finish(n, err)
	}
	b.kept = append(b.kept, p[n-1])
	if n--; n == 0 { // nothing but the byte that is kept: wait for more
		return b.readLate(p)
	}
	return n, nil
}

// readSome reads at least one byte, or fails.
func (b *callersBody) readSome(p []byte) (n int, err error) {
	for n == 0 && err == nil {
		n, err = b.read(p)
	}
	if n > 0 && err == io.EOF {
		err = nil // it comes again with the next
	}
	return n, err
}

// finish ends the body with an error, and lets what was kept go if that is its
// end and the caller may have it sent.
func (b *callersBody) finish(n int, err error) (int, error) {
	if err == io.EOF {
		if ended := b.access.check(); ended != nil {
			err = ended
		}
	}
	if b.end = err; err != io.EOF {
		n = 0
	}
	return n, err
}

// read reads from net/http, and gives up what comes too slowly.
func (b *callersBody) read(p []byte) (int, error) {
	begin := time.Now()
	n, err := b.ReadCloser.Read(p)
	b.left -= int64(n)
	if b.paced && (errors.Is(err, os.ErrDeadlineExceeded) || err == nil && !b.pace.keeps(n, time.Since(begin))) {
		err = errTooSlow
		b.end = err
		b.slow.Store(true)
	}
	if err == io.EOF && b.left > 0 { // over HTTP/3, nobody else looks
		err = io.ErrUnexpectedEOF
	}
	if err != nil && err != io.EOF && !errors.Is(err, http.ErrBodyReadAfterClose) {
		b.broken.Store(true)
	}
	return n, err
}

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

const (
	// bodyTimeout is how long a body may be waited for beyond what its size takes.
	bodyTimeout = 30 * time.Second

	// minBodyRate is how fast a body has to come then, in bytes a second. The
	// slowest of networks are faster.
	minBodyRate = 1 << 10
)

var errTooSlow = errors.New("the request's body comes too slowly")

// pace is how fast a body comes. Only the time for which it is waited for
// counts: an upstream that takes it slowly is not the caller's fault.
type pace struct {
	came   int64
	waited time.Duration
}

// keeps reports whether a body is fast enough, of which n more bytes have come
// after a wait.
func (p *pace) keeps(n int, wait time.Duration) bool {
	p.came += int64(n)
	p.waited += wait
	return p.waited <= bodyTimeout+time.Duration(p.came/minBodyRate)*time.Second
}

// pacedReader gives a body up that comes too slowly.
type pacedReader struct {
	io.Reader
	pace pace
}

// Read implements io.Reader.
func (r *pacedReader) Read(p []byte) (int, error) {
	if caddy.Exiting() {
		return 0, errTooSlow // an exit waits for no body that goes nowhere
	}
	begin := time.Now()
	n, err := r.Reader.Read(p)
	if err == nil && !r.pace.keeps(n, time.Since(begin)) {
		err = errTooSlow
	}
	return n, err
}

// inFlight counts a caller's requests that are under way, and bounds them, so
// that no caller takes what the others need. How many requests it may pay for
// at a time is another question, which responses_budget asks.
type inFlight struct{ n atomic.Int64 }

// maxInFlight is how many one caller may have: the requests of two callers have
// room in the files that the process may open, where each takes a connection
// here and one upstream.
var maxInFlight = sync.OnceValue(func() int64 {
	return min(4096, max(1, process.MaxFiles()/4))
})

// begin reports whether there is room for one more. If so, end must be called.
func (f *inFlight) begin() bool {
	if f.n.Add(1) <= maxInFlight() {
		return true
	}
	f.end()
	return false
}

func (f *inFlight) end() { f.n.Add(-1) }
