package responsesproxygate

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// indexKey is what a token is looked up by, among those of all callers. It is
// made of the token's digest with a secret of this process: how long a lookup
// takes depends on it, and nobody can tell what it is for any token, so that
// time tells nothing about tokens.
type indexKey [sha256.Size]byte

var indexSecret = func() (secret [sha256.Size]byte) {
	_, _ = rand.Read(secret[:])
	return secret
}()

// indexKeyOf has an input of one length: one that goes on where another ends
// does not exist.
func indexKeyOf(digest secret.Digest) indexKey {
	var input [2 * sha256.Size]byte
	copy(input[:], indexSecret[:])
	copy(input[sha256.Size:], digest[:])
	return sha256.Sum256(input[:])
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
func (s *tokenSet) match(presented string) (*configuredCaller, bool) {
	return s.matchDigest(secret.DigestOf(presented))
}

// matchDigest is match for a token's digest.
func (s *tokenSet) matchDigest(digest secret.Digest) (*configuredCaller, bool) {
	key := indexKeyOf(digest)
	c := s.configured(key)
	token, ok := c.holds(digest)
	if !ok {
		c = s.roster.clientWith(key)
		if token, ok = c.holds(digest); ok && s.isTaken(c) {
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
