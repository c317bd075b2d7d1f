package responsesproxygate

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// SharedClients has the gate accept clients that are registered in Caddy's
// `storage` beside its own: the same ones on every replica that has this
// storage and a gate of this name. They are added, rotated and removed on any
// replica, with `caddy responses-proxy client` or through the admin endpoint.
//
// The storage holds names, digests and ends, never a token. Whoever can write
// to it can add clients: it is as sensitive as Caddy's TLS keys, which are in
// the same place.
type SharedClients struct {
	// How often the storage is read. A change that another replica made holds
	// here after this interval and the time that one read takes; one made here
	// holds at once. One second at least. Default: 5 seconds.
	SyncEvery caddy.Duration `json:"sync_every,omitempty"`
}

const (
	// defaultSyncEvery costs a storage one read of a few bytes every 5 seconds
	// and replica.
	defaultSyncEvery = 5 * time.Second

	// minSyncEvery bounds what replicas cost their storage.
	minSyncEvery = time.Second

	// maxSharedClients is when no more are added. Adding at the same moment may
	// lead beyond it, and nothing else depends on it: a full read of so many
	// takes a replica half a second of a processor.
	maxSharedClients = 10_000

	// maxRecordSize is far above any record: that of a client with maxAccepted
	// tokens takes some 15 kB.
	maxRecordSize = 64 << 10

	// recordVersion is the format of records. A gate does not guess at what a
	// newer one says of a client.
	recordVersion = 1
)

// resolve validates, and fills in what was left out.
func (s *SharedClients) resolve() (syncEvery time.Duration, err error) {
	every := time.Duration(s.SyncEvery)
	if every == 0 {
		return defaultSyncEvery, nil
	}
	if every < minSyncEvery {
		return 0, fmt.Errorf("shared_clients %v: read the storage once a second at most", every)
	}
	return every, nil
}

// clientRecord is what the storage holds of a client. Times are absolute and
// by the wall clock: they mean the same on every replica, as far as the
// replicas' clocks agree.
type clientRecord struct {
	Version int             `json:"version"`
	Gate    string          `json:"gate"`
	Client  string          `json:"client"`
	Created time.Time       `json:"created"`
	Expires time.Time       `json:"expires,omitzero"`
	Tokens  []recordedToken `json:"tokens"` // the newest first
}

// recordedToken is a token that the client may present, and until when.
type recordedToken struct {
	SHA256   string    `json:"sha256"`
	NotAfter time.Time `json:"not_after,omitzero"`
}

func recordToken(digest secret.Digest) recordedToken {
	return recordedToken{SHA256: hex.EncodeToString(digest[:])}
}

// parseDigest reads a digest as records have it.
func parseDigest(text string) (digest secret.Digest, err error) {
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != len(digest) {
		return digest, errors.New("this is not a SHA-256 digest in hexadecimal")
	}
	return secret.Digest(raw), nil
}

// encode writes a record.
func (r *clientRecord) encode() ([]byte, error) {
	content, err := json.Marshal(r)
	return append(content, '\n'), err
}

// parseRecord reads what the storage has for a client. What it does not know it
// refuses: it could be a limit to what the client may do.
func parseRecord(gate, client string, content []byte) (*clientRecord, error) {
	if len(content) > maxRecordSize {
		return nil, fmt.Errorf("it is larger than %d bytes", maxRecordSize)
	}
	var version struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(content, &version) == nil && version.Version > recordVersion {
		return nil, fmt.Errorf("it has version %d, from a newer gate than this; update this one", version.Version)
	}
	r := new(clientRecord)
	decoder := json.NewDecoder(bytes.NewReader(content))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(r); err != nil {
		return nil, errors.New("it is not a client's record as this gate writes it") // (err may quote it)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("it has something after the client's record")
	}
	switch {
	case r.Version != recordVersion:
		return nil, fmt.Errorf("it has version %d", r.Version)
	case r.Gate != gate || r.Client != client:
		return nil, errors.New("it is the record of another gate or client")
	case r.Created.IsZero():
		return nil, errors.New("it does not say when the client was added")
	case len(r.Tokens) == 0 || len(r.Tokens) > maxAccepted:
		return nil, fmt.Errorf("it has %d tokens", len(r.Tokens))
	}
	_, err := r.accepted()
	return r, err
}

// accepted are the record's tokens, to compare with.
func (r *clientRecord) accepted() ([]acceptedToken, error) {
	tokens := make([]acceptedToken, 0, len(r.Tokens))
	for _, token := range r.Tokens {
		digest, err := parseDigest(token.SHA256)
		if err != nil {
			return nil, err
		}
		tokens = append(tokens, acceptedToken{digest: digest, until: token.NotAfter})
	}
	return tokens, nil
}

// expired tells whether the client's access has ended.
func (r *clientRecord) expired(now time.Time) bool {
	return !r.Expires.IsZero() && !now.Before(r.Expires)
}

// rotated is the record with a further token. The former ones are accepted
// until a time, unless they end before; with no grace, they have ended.
func (r *clientRecord) rotated(digest secret.Digest, grace time.Duration, now time.Time) *clientRecord {
	next := *r
	next.Tokens = []recordedToken{recordToken(digest)}
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
