package responsesproxygate

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
	"go.uber.org/zap"
)

// Client is one of several callers of a gate, with a token of its own. To take
// its access away, remove it from the config and reload, or revoke it through
// the admin endpoint.
type Client struct {
	// The client's name, in logs and metrics and as `{http.auth.user.id}`:
	// letters, digits, `.`, `_` and `-`, 64 at most. Unique in its gate, and
	// not the gate's own name.
	Name string `json:"name"`

	// The file that tells this client where the gate is and which token to
	// send. With an owner of its own, a gate that root runs can hand each
	// user a token that the others cannot read. Without it, a generated token
	// is printed once to stderr.
	ServerInfo *ServerInfo `json:"server_info,omitempty"`

	// A fixed token, as one placeholder, as the gate's own `token`.
	// Default: 256 random bits, new at every launch.
	Token string `json:"token,omitempty"`

	// When the client's access ends: its tokens, its WebSockets and its
	// server-info file. Either a moment as in RFC 3339, by the machine's
	// clock, which holds across restarts; or a duration of 24 hours at most,
	// for a generated token, from when the client first came into the config
	// of this process. Reloads and rotations do not prolong it; time for which
	// the machine sleeps does not count for a duration. Default: never.
	Expires Expiry `json:"expires,omitzero"`
}

// configuredCaller is a caller as one config has it.
type configuredCaller struct {
	*caller
	name      string
	userID    any // name, made once, for {http.auth.user.id}
	file      *infofile.File
	fixed     atomic.Pointer[fixedToken] // nil if the token is generated
	tokenFile *followedSecret            // where it is; nil if that is no file
	ends      time.Time                  // zero: never
	record    *sharedstore.Record        // of a shared client
}

// accepted are the tokens to compare with.
func (c *configuredCaller) accepted() []acceptedToken {
	if fixed := c.fixed.Load(); fixed != nil {
		return fixed.accepted
	}
	return c.ring.tokens()
}

// admits reports whether a token of the caller's is still good.
func (c *configuredCaller) admits(token acceptedToken) bool {
	if c.gone.Load() || c.disabled.Load() || c.isRevokedToken(token.digest) {
		return false
	}
	if c.ends.IsZero() && token.until.IsZero() {
		return true
	}
	now := time.Now()
	return token.usable(now) && (c.ends.IsZero() || now.Before(c.ends))
}

// told is the token that the caller is told now.
func (c *configuredCaller) told() secret.Secret {
	if fixed := c.fixed.Load(); fixed != nil {
		return fixed.secret
	}
	return c.token.Now()
}

// identify makes the caller's name known to the access log (user_id) and to
// handlers behind the gate, as Caddy's own authentication does.
func (c *configuredCaller) identify(r *http.Request) {
	if replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		replacer.Set("http.auth.user.id", c.userID)
	}
}

// hasOwnToken reports whether there is a token of the gate's own, beside those
// of clients. If the config has clients, there is one only if the operator asks
// for it: nobody would notice that a token which nobody uses has leaked.
func (h *Handler) hasOwnToken() bool {
	return len(h.Client) == 0 || h.ServerInfo != nil || h.Token != ""
}

// clients are the gate's callers: the one with the gate's own token, which has
// no name here, and those that are named.
func (h *Handler) clients() []Client {
	if !h.hasOwnToken() {
		return h.Client
	}
	return append([]Client{{ServerInfo: h.ServerInfo, Token: h.Token}}, h.Client...)
}

// openCallers finds the state and the token of each caller, and checks the
// places of their server-info files.
func (h *Handler) openCallers() error {
	plan, err := h.RotateEvery.resolve()
	if err != nil {
		return err
	}
	if gateIsIn(h.config, h.Name) {
		return errSameGate
	}
	h.rotation = plan
	rotatable, seen := plan == nil, &openedCallers{fixed: make(map[secret.Digest]string), sweep: new(infofile.Sweep), validating: process.IsValidating()}
	for _, client := range h.clients() {
		c, err := h.openCaller(client, seen)
		if err != nil {
			if client.Name != "" {
				err = fmt.Errorf("client %s: %w", client.Name, err)
			}
			return err
		}
		if plan != nil && c.fixed.Load() == nil {
			rotatable = true
			if c.file == nil {
				return fmt.Errorf("rotate_every: %s has no server_info to learn the next token from; write server_info <path>", c.name)
			}
		}
	}
	if !rotatable {
		return errors.New("rotate_every: fixed tokens cannot be rotated; take it out, or the token options")
	}
	return nil
}

// openedCallers is what opening one caller needs to know of the others.
type openedCallers struct {
	fixed      map[secret.Digest]string // whose fixed tokens there are already
	sweep      *infofile.Sweep
	validating bool // the config is only validated
}

// openCaller finds one caller's state.
func (h *Handler) openCaller(client Client, seen *openedCallers) (*configuredCaller, error) {
	file, err := openServerInfoFile(client.ServerInfo, seen.sweep)
	if err != nil {
		return nil, err
	}
	id := callerID{gate: h.Name, client: client.Name}
	state, err := openCaller(id, h.config)
	if err != nil {
		return nil, err
	}
	c := &configuredCaller{caller: state, name: id.name(), userID: id.name(), file: file, ends: client.Expires.ends(state.began)}
	h.callers = append(h.callers, c)
	state.guardAdmin(h.config, !h.allows(riskTCPAdmin))
	if file != nil {
		if err := state.claimFile(h.config, file); err != nil {
			return nil, err
		}
		if former := callerAt(state.fileIn(h.config), nil); former != nil {
			file.TakeOver(former.toldBy())
		}
		if err := file.Check(); infofile.IsOwnersFault(err) {
			// Or one client could keep all others from the gate. It is tried again
			// once the gate runs, and then counted.
			h.logger.Warn("a client's server-info file cannot be written as its owner has left it; the gate does without",
				zap.String("gate", h.Name), zap.String("client", c.name), zap.Error(err))
		} else if err != nil {
			return nil, err
		}
		if !seen.validating {
			if err := state.hold(h.config, file, h.logger); err != nil {
				return nil, err
			}
		}
	}
	if client.Token != "" {
		if err := h.fixToken(c, client.Token, seen); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// openServerInfoFile resolves the place of a server-info file.
func openServerInfoFile(option *ServerInfo, sweep *infofile.Sweep) (*infofile.File, error) {
	if option == nil {
		return nil, nil
	}
	path, err := resolvePath("server_info", option.Path)
	if err != nil {
		return nil, err
	}
	return sweep.New(path, option.Owner)
}

// fixToken reads a caller's fixed token.
func (h *Handler) fixToken(c *configuredCaller, option string, seen *openedCallers) error {
	token, err := resolveSecret("token", option, h.allows(riskLiteralSecret))
	if err != nil {
		return err
	}
	if found := secretPlaceholder.FindStringSubmatch(option); found != nil && found[3] == "file" {
		if c.tokenFile, token, err = openFollowedSecret("token", found[4], h.logger, c.metrics.rotations); err != nil {
			return err
		}
	}
	if err := checkToken(token); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	digest := secret.DigestOf(token.Reveal())
	if other, ok := seen.fixed[digest]; ok {
		return fmt.Errorf("token: %s has the same one, so the two could not be told apart; give each its own", other)
	}
	seen.fixed[digest] = c.name
	c.fix(token)
	return nil
}

// validateClients refuses names that could not be told apart.
func validateClients(gate string, clients []Client) error {
	var errs []error
	seen := map[string]bool{gate: true}
	for _, client := range clients {
		switch {
		case !adminapi.IsName(client.Name):
			errs = append(errs, fmt.Errorf("client %q: use letters, digits, '.', '_' and '-', 64 at most", client.Name))
		case client.Name == gate:
			errs = append(errs, fmt.Errorf("client %s: this is the gate's own name; choose another", client.Name))
		case seen[client.Name]:
			errs = append(errs, fmt.Errorf("client %s: named twice", client.Name))
		default:
			if err := client.Expires.validate(client.Token != ""); err != nil {
				errs = append(errs, fmt.Errorf("client %s: %w", client.Name, err))
			}
		}
		seen[client.Name] = true
	}
	return errors.Join(errs...)
}

// Expiry is when a client's access ends. In JSON it is a duration, in
// nanoseconds or as `"12h"`, or a moment as in RFC 3339, `"2027-03-31T18:00:00Z"`.
type Expiry struct {
	after time.Duration // after the caller's launch; 0 without one
	at    time.Time     // zero without one
}

// maxExpiry is the longest duration that is taken. A restart begins a duration
// anew, and in a longer time a restart is likely.
const maxExpiry = 24 * time.Hour

var errExpiry = errors.New("it is no duration, such as 90s or 12h, and no moment, such as 2027-03-31T18:00:00Z")

// parseExpiry reads a duration or a moment. Its error does not quote what is
// neither: it may be a secret in the wrong place.
func parseExpiry(text string) (Expiry, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return Expiry{at: at}, nil
	}
	after, err := caddy.ParseDuration(text)
	switch {
	case err != nil:
		return Expiry{}, errExpiry
	case after <= 0:
		return Expiry{}, errors.New("it is not above zero")
	}
	return Expiry{after: after}, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *Expiry) UnmarshalJSON(data []byte) (err error) {
	var text string
	if json.Unmarshal(data, &text) == nil && text != "" {
		if *e, err = parseExpiry(text); err != nil {
			return fmt.Errorf("expires: %w", err)
		}
		return nil
	}
	e.at = time.Time{}
	if json.Unmarshal(data, &e.after) != nil {
		return fmt.Errorf("expires: %w", errExpiry)
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (e Expiry) MarshalJSON() ([]byte, error) {
	if !e.at.IsZero() {
		return json.Marshal(e.at.Format(time.RFC3339))
	}
	return json.Marshal(e.after)
}

// validate refuses what would not hold across restarts.
func (e Expiry) validate(fixedToken bool) error {
	const remedy = "every restart begins it again; write the moment instead, such as: expires "
	switch {
	case e.after < 0:
		return errors.New("expires is negative")
	case e.after > 0 && fixedToken:
		return errors.New("expires counts from the launch, and the fixed token outlives that: " + remedy + e.example())
	case e.after > maxExpiry:
		return fmt.Errorf("expires is a duration above %v, which counts from the launch: %s%s", maxExpiry, remedy, e.example())
	}
	return nil
}

func (e Expiry) example() string { return time.Now().Add(e.after).UTC().Format(time.RFC3339) }

// ends is the moment for a caller that began at a time; zero is never. After a
// duration, it follows the monotonic clock; a moment that is written follows
// the wall clock.
func (e Expiry) ends(began time.Time) time.Time {
	if e.after > 0 {
		return began.Add(e.after)
	}
	return e.at
}

// Interface guards
var (
	_ json.Marshaler   = Expiry{}
	_ json.Unmarshaler = (*Expiry)(nil)
)
