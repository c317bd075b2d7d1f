package responsesproxygate

import (
	"slices"
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

// isSame tells whether it is the same token, whatever its end.
func (t acceptedToken) isSame(other acceptedToken) bool { return t.digest == other.digest }

// usable tells whether the token is accepted at a time. At the end itself it
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

// set replaces the tokens, and has them found.
func (r *tokenRing) set(tokens []acceptedToken) {
	generatedTokens.replace(r, r.tokens(), tokens)
	r.accepted.Store(&tokens)
}

// add accepts one more token.
func (r *tokenRing) add(token secret.Secret) {
	r.set(append([]acceptedToken{{digest: secret.DigestOf(token.Reveal())}}, r.tokens()...))
}

// has tells whether a token is in the ring.
func (r *tokenRing) has(token secret.Secret) bool {
	return slices.ContainsFunc(r.tokens(), acceptedToken{digest: secret.DigestOf(token.Reveal())}.isSame)
}

// drop accepts a token no longer.
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

// clear accepts none any more.
func (r *tokenRing) clear() { r.set(nil) }
