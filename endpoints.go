package responsesproxygate

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
	"go.uber.org/zap"
)

// defaultShutdownPath is where the shutdown endpoint is if no path is given.
const defaultShutdownPath = "/shutdown"

// isShutdown reports whether r asks for the shutdown endpoint.
func (p *policy) isShutdown(r *http.Request) bool {
	return p.shutdownPath != "" && r.RequestURI == p.shutdownPath &&
		(r.Method == http.MethodPost || r.Method == http.MethodGet)
}

// validateShutdown refuses a shutdown endpoint that nobody could use.
func (h *Handler) validateShutdown() error {
	if h.ShutdownEndpoint != "" && !h.hasOwnToken() {
		return errors.New("shutdown_endpoint: it takes the gate's own token, and there are only clients; give the gate a server_info of its own")
	}
	return nil
}

// shutDown answers 200 and then lets Caddy exit gracefully.
func (h *Handler) shutDown(w http.ResponseWriter, r *http.Request, caller *configuredCaller) error {
	h.count(caller, outcomeShutdown)
	h.trail.begin(r, caller).end(outcomeShutdown, http.StatusOK, r)
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
		a.cutOff()
		conn := http.NewResponseController(a.ResponseWriter)
		_, _ = conn.SetReadDeadline(now), conn.SetWriteDeadline(now) // (an error: there is no connection any more)
	}
	return len(q.all)
}

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

// defaultHealthPath is where the health endpoint is if no path is given.
const defaultHealthPath = "/healthz"

// isHealth reports whether r asks for the health endpoint.
func (h *Handler) isHealth(r *http.Request) bool {
	return h.HealthEndpoint != "" && r.RequestURI == h.HealthEndpoint && r.URL.Path == h.HealthEndpoint &&
		(r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// answerHealth tells load balancers whether to send callers here. It tells
// nothing else, so it takes no token.
func (h *Handler) answerHealth(w http.ResponseWriter, r *http.Request) error {
	h.count(nil, outcomeHealth)
	skipAccessLog(r) // anybody can ask any number of times
	leave(w, r, false)
	refusals.SetHeader(w.Header(), refusals.Own)
	status, answer := http.StatusOK, "{\"status\":\"ok\"}\n"
	if !h.isHealthy(r) {
		status, answer = http.StatusServiceUnavailable, "{\"status\":\"unavailable\"}\n"
	}
	w.WriteHeader(status)
	_, _ = w.Write([]byte(answer))
	return nil
}

// mainRoute is the route that the health endpoint is about: the one of
// responses, if there is one. (If the key lacks the scope of another route, the
// gate is healthy.)
func (h *Handler) mainRoute() int {
	return max(0, slices.IndexFunc(h.AllowRoute, func(route Route) bool {
		return route.Method == http.MethodPost && strings.HasSuffix(route.Path, "/responses")
	}))
}

// isHealthy reports whether a caller's request would be sent upstream now: not
// while the upstream's refusal of the key is waited out (after that one has to
// be sent to find out, and so it must come here), not while a workload's identity
// has no token that lives, not if the shared clients were never read, and not in
// Caddy's shutdown_delay.
func (h *Handler) isHealthy(r *http.Request) bool {
	if h.credential.current() == nil || !h.credential.triesOn(h.mainRoute()).Ready() {
		return false
	}
	if workload := h.credential.exchanger(); workload != nil && workload.Status().Left <= 0 {
		return false
	}
	if h.roster != nil && h.roster.known.Load() == nil {
		return false
	}
	if replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		if stopping, _ := replacer.Get("http.shutting_down"); stopping == true {
			return false
		}
	}
	return true
}

// validateHealth refuses a health endpoint whose path is needed for something
// else.
func (h *Handler) validateHealth() error {
	path := h.HealthEndpoint
	if path == "" {
		return nil
	}
	if err := validatePath(path); err != nil {
		return fmt.Errorf("health_endpoint %s: %w", path, err)
	}
	if path == h.ShutdownEndpoint {
		return fmt.Errorf("health_endpoint %s: this is the shutdown_endpoint; give one of them another path", path)
	}
	if slices.ContainsFunc(h.AllowRoute, func(route Route) bool { return route.takes(path) }) {
		return errors.New("health_endpoint " + path + ": this is the path of an allow_route; give it another")
	}
	return nil
}
