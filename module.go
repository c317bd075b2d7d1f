// Package responsesproxygate is the Caddy HTTP handler
// http.handlers.responses_proxy_gate. It stands in front of reverse_proxy and
// lets programs on the same machine call the OpenAI Responses API with the
// operator's key, which they never see, while web pages, other users and other
// hosts are refused.
//
// The gate answers the questions "who may pass" and "with which credential".
// Connections, streams and retries are reverse_proxy's.
package responsesproxygate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/command"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/dump"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/keptconn"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/surroundings"
	"go.uber.org/zap"
	"golang.org/x/term"
)

func init() {
	caddy.RegisterModule(new(Handler))
	command.Register(command.Gate{
		UseKey:         func(key secret.Secret) { commandKey.Store(&key) },
		KeyPlaceholder: commandKeyPlaceholder,
		ReadKeyFile: func(option, path string) (secret.Secret, error) {
			_, key, err := openKeyFile(option, path, nil, attempts{})
			return key, err
		},
		ReadRoutes: func(words []string) (json.RawMessage, error) {
			routes, err := readRoutes(words)
			return caddyconfig.JSON(routes, nil), err
		},
		UseToken:         func(token secret.Secret) { commandToken.Store(&token) },
		TokenPlaceholder: commandTokenPlaceholder,
		Published:        publishedInfo,
		Sampling:         caddy.LogSampling{Interval: floodWindow, First: floodLimit, Thereafter: math.MaxInt32},
	})
}

// Handler lets a request pass to the next handler, usually `reverse_proxy`,
// only if no web page can have sent it, its body is JSON, it carries the
// token of this launch and it asks for an allowed route. It then replaces the
// caller's credentials by the operator's.
//
// What a request meets, in this order: `Origin`, `Sec-Fetch-Site` and `Host`
// (403), `Content-Type` (415), the token in `X-Proxy-Token` or
// `Authorization: Bearer` (401), method and path (403, or 426 for a WebSocket
// where only HTTP is allowed). Every refusal is JSON in the OpenAI error shape
// and has its code in the header `X-Responses-Proxy-Gate`.
//
// The gate refuses to start in surroundings that would undo it: beside an
// admin endpoint that other users can reach, on a plaintext listener that
// other hosts can reach, with an access log that would record tokens, or with
// a secret written into the config. See `insecure_allow`.
type Handler struct {
	// The gate's name, in logs and wherever gates are told apart: letters,
	// digits, `.`, `_` and `-`, 64 at most. Its token lasts as long as a gate
	// of this name is configured. Names are unique in a config.
	// Default: `default`.
	Name string `json:"name,omitempty"`

	// The operator's key, as one placeholder: `{env.OPENAI_API_KEY}` or
	// `{file./run/secrets/key}`. A literal key is refused. It is read when
	// the config is loaded. This, `upstream_bearer_file` or `upstream_identity`
	// is required.
	UpstreamBearer string `json:"upstream_bearer,omitempty"`

	// The path of a file with the operator's key and nothing else. It is read
	// again after it has changed, within two seconds, without a reload;
	// if it is then empty, unreadable or malformed, the old key stays in use
	// and an error is logged. Users outside the file's owner and group must
	// not be able to read it.
	UpstreamBearerFile string `json:"upstream_bearer_file,omitempty"`

	// In place of a key: the workload's own identity, which is exchanged for
	// tokens that live for an hour or so. The gate serves once it has the
	// first one.
	UpstreamIdentity *UpstreamIdentity `json:"upstream_identity,omitempty"`

	// The request header that carries the key upstream. `Authorization`
	// carries `Bearer <key>`; any other, such as `api-key` for Azure, the
	// bare key. Default: `Authorization`.
	UpstreamHeader string `json:"upstream_header,omitempty"`

	// A fixed token, as one placeholder (`{env.GATE_TOKEN}`), of at least 32
	// visible ASCII characters: for fleets in which several gates must accept
	// the same one. One in a file (`{file./run/secrets/token}`) is read again
	// within two seconds of a change, without a reload; the former one is
	// accepted for the grace of `rotate_every`, or 5 minutes. Default: 256
	// random bits, new at every launch, kept across config reloads.
	Token string `json:"token,omitempty"`

	// The file that tells callers where the gate is and which token to send.
	// Without it, a generated token is printed once to stderr. If there are
	// clients, the gate has a token beside theirs only if this or `token` is
	// given.
	ServerInfo *ServerInfo `json:"server_info,omitempty"`

	// Named callers, each with a token, a file and an end of its own.
	// Default: none; there is one caller, who is called what the gate is.
	Client []Client `json:"client,omitempty"`

	// Clients that several gates share through Caddy's `storage`, beside those
	// of the config. Default: none.
	SharedClients *SharedClients `json:"shared_clients,omitempty"`

	// How often generated tokens are replaced, those of clients included.
	// Fixed ones are not. Every caller with a generated token then needs a
	// `server_info`. Default: a token lasts as long as the launch.
	RotateEvery *Rotation `json:"rotate_every,omitempty"`

	// Web origins whose pages may call the gate (they still need the token),
	// as browsers write them: `https://app.example`, without a path. Never a
	// wildcard. Default: none.
	AllowOrigin []string `json:"allow_origin,omitempty"`

	// Host names or addresses, without port, by which callers may address the
	// gate beside `localhost`, 127.0.0.0/8 and `[::1]`. A name that the
	// attacker's DNS controls would open the gate's other checks to web pages
	// (DNS rebinding). Default: none.
	AllowHost []string `json:"allow_host,omitempty"`

	// What may be called, in place of the default `POST /v1/responses`, which has
	// to be named again if it is to stay. `GET /v1/responses` opens the WebSocket.
	AllowRoute []Route `json:"allow_route,omitempty"`

	// Headers of the callers' that choose whose account your key works for, and
	// go upstream only if they are named here: `OpenAI-Organization`,
	// `OpenAI-Project`, `ChatGPT-Account-Id`. Default: none; the key's own
	// organization and project pay.
	AllowHeader []string `json:"allow_header,omitempty"`

	// The path on which a caller with the gate's own token ends the Caddy
	// process, by GET or POST, with status 200 and exit code 0. Clients cannot.
	// Default: none.
	ShutdownEndpoint string `json:"shutdown_endpoint,omitempty"`

	// The path on which the gate tells load balancers, by GET or HEAD and
	// without a token, whether it is of use: 200, or 503 while the upstream's
	// refusal of the key is waited out, while shared clients were never read,
	// and in Caddy's `shutdown_delay`. It tells nothing else. Web pages, and
	// hosts that `allow_host` does not name, are refused as everywhere.
	// Default: none.
	HealthEndpoint string `json:"health_endpoint,omitempty"`

	// A directory for a copy of every exchange that passed the gate, in two
	// files of JSON: for debugging. Credentials are left out; prompts and
	// answers are not. It is made with mode 0700, its files with 0600.
	// Default: none.
	DumpDir string `json:"dump_dir,omitempty"`

	// Whether requests that were let through are written to the audit trail,
	// each when it has ended. Refusals always are: by the logger
	// `http.handlers.responses_proxy_gate.audit`, at level WARN if a web page
	// is behind them and INFO if not. Never with a query, a header or a body.
	// Default: no.
	LogAccepted bool `json:"log_accepted,omitempty"`

	// Whether Caddy's whole process forgoes core dumps and denies other
	// processes of its user to read its memory (Linux: not dumpable, core
	// limit 0; macOS: no ptrace, core limit 0; elsewhere less). It cannot be
	// undone by a reload. Default: no; the command `caddy responses-proxy`
	// always does it.
	HardenProcess bool `json:"harden_process,omitempty"`

	// Risks that the operator takes knowingly; each turns one refusal to
	// start off. `remote_listener`: other hosts may reach the gate in
	// plaintext. `tcp_admin`: any local user may reach the admin endpoint,
	// and with it the key. `logged_token`: a log records tokens or the key.
	// `literal_secret`: a secret stands in the config. `plaintext_upstream`: the
	// key may go to another host without TLS, or without a verified
	// certificate, or to a unix socket whose place others could take. Default: none.
	InsecureAllow []string `json:"insecure_allow,omitempty"`

	logger         *zap.Logger
	server         *caddyhttp.Server
	trustsUnixAddr bool
	addresses      surroundings.Claims
	config         configID
	policy         *policy
	credential     *credential
	metrics        *gateMetrics
	callers        []*configuredCaller
	roster         *roster      // nil: no shared clients
	rotation       *rotation    // nil: only on demand
	dumper         *dump.Dumper // nil: no dumps
	trail          *auditTrail
	stderr         io.Writer
}

// defaultName is the name of a gate that is given none.
const defaultName = "default"

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.responses_proxy_gate",
		New: func() caddy.Module { return new(Handler) },
	}
}

// Provision resolves the options and refuses what would make the gate weaker
// than it looks. It writes nothing to disk but a lock: the server-info file
// comes with Caddy's "started" event.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger, h.stderr = ctx.Logger(), os.Stderr
	return h.onTerminal(h.gateError(h.provision(ctx)))
}

func (h *Handler) provision(ctx caddy.Context) error {
	if err := h.setDefaults(); err != nil {
		return err
	}
	if err := h.checkSurroundings(ctx); err != nil {
		return err
	}
	if err := h.equipProxies(ctx); err != nil {
		return err
	}
	keptconn.Watch(h.server)
	if h.HardenProcess {
		// before the key is read
		if err := process.Harden(); err != nil {
			return err
		}
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return err
	}
	h.metrics = openGateMetrics(h.Name)
	if err := h.openCredential(); err != nil {
		return err
	}
	if err := h.openCallers(); err != nil {
		return err
	}
	if err := h.openRoster(ctx); err != nil {
		return err
	}
	if err := h.openDumps(); err != nil {
		return err
	}
	h.policy = &policy{
		origins:      h.AllowOrigin,
		hosts:        bareHosts(h.AllowHost),
		routes:       h.AllowRoute,
		shutdownPath: h.ShutdownEndpoint,
		forms:        takesForms(h.AllowRoute),
		tokens:       newTokenSet(h.callers, h.roster),
		unixIsReal:   h.trustsUnixAddr,
	}
	h.openAuditTrail()
	h.followSecrets(ctx)
	if err := h.awaitIdentity(ctx); err != nil {
		return err
	}
	return h.publishWhenStarted(ctx)
}

// Validate checks the options against themselves.
func (h *Handler) Validate() error {
	return h.onTerminal(h.gateError(errors.Join(
		validateOrigins(h.AllowOrigin),
		validateHosts(h.AllowHost),
		validateHeaders(h.AllowHeader),
		validateRoutes(h.AllowRoute, h.ShutdownEndpoint),
		h.validateShutdown(),
		h.validateHealth(),
	)))
}

// ServeHTTP lets r pass, or answers it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if refused := h.policy.checkBrowser(r); refused != nil {
		return h.refuse(w, r, nil, refused)
	}
	if isPreflight(r) {
		h.count(nil, outcomePreflight)
		skipAccessLog(r) // whoever knows an allowed origin can send any number
		leave(w, r, false)
		h.policy.answerPreflight(w, r)
		return nil
	}
	if h.isHealth(r) {
		return h.answerHealth(w, r)
	}
	caller, token, refused := h.policy.checkCaller(r)
	if refused != nil {
		return h.refuse(w, r, caller, refused)
	}
	shutdown := h.policy.isShutdown(r)
	if !shutdown {
		if !caller.inFlight.begin() {
			return h.refuse(w, r, caller, errTooManyInFlight)
		}
		defer caller.inFlight.end()
	}
	keptconn.Admitted(r)
	caller.usage.count()
	caller.identify(r)
	if shutdown {
		return h.shutDown(w, r, caller)
	}
	if isWebSocketUpgrade(r) {
		ctx, done := caller.openWebSocket(r.Context())
		defer done()
		r = r.WithContext(ctx)
		if caller, _, refused := h.policy.checkCaller(r); refused != nil {
			// revoked just before the session could be ended with the others
			return h.refuse(w, r, caller, refused)
		}
	}
	return h.pass(w, r, next, caller, token)
}

// pass lets r go on, without the caller's credentials. The operator's is held
// ready for the Transport.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler, caller *configuredCaller, token tokenMark) error {
	if refused := h.credential.await(r.Context()); refused != nil {
		takeBody(r)
		return h.refuse(w, r, caller, refused)
	}
	route := h.policy.routeOf(r)
	try, ok := h.credential.triesOn(route).Begin(caller.caller)
	if !ok {
		takeBody(r)
		return h.refuse(w, r, caller, errUpstreamUnauthorized)
	}
	presented := h.credential.current()
	exchange := h.beginDump(r, caller, presented.key)
	defer exchange.Finish()
	h.credential.dropCallerCredentials(r)
	answer, r := h.newAnswer(exchange.Record(w), r, caller, presented)
	answer.access.token = token
	if answer.alone {
		defer answer.cutOff()
	}
	answer.sent = sentOn{credential: h.credential, held: answer.sent.held, route: route, try: try, chosen: h.credential.choosesAccount(r.Header)}
	return h.forward(answer, r, next, presented.key)
}

// Cleanup implements caddy.CleanerUpper. It also runs after a failed
// Provision, so it gives back only what this instance took.
func (h *Handler) Cleanup() error {
	h.dumper.Close()
	h.trail.close()
	errs := []error{closeCallers(h.config, h.Name, h.callers), h.closeIdentity(), h.addresses.GiveBack()}
	if h.roster != nil {
		errs = append(errs, leaveRoster(h.config, h.roster))
	}
	if h.metrics != nil {
		if h.policy != nil { // if this config has failed after it was started, what holds is what the one before says
			if h.metrics.running.CompareAndSwap(h.policy.tokens, nil) {
				h.metrics.identity.Store(nil)
			}
		}
		_, err := gates.Delete(h.Name)
		errs = append(errs, err)
	}
	h.callers, h.roster = nil, nil // (the policy keeps its own: requests may still be under way)
	return errors.Join(errs...)
}

var (
	errTwoKeys = errors.New("more than one of upstream_bearer, upstream_bearer_file and upstream_identity is set; keep one")
	errNoKey   = errors.New("the operator's key is missing; write upstream_bearer {env.OPENAI_API_KEY}, upstream_bearer_file <path> or, without a key, upstream_identity")
)

// onTerminal tells a person at a terminal why the gate does not start, before
// Caddy does: in Caddy's line, the reason comes only after the path through the
// config. (The command says it by itself, in the words of its flags.)
func (h *Handler) onTerminal(err error) error {
	if err != nil && h.UpstreamBearer != commandKeyPlaceholder && term.IsTerminal(int(os.Stderr.Fd())) {
		_, _ = fmt.Fprintf(h.stderr, "responses_proxy_gate: %v\n", err)
	}
	return err
}

// gateError says which gate an error is about.
func (h *Handler) gateError(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("gate %s: %w", h.Name, err)
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
	_ caddyevents.Handler         = startedHook{}
)
