package responsesproxygate

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
)

// defaultHealthPath is where the health endpoint is if no path is given.
const defaultHealthPath = "/healthz"

// isHealth reports whether r asks for the health endpoint.
func (h *Handler) isHealth(r *http.Request) bool {
	return h.HealthEndpoint != "" && r.RequestURI == h.HealthEndpoint && r.URL.Path == h.HealthEndpoint &&
		(r.Method == http.MethodGet || r.Method == http.MethodHead)
}

// answerHealth answers whoever asks whether callers are better sent elsewhere.
// There is nothing in it but that: it takes no token.
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

// mainRoute is the one whose callers the health endpoint speaks for: that of
// responses, if there is one. (A key that lacks the scope of another is healthy.)
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

// validateHealth refuses a health endpoint that stands in something's way.
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
