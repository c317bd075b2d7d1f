package responsesproxygate

import (
	"net/http"

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
	leaveBody(w, r)
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
