package responsesproxygate

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

// callers holds what a caller keeps from its launch to the process's exit,
// across config reloads, by its callerID: a *caller.
var callers = caddy.NewUsagePool()

// callerID tells callers apart: a gate's own token, which has no client's
// name, and its clients.
type callerID struct {
	gate, client string
}

// name is what the caller is called in logs, metrics and {http.auth.user.id}.
func (id callerID) name() string {
	if id.client == "" {
		return id.gate
	}
	return id.client
}

// String is for messages.
func (id callerID) String() string {
	if id.client == "" {
		return id.gate
	}
	return id.gate + ", client " + id.client
}

// caller is the state of one caller that a reload keeps.
type caller struct {
	id           callerID
	began        time.Time                       // its launch
	ring         tokenRing                       // generated tokens
	revokedFixed atomic.Pointer[[]secret.Digest] // fixed tokens that were revoked
	gone         atomic.Bool                     // no config has this caller any more
	disabled     atomic.Bool                     // its tokens are not accepted for now
	sessions     sessions
	usage        usage
	inFlight     inFlight
	metrics      *callerMetrics
	claimed      []string // paths, for claims

	mu       sync.Mutex
	token    secret.Shared             // the generated token that callers are told; looked at without the lock, too
	rotated  time.Time                 // since when it is that one
	revoked  bool                      // there is no token to tell until a rotation makes one
	configs  map[configID]*publication // the configs that use this caller: the running one, and during a reload the next
	current  publication               // what the caller is told
	written  infofile.Info             // what its file says
	failure  error                     // why it is not told anything newer
	endTold  bool                      // its access has ended, and it was told so
	printed  secret.Secret             // the token that was printed to stderr
	watch    *time.Timer               // looks whether the file is still what we wrote
	replaced bool                      // it is not, and that was said
	stopping bool                      // no config goes on with this caller: it is told nothing more
	alarm    *time.Timer               // rings for the next rotation, or the end
}

// publication is what a config says of a caller, and has it told.
type publication struct {
	config     configID        // that says so
	path       string          // of the server-info file that the config claims; "" is none
	held       bool            // the process holds that path for the config, too
	file       *infofile.File  // nil without one
	info       infofile.Info   // without the token
	fixed      secret.Secret   // the token, if the config has one
	former     []acceptedToken // fixed ones of before, in their grace
	rotation   *rotation       // nil: only on demand
	ends       time.Time       // of the access; zero is never
	logger     *zap.Logger
	stderr     io.Writer
	published  bool // the caller was told
	started    bool // the config was started
	adminGuard bool // no admin endpoint may be open to others beside the gate
}

// openCaller finds a caller's state, or begins it. Each success needs one
// closeCaller.
func openCaller(id callerID, config configID) (*caller, error) {
	value, _, err := callers.LoadOrNew(id, func() (caddy.Destructor, error) {
		now := time.Now()
		c := &caller{
			id: id, began: now, rotated: now, configs: make(map[configID]*publication),
			metrics: newCallerMetrics(id),
		}
		c.token.Become(secret.NewToken())
		c.ring.add(c.token.Now())
		return c, nil
	})
	if err != nil {
		return nil, err
	}
	c := value.(*caller)
	if err := c.claim(config); err != nil {
		_, _ = callers.Delete(id)
		return nil, err
	}
	return c, nil
}

// closeCallers gives the state of a gate's callers back. The last config that
// has one ends it. If the gate goes on without it, the operator has taken the
// caller's access away: then its WebSockets end too.
func closeCallers(config configID, gate string, list []*configuredCaller) error {
	goesOn := sync.OnceValue(func() bool { return gateRunsWithout(config, gate) })
	var errs []error
	for _, c := range list {
		errs = append(errs, c.abandon(config))
		gone, err := callers.Delete(c.id)
		errs = append(errs, err)
		if gone && goesOn() {
			c.sessions.end()
		}
	}
	return errors.Join(errs...)
}

// gateRunsWithout reports whether a gate runs in another config than this.
func gateRunsWithout(config configID, gate string) (runs bool) {
	callers.Range(func(id, value any) bool {
		if id.(callerID).gate == gate {
			c := value.(*caller)
			c.mu.Lock()
			defer c.mu.Unlock()
			for other, p := range c.configs {
				runs = runs || other != config && p.started
			}
		}
		return !runs
	})
	return runs
}

// abandon forgets a config. If the caller was told what that config said, and
// another one remains, the new config has failed after it was started: what
// the old one said holds again.
func (c *caller) abandon(config configID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	left := c.configs[config]
	delete(c.configs, config)
	defer left.giveBack()
	if left == nil || !left.published || c.current.config != config {
		return nil
	}
	for _, remaining := range c.configs {
		switch {
		case remaining.published:
			err := c.publishNow(*remaining)
			c.schedule()
			return err
		case remaining.started && !remaining.saysTheSame(&c.current) && c.current.file != nil:
			// The new config runs and could not tell callers so (a full
			// disk). What they are told now may lead them, and their token,
			// to a port that anybody can take.
			stale := c.current
			c.current = publication{}
			return stale.file.Remove(c.written)
		}
	}
	return nil
}

var errSameGate = errors.New("another gate in this config has the same name (a site with several ports makes one for each); give each its own: name <name>")

// gateIsIn reports whether a config has a gate of this name already.
func gateIsIn(config configID, gate string) (is bool) {
	callers.Range(func(id, value any) bool {
		if id.(callerID).gate == gate {
			c := value.(*caller)
			c.mu.Lock()
			defer c.mu.Unlock()
			is = c.configs[config] != nil
		}
		return !is
	})
	return is
}

// claim refuses a second caller of the same name in one config: the two would
// share a token and overwrite each other's server-info.
func (c *caller) claim(config configID) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.configs[config] != nil {
		return errSameGate
	}
	c.configs[config] = new(publication)
	return nil
}

// claimFile refuses a server-info file that another caller of the same config
// has: each would overwrite the other's.
func (c *caller) claimFile(config configID, file *infofile.File) error {
	path := file.Resolved()
	for _, other := range claims.of(path) {
		if other != c && other.fileIn(config) == path {
			return fmt.Errorf("server_info %s: the gate %s has the same file; give each its own", file.Path(), other.id)
		}
	}
	claims.add(path, c)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.configs[config].path = path
	return nil
}

// fileIn is the path of the caller's server-info in a config, or "".
func (c *caller) fileIn(config configID) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.configs[config]; p != nil {
		return p.path
	}
	return ""
}

// guardAdmin says whether a config forbids an admin endpoint that others can
// reach beside this caller's gate.
func (c *caller) guardAdmin(config configID, guard bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.configs[config].adminGuard = guard
}

// anyGuardsAdmin reports whether a gate runs that forbids an open admin endpoint.
func anyGuardsAdmin() (guards bool) {
	callers.Range(func(_, value any) bool {
		c := value.(*caller)
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, config := range c.configs {
			guards = guards || config.started && config.adminGuard
		}
		return !guards
	})
	return guards
}

// start notes that a config runs.
func (c *caller) start(config configID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.configs[config].started = true
}

// publish tells the caller what a config says of it: it writes the server-info
// file, if anything in it changed, and then removes the one at the caller's
// former path. Without a file, a generated token is printed. If that fails, for
// want of disk space say, it is tried again as long as the config runs.
func (c *caller) publish(config configID, p publication) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	claimed := c.configs[config]
	p.config = config
	p.path, p.held, p.started, p.adminGuard = claimed.path, claimed.held, claimed.started, claimed.adminGuard
	*claimed = p
	c.publishLocked(claimed)
	if c.failure != nil {
		c.publishLater(config, claimed)
	}
	return c.failure
}

func (c *caller) publishLocked(p *publication) {
	c.failure = c.publishNow(*p)
	if infofile.IsOwnersFault(c.failure) {
		c.metrics.fileFaults.Inc()
	}
	p.published = c.failure == nil
	c.schedule()
	c.watchFile()
}

// publishAgainAfter is when callers who could not be told are told again.
const publishAgainAfter = 5 * time.Second

// publishLater tries again to tell what could not be told. It waits for the end
// of a reload: only then is it clear which config holds.
func (c *caller) publishLater(config configID, p *publication) {
	time.AfterFunc(publishAgainAfter, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.gone.Load() || c.stopping || c.configs[config] != p {
			return
		}
		if len(c.configs) == 1 {
			if c.publishLocked(p); c.failure == nil {
				c.log(nil, "callers are told at last where the gate is and which token to send")
				return
			}
		}
		c.publishLater(config, p)
	})
}

// publishNow is publish, for one who holds the lock.
func (c *caller) publishNow(next publication) error {
	now := time.Now()
	ended := next.ended(now)
	switch {
	case ended:
		c.ring.clear()
		c.sessions.end()
	case !next.hasFixedToken() && !c.revoked && !c.ring.has(c.token.Now()):
		// The access had ended, and another config prolongs it. The tokens of
		// before do not come back.
		c.token.Become(secret.NewToken())
		c.rotated = now
		c.ring.add(c.token.Now())
	}
	token := next.fixed
	if !next.hasFixedToken() {
		token = c.token.Now()
	}
	info := next.info
	info.Token = token
	former, said := c.current, c.written
	switch {
	case c.isRevokedIn(&next) || next.ended(now):
		// There is no token to tell; a file would promise one.
		if next.file != nil && former.path == next.path && !c.stopping {
			if err := next.file.Remove(said); err != nil {
				return err
			}
		}
	case c.stopping:
		return errStopping
	case next.file != nil:
		if err := next.file.Write(info); err != nil {
			return err
		}
		c.written = info
	case !next.hasFixedToken() && next.stderr != nil:
		c.printToken(next.stderr, token)
	}
	c.current, c.current.published, c.endTold = next, true, ended
	if former.file != nil && former.path != next.path {
		return former.file.Remove(said)
	}
	return nil
}

// saysTheSame reports whether two configs have a caller told the same.
func (p *publication) saysTheSame(other *publication) bool {
	return p.info == other.info && p.fixed.Reveal() == other.fixed.Reveal()
}

// hasFixedToken reports whether the config has a token for the caller.
func (p *publication) hasFixedToken() bool { return p.fixed != secret.Secret{} }

// printToken prints the token, once. It is for callers that have no server-info
// file: the logger would put the token where logs go.
func (c *caller) printToken(out io.Writer, token secret.Secret) {
	if c.printed == token {
		return
	}
	c.printed = token
	_, _ = fmt.Fprintf(out, "responses_proxy_gate %s: the token of this launch is %s\n", c.id, token.Reveal())
}

// publishedInfo is where a gate's own callers are told to find it, or why
// they are not told.
func publishedInfo(gate string) (info infofile.Info, err error) {
	err = errors.New("the gate has not started")
	callers.Range(func(id, value any) bool {
		if id != any(callerID{gate: gate}) {
			return true
		}
		c := value.(*caller)
		c.mu.Lock()
		defer c.mu.Unlock()
		if info, err = c.current.info, c.failure; err == nil && !c.current.published {
			err = errors.New("the gate does not listen")
		}
		return false
	})
	return info, err
}

// Destruct implements caddy.Destructor: the caller is gone from the config, or
// Caddy exits.
func (c *caller) Destruct() error {
	c.mu.Lock()
	c.gone.Store(true)
	c.schedule()
	last, said, stopped := c.current, c.written, c.stopping
	c.mu.Unlock()
	generatedTokens.replace(&c.ring, c.ring.tokens(), nil)
	claims.drop(c)
	if !rosterOf(c.id.gate).has(c.id.name()) { // or it goes on under its name
		forgetCaller(c.id.gate, c.id.name())
	}
	if stopped {
		return nil // what may be there now is the next launch's
	}
	return c.takeAway(last, said)
}

// callerAt finds the caller that is told through the server-info file at a
// path, if that is not the caller but.
func callerAt(path string, but *caller) *caller {
	for _, c := range claims.of(path) {
		if c != but && c.isToldAt(path) {
			return c
		}
	}
	return nil
}

// isToldAt reports whether the caller is told through the file at a path.
func (c *caller) isToldAt(path string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current.file != nil && c.current.path == path
}

// toldBy is the file that the caller is told through, or nil.
func (c *caller) toldBy() *infofile.File {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current.file
}

// publishAgain writes what the caller is told again, if somebody else has changed it.
func (c *caller) publishAgain() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.current.file == nil {
		return nil
	}
	return c.publishNow(c.current)
}

// Interface guard
var _ caddy.Destructor = (*caller)(nil)
