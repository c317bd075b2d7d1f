package responsesproxygate

import (
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
	"go.uber.org/zap"
)

// shutDown answers 200 and then lets Caddy exit gracefully.
func (h *Handler) shutDown(w http.ResponseWriter, r *http.Request, caller *configuredCaller) error {
	h.count(caller, outcomeShutdown)
	h.trail.begin(r, caller).end(outcomeShutdown, http.StatusOK)
	h.logger.Info("shutting down on a caller's request",
		zap.String("gate", h.Name), zap.String("remote_addr", remoteAddr(r)))
	leave(w, r, true)
	header := w.Header()
	h.policy.allowCORS(header, r)
	refusals.SetHeader(header, refusals.Own)
	header.Set("Connection", "close")
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write([]byte("{\"status\":\"shutting down\"}\n"))
	// Flushed before the exit begins; its graceful part waits for this
	// request, so the answer arrives either way.
	_ = http.NewResponseController(w).Flush()
	go process.ExitGracefully(h.logger)
	return nil
}

// exitTimeout is how long an exit waits for requests that have passed a gate,
// where the operator has set no grace_period: Caddy alone would wait for ever,
// and a stream need not end.
const exitTimeout = 30 * time.Second

// underWay are the requests that have passed a gate, of this config or of
// former ones.
var underWay = requests{all: make(map[*answerWriter]struct{})}

type requests struct {
	mu  sync.Mutex
	all map[*answerWriter]struct{}
}

// begin notes a request. Done must be called before its handler returns.
func (q *requests) begin(a *answerWriter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.all[a] = struct{}{}
}

func (q *requests) done(a *answerWriter) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.all, a)
}

// cutOff ends all of them, also those that wait for a caller who neither reads
// nor writes.
func (q *requests) cutOff() (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for a := range q.all {
		a.access.cancel()
		conn := http.NewResponseController(a.ResponseWriter)
		_, _ = conn.SetReadDeadline(now), conn.SetWriteDeadline(now) // (an error: there is no connection any more)
	}
	return len(q.all)
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

// boundExit sees to it that an exit has a bound.
func (h *Handler) boundExit(ctx caddy.Context) {
	if !caddy.Exiting() {
		return // a reload cuts nothing
	}
	app, err := ctx.AppIfConfigured("http")
	if app, ok := app.(*caddyhttp.App); err != nil || !ok || app.GracePeriod > 0 {
		return // Caddy does it
	}
	time.AfterFunc(exitTimeout, func() {
		if n := underWay.cutOff(); n > 0 {
			h.logger.Warn("requests were still under way and are cut off; the global option grace_period says how long an exit waits",
				zap.Int("requests", n), zap.Duration("after", exitTimeout))
		}
	})
}
