package responsesproxygate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
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
	err = errors.Join(process.RefuseDebugOutput(), h.refusePrintedSecrets(process.PrintsEnvironment()))
	if !h.allows(riskRemoteListener) {
		err = errors.Join(err, surroundings.AuditListeners(server, config, infofile.CheckSocket))
	}
	if !h.allows(riskTCPAdmin) {
		err = errors.Join(err, surroundings.AuditAdmin(config, infofile.CheckSocket))
	}
	if !h.allows(riskLoggedToken) {
		err = errors.Join(err, surroundings.AuditLogs(ctx, server, config))
	}
	if err == nil {
		err = surroundings.RefuseListenersInUse(server)
	}
	return h.gateError(err)
}

// refusePrintedSecrets refuses secrets from an environment that this process
// has printed already.
func (h *Handler) refusePrintedSecrets(printed bool) error {
	if !printed {
		return nil
	}
	values := []string{h.UpstreamBearer, h.Token}
	for _, client := range h.Client {
		values = append(values, client.Token)
	}
	for _, value := range values {
		if found := secretPlaceholder.FindStringSubmatch(value); found != nil && found[1] == "env" {
			return fmt.Errorf("caddy run --environ has printed the environment, and %s with it (under systemd, to the journal): replace that key or token by a new one, "+
				"take --environ out of the command line (the packaged caddy.service has it), or hand the secret over in a file, such as one of LoadCredential: upstream_bearer_file {env.CREDENTIALS_DIRECTORY}/key, token {file./path}", found[0])
		}
	}
	return nil
}
