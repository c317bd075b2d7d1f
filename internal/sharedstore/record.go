package sharedstore

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	strictjson "github.com/go-json-experiment/json"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

const (
	// MaxTokens bounds the tokens of one client.
	MaxTokens = 100

	// MaxRecordSize is far above any record: that of a client with MaxTokens
	// tokens takes some 15 kB.
	MaxRecordSize = 64 << 10

	// Version is the format of records. A gate does not guess at what a
	// newer one says of a client.
	Version = 1
)

// Record is what the storage holds of a client. Times are absolute and
// by the wall clock: they mean the same on every replica, as far as the
// replicas' clocks agree.
type Record struct {
	Version int       `json:"version"`
	Gate    string    `json:"gate"`
	Client  string    `json:"client"`
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"`

	// Whether its tokens are refused for now. A replica from before this field
	// refuses the record as a whole, and so the client.
	Disabled bool `json:"disabled,omitempty"`

	Tokens []Token `json:"tokens"` // the newest first
}

// Token is a token that the client may present, and until when.
type Token struct {
	SHA256   string    `json:"sha256"`
	NotAfter time.Time `json:"not_after,omitzero"`
}

// NewToken is a token that has no end yet.
func NewToken(digest secret.Digest) Token {
	return Token{SHA256: hex.EncodeToString(digest[:])}
}

// Digest is the token's digest. Those of a record that was read have one.
func (t Token) Digest() (secret.Digest, error) { return ParseDigest(t.SHA256) }

// ParseDigest reads a digest as records have it.
func ParseDigest(text string) (digest secret.Digest, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(digest) {
		return digest, errors.New("this is not a SHA-256 digest in hexadecimal")
	}
	return secret.Digest(raw), nil
}

// Encode writes a record.
func (r *Record) Encode() ([]byte, error) {
	content, err := json.Marshal(r)
	return append(content, '\n'), err
}

// parseRecord reads the storage's record of a client. It refuses fields that it
// does not know: one could be a limit to what the client may do.
func parseRecord(gate, client string, content []byte) (*Record, error) {
	if len(content) > MaxRecordSize {
		return nil, fmt.Errorf("it is larger than %d bytes", MaxRecordSize)
	}
	var version struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(content, &version) == nil && version.Version > Version {
		return nil, fmt.Errorf("it has version %d, from a newer gate than this; update this one", version.Version)
	}
	r := new(Record)
	if strictjson.Unmarshal(content, r, strictjson.RejectUnknownMembers(true)) != nil {
		return nil, errors.New("it is not a client's record as this gate writes it") // (its error may quote it)
	}
	switch {
	case r.Version != Version:
		return nil, fmt.Errorf("it has version %d", r.Version)
	case r.Gate != gate || r.Client != client:
		return nil, errors.New("it is the record of another gate or client")
	case r.Created.IsZero():
		return nil, errors.New("it does not say when the client was added")
	case len(r.Tokens) == 0 || len(r.Tokens) > MaxTokens:
		return nil, fmt.Errorf("it has %d tokens", len(r.Tokens))
	}
	for _, token := range r.Tokens {
		if _, err := token.Digest(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Expired reports whether the client's access has ended.
func (r *Record) Expired(now time.Time) bool {
	return !r.Expires.IsZero() && !now.Before(r.Expires)
}

// Rotated is the record with a further token. The former ones are accepted
// until a time, unless they end before; with no grace, they have ended.
func (r *Record) Rotated(digest secret.Digest, grace time.Duration, now time.Time) *Record {
	next := *r
	next.Tokens = []Token{NewToken(digest)}
	end := now.Add(grace)
	for _, token := range r.Tokens {
		if token.NotAfter.IsZero() || end.Before(token.NotAfter) {
			token.NotAfter = end
		}
		if grace > 0 && now.Before(token.NotAfter) && token.SHA256 != next.Tokens[0].SHA256 {
			next.Tokens = append(next.Tokens, token)
		}
	}
	return &next
}

// saysAs reports whether a record is what a change made of it.
func (r *Record) saysAs(next *Record) bool {
	return r.Tokens[0] == next.Tokens[0] && r.Expires.Equal(next.Expires) && r.Disabled == next.Disabled
}
