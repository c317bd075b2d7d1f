package responsesproxygate

import (
	"context"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
	"go.uber.org/zap"
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

// rosters holds what gates know of their shared clients, across config reloads,
// by the gate's name: a *roster.
var rosters = caddy.NewUsagePool()

// rosterConfig is what a config says of the shared clients.
type rosterConfig struct {
	store    *sharedstore.Store
	every    time.Duration
	reserved map[string]bool // names of the gate and of configured clients
	logger   *zap.Logger
	first    *sharedstore.Reading // what the storage had when the config was loaded; nil: it is the former config's storage
}

// openRoster finds what the gate knows of its shared clients, or begins to learn.
func (h *Handler) openRoster(ctx caddy.Context) error {
	if h.SharedClients == nil {
		return nil
	}
	every, err := h.SharedClients.resolve()
	if err != nil {
		return err
	}
	c := &rosterConfig{
		store:    sharedstore.New(ctx.Storage(), h.Name),
		every:    every,
		reserved: map[string]bool{h.Name: true},
		logger:   h.logger,
	}
	for _, client := range h.Client {
		c.reserved[client.Name] = true
	}
	if err := c.store.Audit(); err != nil {
		return err
	}
	h.roster = joinRoster(ctx, h.config, c)
	return nil
}

// joinRoster adds a config to those that use a gate's roster. It needs one leaveRoster.
func joinRoster(ctx context.Context, config configID, c *rosterConfig) *roster {
	value, _, _ := rosters.LoadOrNew(c.store.Gate(), func() (caddy.Destructor, error) {
		return newRoster(c.store.Gate()), nil
	})
	f := value.(*roster)
	f.join(ctx, config, c)
	return f
}

// leaveRoster is for a config that ends. If the gate goes on without shared
// clients, their WebSockets end.
func leaveRoster(config configID, f *roster) error {
	f.mu.Lock()
	left := f.configs[config]
	delete(f.configs, config)
	if f.current == left {
		for _, remaining := range f.configs {
			// The new config has failed, and this is the old one.
			f.useLocked(remaining)
		}
	}
	f.mu.Unlock()
	gone, err := rosters.Delete(f.gate)
	if gone && gateRunsWithout(config, f.gate) {
		f.end()
	}
	return err
}
