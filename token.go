package responsesproxygate

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// minTokenLength is the least length of a token that the operator chooses.
// It is what 192 random bits take in base64.
const minTokenLength = 32

// acceptedToken is a token that is accepted, and until when.
type acceptedToken struct {
	digest secret.Digest
	until  time.Time // zero: there is no end yet
}

// isSame reports whether it is the same token, whatever its end.
func (t acceptedToken) isSame(other acceptedToken) bool { return t.digest == other.digest }

// usable reports whether the token is accepted at a time. At the end itself it
// no longer is.
func (t acceptedToken) usable(now time.Time) bool {
	return t.until.IsZero() || now.Before(t.until)
}

// tokenRing is the tokens of one caller: the one that it is told, and former
// ones in their grace period. Requests read it while a rotation replaces it as
// a whole, so there is no moment without a valid token. Replacing it needs
// the caller's lock.
type tokenRing struct {
	accepted atomic.Pointer[[]acceptedToken]
}

func (r *tokenRing) tokens() []acceptedToken {
	if tokens := r.accepted.Load(); tokens != nil {
		return *tokens
	}
	return nil
}

// set replaces the tokens, also in the index that finds them.
func (r *tokenRing) set(tokens []acceptedToken) {
	generatedTokens.replace(r, r.tokens(), tokens)
	r.accepted.Store(&tokens)
}

// add accepts one more token.
func (r *tokenRing) add(token secret.Secret) {
	r.set(append([]acceptedToken{{digest: secret.DigestOf(token.Reveal())}}, r.tokens()...))
}

// has reports whether a token is in the ring.
func (r *tokenRing) has(token secret.Secret) bool {
	return slices.ContainsFunc(r.tokens(), acceptedToken{digest: secret.DigestOf(token.Reveal())}.isSame)
}

// drop stops accepting a token.
func (r *tokenRing) drop(token secret.Secret) {
	r.set(slices.DeleteFunc(slices.Clone(r.tokens()), acceptedToken{digest: secret.DigestOf(token.Reveal())}.isSame))
}

// only makes token the one that is accepted from now on. The former ones are
// accepted until a time, unless they end before; at the zero time, they have
// ended.
func (r *tokenRing) only(token secret.Secret, until, now time.Time) {
	digest := secret.DigestOf(token.Reveal())
	var tokens []acceptedToken
	for _, t := range r.tokens() {
		if t.digest == digest {
			tokens = append(tokens, t)
			continue
		}
		if t.until.IsZero() || until.Before(t.until) {
			t.until = until
		}
		if !until.IsZero() && t.usable(now) {
			tokens = append(tokens, t)
		}
	}
	r.set(tokens)
}

// clear stops accepting all tokens.
func (r *tokenRing) clear() { r.set(nil) }

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

// ending gives each token but one an end after the grace, and leaves out those
// that have ended.
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

// indexKey is what a token is looked up by, among those of all callers. It is
// made of the token's digest with a secret of this process: how long a lookup
// takes depends on it, and nobody can tell what it is for any token, so that
// time tells nothing about tokens.
type indexKey [sha256.Size]byte

// indexSecret has 128 bits: with a digest, that is one block of SHA-256.
var indexSecret = func() (secret [16]byte) {
	_, _ = rand.Read(secret[:])
	return secret
}()

// indexKeyOf hashes inputs of one length, so that none is the beginning of
// another.
func indexKeyOf(digest secret.Digest) indexKey {
	var input [len(indexSecret) + sha256.Size]byte
	copy(input[:], indexSecret[:])
	copy(input[len(indexSecret):], digest[:])
	return sha256.Sum256(input[:])
}

// tokenMark is what a presented token is looked up by and compared with.
type tokenMark struct {
	key    indexKey
	digest secret.Digest
}

func markOf(presented string) tokenMark {
	digest := secret.DigestOf(presented)
	return tokenMark{key: indexKeyOf(digest), digest: digest}
}

// generatedTokens finds the ring that a generated token is in. Rings outlive
// reloads, and so does it. It says only where to look: what is accepted is what
// the ring says.
var generatedTokens = tokenIndex{rings: make(map[indexKey]*tokenRing)}

type tokenIndex struct {
	mu    sync.RWMutex
	rings map[indexKey]*tokenRing
}

// ringOf is the ring in which a token may be; nil for none.
func (x *tokenIndex) ringOf(key indexKey) *tokenRing {
	x.mu.RLock()
	defer x.mu.RUnlock()
	return x.rings[key]
}

// replace notes that a ring has other tokens than before.
func (x *tokenIndex) replace(ring *tokenRing, former, next []acceptedToken) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, token := range former {
		if !slices.ContainsFunc(next, token.isSame) {
			delete(x.rings, indexKeyOf(token.digest))
		}
	}
	for _, token := range next {
		if !slices.ContainsFunc(former, token.isSame) {
			x.rings[indexKeyOf(token.digest)] = ring
		}
	}
}

// tokenSet finds out whose token a request presents.
type tokenSet struct {
	number   uint64 // a later config's is greater
	callers  []*configuredCaller
	fixed    atomic.Pointer[map[indexKey]*configuredCaller] // those with a token from the config
	changing sync.Mutex                                     // for who changes one of them
	rings    map[*tokenRing]*configuredCaller               // those with generated ones
	names    map[string]bool
	roster   *roster // nil: there are no shared clients
}

var tokenSets atomic.Uint64

func newTokenSet(callers []*configuredCaller, roster *roster) *tokenSet {
	s := &tokenSet{
		number: tokenSets.Add(1), callers: callers, roster: roster,
		rings: make(map[*tokenRing]*configuredCaller), names: make(map[string]bool),
	}
	for _, c := range callers {
		s.names[c.name] = true
		if c.fixed.Load() == nil {
			s.rings[&c.ring] = c
		}
	}
	s.index()
	return s
}

// index finds out whose fixed tokens are whose.
func (s *tokenSet) index() {
	fixed := make(map[indexKey]*configuredCaller)
	for _, c := range s.callers {
		if f := c.fixed.Load(); f != nil {
			for _, token := range f.accepted {
				fixed[indexKeyOf(token.digest)] = c
			}
		}
	}
	s.fixed.Store(&fixed)
}

// match finds the caller whose token this is: it looks the token up, and
// compares it, in constant time, with those of the one caller that it may be
// of. Only then does it matter whether the token that was found is still
// usable. What the config says comes before what the storage says.
func (s *tokenSet) match(presented tokenMark) (*configuredCaller, bool) {
	c := s.configured(presented.key)
	token, ok := c.holds(presented.digest)
	if !ok {
		c = s.roster.clientWith(presented.key)
		if token, ok = c.holds(presented.digest); ok && s.isTaken(c) {
			ok = false
		}
	}
	if !ok || !c.admits(token) {
		return nil, false
	}
	return c, true
}

// configured is the caller of the config that a token may be of; nil for none.
func (s *tokenSet) configured(key indexKey) *configuredCaller {
	if c := (*s.fixed.Load())[key]; c != nil {
		return c
	}
	return s.rings[generatedTokens.ringOf(key)]
}

// isTaken reports whether a shared client has a name that a configured caller has.
func (s *tokenSet) isTaken(c *configuredCaller) bool { return c.name == c.id.gate || s.names[c.name] }

// holds finds a token among the caller's own, all of which are compared.
func (c *configuredCaller) holds(digest secret.Digest) (found acceptedToken, ok bool) {
	if c == nil {
		return found, false
	}
	for _, token := range c.accepted() {
		if subtle.ConstantTimeCompare(digest[:], token.digest[:]) == 1 {
			found, ok = token, true
		}
	}
	return found, ok
}
