package responsesproxygate

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
	"go.uber.org/zap"
)

// Rotation says how often generated tokens are replaced.
type Rotation struct {
	// How long a token is told to callers before the next one takes its
	// place: one second at least. A reload does not restart it.
	Interval caddy.Duration `json:"interval"`

	// How long a former token is accepted after its successor is in the
	// server-info file: less than the interval. With 0 it ends at once, and so
	// do its WebSockets; callers that are just about to use it get 401.
	// Default: 5 minutes, or half of a shorter interval.
	Grace *caddy.Duration `json:"grace,omitempty"`
}

const (
	// defaultGrace is enough for callers that read the server-info file at
	// the start of each task, or on 401.
	defaultGrace = 5 * time.Minute

	// minInterval bounds what a rotation costs: a file is written each time.
	minInterval = time.Second

	// maxAccepted bounds the tokens of one caller, and with them what a
	// comparison costs.
	maxAccepted = sharedstore.MaxTokens

	// longestNap is how long after the end of a caller's access its
	// WebSockets and its file may end, if a clock was set. Its tokens end at
	// the moment itself.
	longestNap = time.Minute

	// retryAfter is when a rotation or an end that failed, for want of disk
	// space say, is tried again.
	retryAfter = time.Minute
)

// rotation is a Rotation with its defaults.
type rotation struct {
	interval, grace time.Duration
}

// resolve validates and fills in what was left out.
func (r *Rotation) resolve() (*rotation, error) {
	if r == nil {
		return nil, nil
	}
	resolved := &rotation{interval: time.Duration(r.Interval)}
	if resolved.interval < minInterval {
		return nil, fmt.Errorf("rotate_every %v: rotate once a second at most", resolved.interval)
	}
	if r.Grace == nil {
		resolved.grace = min(defaultGrace, resolved.interval/2)
		return resolved, nil
	}
	resolved.grace = time.Duration(*r.Grace)
	if resolved.grace < 0 || resolved.grace >= resolved.interval {
		return nil, fmt.Errorf("rotate_every %v %v: the grace is shorter than the interval, and not negative", resolved.interval, resolved.grace)
	}
	return resolved, nil
}

// ended reports whether a caller's access has run out.
func (p *publication) ended(now time.Time) bool {
	return !p.ends.IsZero() && !now.Before(p.ends)
}

var (
	errFixedToken = errors.New("the token is a fixed one (the option token); change it where the option points: a file is read within two seconds, for a variable restart Caddy")
	errExpired    = errors.New("the caller's access has expired; give it a later expires and reload, or take its client block out, reload, and put it back")
	errManyTokens = fmt.Errorf("more than %d tokens are in their grace period; rotate with grace 0", maxAccepted)
	errStopping   = errors.New("the gate is being stopped: its callers are told nothing any more")
	errNotRunning = errors.New("the caller is not in the running config")
	errIsRevoked  = errors.New("the caller's access is revoked")
)

// rotateWith replaces the caller's generated token. The new one is accepted
// before anybody can read it, and the old one for the grace once it is in the
// file. The grace may be the default one: that of rotate_every, if there is
// one; used is the one that it was. A revoked caller gets its access back if
// readmit says so, and is left out otherwise.
//
// If the file cannot be written, the old token stays the one that is published;
// but with grace 0, which is for a token that has leaked, it ends all the same.
func (c *caller) rotateWith(grace *time.Duration, readmit bool) (used time.Duration, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case grace != nil:
		used = *grace
	case c.current.rotation != nil:
		used = c.current.rotation.grace
	default:
		used = defaultGrace
	}
	if c.revoked && !readmit {
		return used, errIsRevoked
	}
	err = c.rotateLocked(used)
	c.metrics.rotations.count(err)
	c.schedule()
	return used, err
}

func (c *caller) rotateLocked(grace time.Duration) error {
	now := time.Now()
	switch {
	case c.gone.Load() || !c.current.published:
		return errNotRunning
	case c.current.hasFixedToken():
		return errFixedToken
	case c.current.ended(now):
		return errExpired
	case grace > 0 && len(c.ring.tokens()) >= maxAccepted:
		// (those whose grace is over go first)
		if c.ring.only(c.token.Now(), now.Add(grace), now); len(c.ring.tokens()) >= maxAccepted {
			return errManyTokens
		}
	}
	former, wasRevoked := c.token.Now(), c.revoked
	c.token.Become(secret.NewToken())
	c.revoked = false
	c.ring.add(c.token.Now())
	if err := c.publishNow(c.current); err != nil {
		c.ring.drop(c.token.Now())
		c.token.Become(former)
		c.revoked = wasRevoked
		if grace == 0 {
			c.revokeLocked()
		}
		return err
	}
	c.rotated = now
	if grace > 0 {
		c.ring.only(c.token.Now(), now.Add(grace), now)
		return nil
	}
	c.ring.only(c.token.Now(), time.Time{}, now)
	c.sessions.end()
	return nil
}

// revoke ends the caller's tokens, its WebSockets and its server-info at once.
// It holds across reloads, until a rotation makes a new token, or the
// operator writes another fixed one.
func (c *caller) revoke() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone.Load() || !c.current.published {
		return errNotRunning
	}
	c.revokeLocked()
	c.schedule()
	return c.publishNow(c.current)
}

// disable refuses the caller's tokens and ends its WebSockets, until enable.
// Its tokens and its file stay, and are rotated as planned. It holds across
// reloads.
func (c *caller) disable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone.Load() || !c.current.published {
		return errNotRunning
	}
	c.disabled.Store(true)
	c.sessions.end()
	return nil
}

// enable undoes disable, and nothing else: who is revoked stays so.
func (c *caller) enable() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone.Load() || !c.current.published {
		return errNotRunning
	}
	c.disabled.Store(false)
	return nil
}

func (c *caller) revokeLocked() {
	if c.current.hasFixedToken() {
		tokens := append([]acceptedToken{{digest: secret.DigestOf(c.current.fixed.Reveal())}}, c.current.former...)
		revoked := slices.Clone(c.revokedTokens())
		for _, token := range tokens {
			if !slices.Contains(revoked, token.digest) {
				revoked = append(revoked, token.digest)
			}
		}
		c.revokedFixed.Store(&revoked)
	}
	c.revoked = true
	c.metrics.revocations.Inc()
	c.ring.clear()
	c.sessions.end()
}

// isRevokedIn reports whether the caller's token was revoked, as far as a config
// is concerned: another fixed token than the revoked one is good.
func (c *caller) isRevokedIn(p *publication) bool {
	if p.hasFixedToken() {
		return c.isRevokedToken(secret.DigestOf(p.fixed.Reveal()))
	}
	return c.revoked
}

// isRevoked reports whether the caller has no token now.
func (c *caller) isRevoked() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.isRevokedIn(&c.current)
}

func (c *caller) revokedTokens() []secret.Digest {
	if revoked := c.revokedFixed.Load(); revoked != nil {
		return *revoked
	}
	return nil
}

func (c *caller) isRevokedToken(digest secret.Digest) bool {
	return slices.Contains(c.revokedTokens(), digest)
}

// schedule sets the alarm for what is due next: a rotation, or the end of the
// caller's access. It is for one who holds the lock.
func (c *caller) schedule() {
	if c.alarm != nil {
		c.alarm.Stop()
		c.alarm = nil
	}
	if at := c.nextDue(); !at.IsZero() && !c.gone.Load() {
		// The machine may sleep, or its clock be set: a moment comes sooner
		// then than this clock says.
		c.alarm = time.AfterFunc(min(time.Until(at), longestNap), c.wake)
	}
}

// nextDue is when something is due next; zero is never.
func (c *caller) nextDue() (at time.Time) {
	p := &c.current
	if !p.published || c.endTold {
		return time.Time{}
	}
	at = p.ends
	if p.rotation != nil && !p.hasFixedToken() && !c.revoked && !c.stopping {
		if next := c.rotated.Add(p.rotation.interval); at.IsZero() || next.Before(at) {
			at = next
		}
	}
	return at
}

// wake does what is due.
func (c *caller) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone.Load() || !c.current.published {
		return
	}
	p, now := c.current, time.Now()
	var err error
	switch {
	case p.ended(now):
		err = c.publishNow(p)
		c.log(err, "a client's access has expired")
	case p.rotation != nil && !p.hasFixedToken() && !c.revoked && !c.stopping && !now.Before(c.rotated.Add(p.rotation.interval)):
		err = c.rotateLocked(p.rotation.grace)
		c.metrics.rotations.count(err)
		c.log(err, "token rotated")
	}
	if err == nil {
		c.schedule()
		return
	}
	again := retryAfter
	if p.rotation != nil {
		again = min(again, p.rotation.interval)
	}
	c.alarm = time.AfterFunc(again, c.wake)
}

// log says what became of something that was due.
func (c *caller) log(err error, done string) {
	gate, client := zap.String("gate", c.id.gate), zap.String("client", c.id.name())
	if err != nil {
		c.current.logger.Error("a token could not be replaced or revoked as planned", gate, client, zap.Error(err))
		return
	}
	c.current.logger.Info(done, gate, client)
}
