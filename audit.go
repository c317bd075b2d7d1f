package responsesproxygate

import (
	"errors"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/surroundings"
)

// The risks that insecure_allow can name.
const (
	riskRemoteListener    = "remote_listener"
	riskTCPAdmin          = "tcp_admin"
	riskLoggedToken       = "logged_token"
	riskLiteralSecret     = "literal_secret"
	riskPlaintextUpstream = "plaintext_upstream"
)

var risks = []string{riskRemoteListener, riskTCPAdmin, riskLoggedToken, riskLiteralSecret, riskPlaintextUpstream}

// configID tells one config from another while both exist.
type configID = surroundings.ConfigID

// allows tells whether the operator takes a risk knowingly.
func (h *Handler) allows(risk string) bool { return slices.Contains(h.InsecureAllow, risk) }

// audit refuses surroundings that would undo the gate, unless the operator
// takes that risk.
func (h *Handler) audit(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return h.gateError(errors.New("the gate works only as a handler of an HTTP server's routes"))
	}
	config, err := surroundings.ConfigOf(ctx)
	if err != nil {
		return h.gateError(err)
	}
	h.server, h.config = server, config.ID()
	if !h.allows(riskRemoteListener) {
		err = errors.Join(err, surroundings.AuditListeners(server, config, infofile.CheckSocketDir))
	}
	if !h.allows(riskTCPAdmin) {
		err = errors.Join(err, surroundings.AuditAdmin(config, infofile.CheckSocketDir))
	}
	if !h.allows(riskLoggedToken) {
		err = errors.Join(err, surroundings.AuditLogs(server, config))
	}
	if err == nil {
		err = surroundings.RefuseListenersInUse(server)
	}
	return h.gateError(err)
}
