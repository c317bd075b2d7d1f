package responsesproxygate

import (
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

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

// allows reports whether the operator takes a risk knowingly.
func (h *Handler) allows(risk string) bool { return slices.Contains(h.InsecureAllow, risk) }

// checkSurroundings refuses surroundings that would undo the gate, unless the operator
// takes that risk.
func (h *Handler) checkSurroundings(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errors.New("the gate works only as a handler of an HTTP server's routes")
	}
	config, err := surroundings.ConfigOf(ctx)
	if err != nil {
		return err
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
	err = errors.Join(err, h.checkOrder(surroundings.OrderOf(config, server)))
	h.trustsUnixAddr = surroundings.AddressesAreReal(config, server)
	if err == nil {
		err = surroundings.RefuseListenersInUse(server)
	}
	return err
}

// checkOrder refuses a gate that no request meets, and warns of requests that
// meet a proxy but no gate: there are good uses of that.
func (h *Handler) checkOrder(order surroundings.Order) error {
	if order.Unreachable {
		return errors.New("a reverse_proxy stands before the gate in the same route and takes every request: nobody would be asked for a token; put responses_proxy_gate before it")
	}
	if order.Templates {
		return errors.New("a templates handler around or behind the gate would run what the upstream answers, or a caller has it answer, as a program: " +
			"that can read Caddy's environment and files, and with them the operator's key. Take templates out, or put it and the gate into handle blocks of their own")
	}
	if order.Beside {
		h.logger.Warn("some requests reach a reverse_proxy without passing the gate: it stands before the gate, or the gate's matcher leaves them out. "+
			"They are asked for no token, and get no key. If that is meant, put that proxy into a handle block of its own", zap.String("gate", h.Name))
	}
	return nil
}

// refusePrintedSecrets refuses secrets from an environment that this process
// has printed already.
func (h *Handler) refusePrintedSecrets(printed bool) error {
	if !printed {
		return nil
	}
	values := []string{h.UpstreamBearer, h.Token, h.UpstreamIdentity.requestToken()}
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
