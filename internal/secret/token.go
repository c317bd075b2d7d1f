package secret

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// TokenBytes is the size of a generated token: 256 bits, 43 characters of
// base64url without padding.
const TokenBytes = 32

// NewToken makes a token. crypto/rand never fails: it crashes the process
// rather than return something that can be guessed.
func NewToken() Secret {
	raw := make([]byte, TokenBytes)
	_, _ = rand.Read(raw)
	return New(base64.RawURLEncoding.EncodeToString(raw))
}

// Digest is what is kept of a token for comparison. Digests have one
// length, so a comparison takes the same time whatever was presented, its
// length included.
type Digest [sha256.Size]byte

// DigestOf is a token's digest, without an allocation for one of usual length.
func DigestOf(token string) Digest {
	var buffer [128]byte
	return sha256.Sum256(append(buffer[:0], token...))
}
