package responsesproxygate

import (
	"fmt"
	"slices"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// fixedToken is a token from the config or from a file that it names, and what
// is accepted for it: that token first, then former ones in their grace.
type fixedToken struct {
	secret   secret.Secret
	accepted []acceptedToken
}

// fix makes a token the only fixed one.
func (c *configuredCaller) fix(token secret.Secret) {
	c.fixed.Store(&fixedToken{secret: token, accepted: []acceptedToken{{digest: secret.DigestOf(token.Reveal())}}})
}

// fixedSecret is the fixed token; the zero one without one.
func (c *configuredCaller) fixedSecret() secret.Secret {
	if fixed := c.fixed.Load(); fixed != nil {
		return fixed.secret
	}
	return secret.Secret{}
}

// checkToken refuses a token that could be guessed.
func checkToken(token secret.Secret) error {
	if len(token.Reveal()) < minTokenLength {
		return fmt.Errorf("it has fewer than %d characters and could be guessed; make one with: openssl rand -base64 33", minTokenLength)
	}
	return nil
}

// takeUp accepts the token that a caller's file has now, and tells the caller.
// The former one is accepted for the grace of a rotation.
func (h *Handler) takeUp(c *configuredCaller, token secret.Secret) error {
	if err := checkToken(token); err != nil {
		return err
	}
	tokens, digest := h.policy.tokens, secret.DigestOf(token.Reveal())
	tokens.changing.Lock()
	defer tokens.changing.Unlock()
	for _, other := range tokens.callers {
		if fixed := other.fixed.Load(); other != c && fixed != nil && fixed.has(digest) {
			return fmt.Errorf("%s has the same one, so the two could not be told apart; give each its own", other.name)
		}
	}
	former := c.fixed.Load()
	if former.accepted[0].digest == digest {
		return nil
	}
	grace := defaultGrace
	if h.rotation != nil {
		grace = h.rotation.grace
	}
	next := &fixedToken{secret: token, accepted: append([]acceptedToken{{digest: digest}}, former.ending(digest, grace)...)}
	c.fixed.Store(next)
	tokens.index()
	c.refix(h.config, next)
	return nil
}

func (f *fixedToken) has(digest secret.Digest) bool {
	return slices.ContainsFunc(f.accepted, func(t acceptedToken) bool { return t.digest == digest })
}

// ending are the tokens but one, each with an end, without those that have ended.
func (f *fixedToken) ending(but secret.Digest, grace time.Duration) (ending []acceptedToken) {
	now := time.Now()
	for _, t := range f.accepted[:min(len(f.accepted), maxAccepted-1)] {
		if until := now.Add(grace); t.until.IsZero() || until.Before(t.until) {
			t.until = until
		}
		if t.digest != but && t.usable(now) {
			ending = append(ending, t)
		}
	}
	return ending
}

// refix notes that a config has another fixed token for the caller, and tells
// the caller, if what it is told is of that config.
func (c *caller) refix(config configID, fixed *fixedToken) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.configs[config]
	if p == nil || c.gone.Load() {
		return
	}
	told := p.published && p.saysTheSame(&c.current)
	p.fixed, p.former = fixed.secret, fixed.accepted[1:]
	if !told || c.stopping {
		return
	}
	if c.publishLocked(p); c.failure != nil {
		c.log(c.failure, "")
		c.publishLater(config, p)
	}
}
