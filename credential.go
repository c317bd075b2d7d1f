package responsesproxygate

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/backoff"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/callerheader"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/follow"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

// commandKey is the key that "caddy responses-proxy" was given, commandToken
// the token that its verb "run" has made. They are handed to the gate here,
// beside the config, and have to outlive a reload.
var commandKey, commandToken atomic.Pointer[secret.Secret]

// These stand for commandKey and commandToken in the command's config.
const (
	commandKeyPlaceholder   = "{responses_proxy.key}"
	commandTokenPlaceholder = "{responses_proxy.token}"
)

// handedOver is what the command hands over under a placeholder, or nil if that
// is none of these.
func handedOver(placeholder string) *atomic.Pointer[secret.Secret] {
	switch placeholder {
	case commandKeyPlaceholder:
		return &commandKey
	case commandTokenPlaceholder:
		return &commandToken
	}
	return nil
}

// A secret in the config is written as exactly one of these placeholders, so
// that the config itself (adapted, logged, autosaved, or read at /config/)
// does not have it.
var secretPlaceholder = regexp.MustCompile(`^\{(env)\.([A-Za-z_][A-Za-z0-9_]*)\}$|^\{(file)\.([^{}]*[/\\][^{}]*)\}$`)

// refuseLiteral refuses an option whose secret stands in the config.
func refuseLiteral(option, value string) error {
	if value == "" || handedOver(value) != nil || secretPlaceholder.MatchString(value) {
		return nil
	}
	return fmt.Errorf("%s: the secret itself is in the config (note that {$VAR} is replaced by its value before the config is read); "+
		"write {env.NAME} or {file./path/to/secret} instead, alone, or: insecure_allow literal_secret", option)
}

// resolveSecret reads the secret that an option names by a placeholder.
func resolveSecret(option, value string, literalAllowed bool) (secret.Secret, error) {
	if err := refuseLiteral(option, value); err != nil && !literalAllowed {
		return secret.Secret{}, err
	}
	if held := handedOver(value); held != nil {
		if handed := held.Load(); handed != nil {
			return *handed, nil
		}
		return secret.Secret{}, fmt.Errorf("%s: %s is what the command caddy responses-proxy uses; write {env.NAME} or {file./path/to/secret}", option, value)
	}
	source := "the value"
	found := secretPlaceholder.FindStringSubmatch(value)
	if found != nil {
		source = found[0]
	}
	if found != nil && found[3] == "file" {
		// (Caddy's own replacement would not look at the file's permissions)
		key, _, err := readSecretFile(found[4])
		if err != nil {
			return secret.Secret{}, fmt.Errorf("%s: %s: %w", option, source, err)
		}
		return key, nil
	}
	raw, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err != nil {
		// (the error's own text may have what surrounds the placeholder)
		if found != nil {
			return secret.Secret{}, fmt.Errorf("%s: %s is not set, empty or unknown; is %s exported, and to the user who runs Caddy? (sudo leaves it out)", option, source, found[2])
		}
		return secret.Secret{}, fmt.Errorf("%s: %s is not set, empty or unknown", option, source)
	}
	parsed, err := secret.Parse(raw)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("%s: %s: %w", option, source, err)
	}
	return parsed, nil
}

// readSecretFile reads and validates the key or token in a file. It also tells
// which version of the file that was.
func readSecretFile(path string) (secret.Secret, fs.FileInfo, error) {
	file, info, err := infofile.OpenSecret(path)
	if err != nil {
		return secret.Secret{}, nil, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, secret.MaxLength+3)) // one more than the longest and its newline
	if err != nil {
		return secret.Secret{}, nil, err
	}
	parsed, err := secret.Parse(string(raw))
	return parsed, info, err
}

// credential is what the gate presents upstream in the caller's place.
type credential struct {
	headerName string   // canonical
	allowed    []string // canonical names of the callers' headers that go upstream by the operator's leave
	value      atomic.Pointer[presentedKey]
	tries      []backoff.Shared  // what the upstream says of the value, for each route: a key may lack the scope of one
	accepted   atomic.Int64      // the route on which the upstream took the value last, and 1; 0: none has yet
	file       *followedSecret   // nil if the key does not come from a file of its own
	identity   *followedIdentity // nil if there is a key
}

// presentedKey is a key, and the header value that presents it.
type presentedKey struct {
	key, header secret.Secret
}

// newCredential makes a credential for a number of routes.
func newCredential(headerName string, routes int) *credential {
	return &credential{headerName: http.CanonicalHeaderKey(headerName), tries: make([]backoff.Shared, max(1, routes))}
}

// triesOn says whether the upstream takes the credential on one route, and when
// it may be tried again.
func (c *credential) triesOn(route int) *backoff.Shared { return &c.tries[min(route, len(c.tries)-1)] }

// use makes key the one presented from now on. What the upstream said of a
// former one no longer counts.
func (c *credential) use(key secret.Secret) {
	former := c.value.Load()
	if former != nil && former.key.Reveal() == key.Reveal() {
		return
	}
	header := key
	if c.headerName == "Authorization" {
		header = secret.New("Bearer " + key.Reveal())
	}
	c.value.Store(&presentedKey{key: key, header: header})
	c.accepted.Store(0)
	if former != nil {
		for i := range c.tries {
			c.tries[i].Reset()
		}
	}
}

// sentOn is what becomes of the credential in one request.
type sentOn struct {
	credential *credential
	held       *heldKey
	route      int // of the gate's
	try        backoff.SharedTry
	chosen     bool // the caller has chosen the account that the upstream looks at
}

// choosesAccount reports whether a request, once it is clean, still names the
// account that the key is used for. If the key has no access to that account, the
// upstream answers 401, although nothing is wrong with the key.
func (c *credential) choosesAccount(header http.Header) bool {
	return slices.ContainsFunc(c.allowed, func(name string) bool { return header[name] != nil })
}

// answered notes the status of the upstream's answer. For a refusal of the
// credential, it returns what the caller is answered instead; and it reports
// whether the gate holds back the credential from now on, and for how long.
func (s *sentOn) answered(status int) (refused *refusal, wait time.Duration, began bool) {
	switch {
	case !s.held.taken.Load(): // this says nothing about the key
		if status == http.StatusUnauthorized {
			refused = errNoUpstream
		}
		return refused, 0, false
	case status != http.StatusUnauthorized:
		if status < http.StatusInternalServerError && status != statusClientGone { // else the upstream may not have looked at it
			s.credential.triesOn(s.route).Accepted(s.try)
			s.credential.accepted.Store(int64(s.route) + 1)
			if exchanger := s.credential.exchanger(); exchanger != nil {
				exchanger.Accepted()
			}
		}
		return nil, 0, false
	case s.chosen:
		return errAccountRefused, 0, false
	}
	wait, began = s.credential.triesOn(s.route).Refused(s.try)
	// A token that another route or another caller has accepted needs no new exchange.
	last := s.credential.accepted.Load()
	if exchanger := s.credential.exchanger(); began && !s.try.Alone() && exchanger != nil && (last == 0 || last == int64(s.route)+1) {
		exchanger.Renew()
	}
	return errUpstreamUnauthorized, wait, began
}

// current is what to present now.
func (c *credential) current() *presentedKey { return c.value.Load() }

// dropCallerCredentials removes from r what authenticates the caller, what is not
// the caller's to choose (callerheader has the rule), and what could undo what
// the Transport adds. Otherwise the caller's token would go upstream, and an
// upstream that prefers one header to another might bill someone else.
func (c *credential) dropCallerCredentials(r *http.Request) {
	header := r.Header
	upgrade := isWebSocketUpgrade(r)
	dropConnectionFields(header)
	dropKeySubprotocols(header)
	own := callerheader.Plain(c.headerName)
	for name := range header {
		if c.isDropped(name) || callerheader.Plain(name) == own {
			delete(header, name)
		}
	}
	if upgrade && r.ProtoMajor == 1 {
		header["Upgrade"], header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	}
	r.Trailer = nil
}

// isDropped reports whether a header field goes no further. It looks at each
// field once (deleting a dozen names from a map takes several times as long).
func (c *credential) isDropped(name string) bool {
	switch name {
	case "Upgrade", "Http2-Settings":
		// A protocol switch to anything but WebSocket (h2c, say) would hand
		// the caller a raw tunnel to the upstream, beside every check of the
		// gate.
		return true
	case "Trailer":
		// Trailers arrive after every check, and reverse_proxy forwards them.
		return true
	}
	switch callerheader.Judge(name) {
	case callerheader.Drops:
		return true
	case callerheader.Chooses:
		return !slices.Contains(c.allowed, name)
	}
	return false
}

// dropConnectionFields removes Connection and the fields that it names, which
// are about this one connection (RFC 9110 §7.6.1). Left to reverse_proxy, it
// would take out what was added since, too: the credential, and any header
// that the operator sets behind the gate.
func dropConnectionFields(header http.Header) {
	values, ok := header["Connection"]
	if !ok {
		return
	}
	for _, value := range values {
		for name := range strings.SplitSeq(value, ",") {
			delete(header, http.CanonicalHeaderKey(strings.Trim(name, " \t")))
		}
	}
	delete(header, "Connection")
}

// dropKeySubprotocols removes keys from the WebSocket subprotocols.
func dropKeySubprotocols(header http.Header) {
	values, ok := header["Sec-Websocket-Protocol"]
	if !ok || !secret.IsKeySubprotocol(strings.Join(values, ",")) {
		return
	}
	kept := keepListed(values, func(name string) bool { return !secret.IsKeySubprotocol(name) })
	if kept == "" {
		delete(header, "Sec-Websocket-Protocol")
		return
	}
	header["Sec-Websocket-Protocol"] = []string{kept}
}

// keepListed filters a comma-separated header.
func keepListed(values []string, keep func(string) bool) string {
	var kept []string
	for _, name := range strings.Split(strings.Join(values, ","), ",") {
		if name = strings.Trim(name, " \t"); name != "" && keep(name) {
			kept = append(kept, name)
		}
	}
	return strings.Join(kept, ", ")
}

// followedSecret is a key or a token in a file, which is followed without a
// reload and without a request.
type followedSecret struct {
	option string // that names it, for messages
	path   string
	logger *zap.Logger
	reads  attempts
	seen   fs.FileInfo
}

// openFollowedSecret reads the secret for the first time; then every fault is an error.
func openFollowedSecret(option, path string, logger *zap.Logger, reads attempts) (*followedSecret, secret.Secret, error) {
	key, info, err := readSecretFile(path)
	if err != nil {
		return nil, secret.Secret{}, fmt.Errorf("%s %s: %w", option, path, err)
	}
	return &followedSecret{option: option, path: path, logger: logger, reads: reads, seen: info}, key, nil
}

// follow calls use with what the file has from now on, each time that it has
// changed, until ctx is done. A file that cannot be read or has nothing of use
// leaves the old secret in use, and is logged once.
//
// It has a goroutine of its own, which nobody waits for: a file system that
// hangs holds neither requests nor reloads.
func (s *followedSecret) follow(ctx context.Context, use func(secret.Secret) error) {
	file := &follow.File{Path: s.path, Seen: s.seen}
	file.Lost = func(err error) {
		s.reads.count(err)
		s.logger.Error("cannot read "+s.option+"; the old one stays in use", zap.Error(err))
	}
	file.Changed = func() (fs.FileInfo, error) {
		next, info, err := readSecretFile(s.path)
		if ctx.Err() != nil {
			return info, nil // another config has read the file itself
		}
		if err == nil {
			err = use(next)
		}
		s.reads.count(err)
		if err != nil {
			s.logger.Error(s.option+" has changed and has nothing that can be used; the old one stays in use", zap.Error(err))
			return nil, err
		}
		s.logger.Info(s.option + " has changed; the new one is in use")
		return info, nil
	}
	go file.Follow(ctx)
}

// openKeyFile reads the key in the file that an option names.
func openKeyFile(option, path string, logger *zap.Logger, reads attempts) (*followedSecret, secret.Secret, error) {
	resolved, err := resolvePath(option, path)
	if err != nil {
		return nil, secret.Secret{}, err
	}
	return openFollowedSecret(option, resolved, logger, reads)
}

// checkOneKey refuses anything but exactly one source of what is presented upstream.
func (h *Handler) checkOneKey() error {
	n := 0
	for _, given := range []bool{h.UpstreamBearer != "", h.UpstreamBearerFile != "", h.UpstreamIdentity != nil} {
		if given {
			n++
		}
	}
	switch n {
	case 0:
		return errNoKey
	case 1:
		return nil
	}
	return errTwoKeys
}

// openCredential reads the operator's key.
func (h *Handler) openCredential() error {
	h.credential = newCredential(h.UpstreamHeader, len(h.AllowRoute))
	h.credential.allowed = canonicalHeaders(h.AllowHeader)
	if err := h.checkOneKey(); err != nil {
		return err
	}
	switch {
	case h.UpstreamIdentity != nil:
		return h.openIdentity()
	case h.UpstreamBearer != "":
		key, err := resolveSecret("upstream_bearer", h.UpstreamBearer, h.allows(riskLiteralSecret))
		if err != nil {
			return err
		}
		h.credential.use(key)
	default:
		file, key, err := openKeyFile("upstream_bearer_file", h.UpstreamBearerFile, h.logger, h.metrics.reloads)
		if err != nil {
			return err
		}
		h.credential.file = file
		h.credential.use(key)
	}
	return nil
}

// followSecrets takes up what is written to files of secrets, as long as the
// config lasts.
func (h *Handler) followSecrets(ctx context.Context) {
	if h.credential.file != nil {
		h.credential.file.follow(ctx, func(key secret.Secret) error {
			h.credential.use(key)
			return nil
		})
	}
	for _, c := range h.callers {
		if c.tokenFile != nil {
			c.tokenFile.follow(ctx, func(token secret.Secret) error { return h.takeUp(c, token) })
		}
	}
}
