package responsesproxygate

import (
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
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
