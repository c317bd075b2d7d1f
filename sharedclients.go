package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
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
	if err := c.store.CheckFolder(); err != nil {
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

// Why a change of the shared clients is refused. Nothing is changed then.
var (
	errNoRoster       = errors.New("the gate has no shared clients; write shared_clients in it and reload")
	errClientExists   = errors.New("there is a shared client of this name; rotate it, or remove it first")
	errNoSharedClient = errors.New("there is no shared client of this name")
	errReservedName   = errors.New("this is the name of the gate or of a client in its config; choose another")
	errTokenInUse     = errors.New("another shared client has this token; make a new one")
	errManyClients    = fmt.Errorf("there are %d shared clients already; remove some", maxSharedClients)
	errAccessEnded    = errors.New("the client's access has expired; remove it, and add it again")
	errLockHeld       = errors.New("its lock is held from elsewhere, or was left by a process that was killed; try again in a moment. If that does not help, remove the client, which works without the lock")
)

// add registers a client by the digest of its token. Its access ends after a
// time; zero is never. When it returns, the token is good here, and on other
// replicas by their next read.
func (f *roster) add(ctx context.Context, client string, digest secret.Digest, expires time.Duration) error {
	return f.change(ctx, client, false, func(c *rosterConfig, known *sharedList, current *sharedstore.Record, now time.Time) (*sharedstore.Record, error) {
		if c.reserved[client] {
			return nil, errReservedName
		}
		if current != nil {
			return nil, errClientExists
		}
		if len(known.records) >= maxSharedClients {
			return nil, errManyClients
		}
		if known.hasElsewhere(digest, client) {
			return nil, errTokenInUse
		}
		record := &sharedstore.Record{
			Version: sharedstore.Version, Gate: f.gate, Client: client,
			Created: now, Tokens: []sharedstore.Token{sharedstore.NewToken(digest)},
		}
		if expires > 0 {
			record.Expires = now.Add(expires)
		}
		return record, nil
	})
}

// rotate gives a client another token, by its digest. The former ones end after
// grace; with 0 at once, and the client's WebSockets with them.
func (f *roster) rotate(ctx context.Context, client string, digest secret.Digest, grace time.Duration) error {
	return f.change(ctx, client, false, func(_ *rosterConfig, known *sharedList, current *sharedstore.Record, now time.Time) (*sharedstore.Record, error) {
		switch {
		case current == nil:
			return nil, errNoSharedClient
		case current.Expired(now):
			return nil, errAccessEnded
		case known.hasElsewhere(digest, client):
			return nil, errTokenInUse
		}
		next := current.Rotated(digest, grace, now)
		if len(next.Tokens) > maxAccepted {
			return nil, errManyTokens
		}
		return next, nil
	})
}

// setEnd has a client's access end after a time from now; zero is never.
func (f *roster) setEnd(ctx context.Context, client string, expires time.Duration) error {
	return f.amend(ctx, client, func(record *sharedstore.Record, now time.Time) {
		record.Expires = time.Time{}
		if expires > 0 {
			record.Expires = now.Add(expires)
		}
	})
}

// setDisabled has a client's tokens refused, or accepted again.
func (f *roster) setDisabled(ctx context.Context, client string, disabled bool) error {
	return f.amend(ctx, client, func(record *sharedstore.Record, _ time.Time) { record.Disabled = disabled })
}

// amend changes what is said of a client beside its tokens. Once its access has
// ended, they do not come back.
func (f *roster) amend(ctx context.Context, client string, change func(record *sharedstore.Record, now time.Time)) error {
	return f.change(ctx, client, false, func(_ *rosterConfig, _ *sharedList, current *sharedstore.Record, now time.Time) (*sharedstore.Record, error) {
		switch {
		case current == nil:
			return nil, errNoSharedClient
		case current.Expired(now):
			return nil, errAccessEnded
		}
		next := *current
		change(&next, now)
		return &next, nil
	})
}

// remove takes a client's access away: its tokens and its WebSockets end here
// at once, and on other replicas by their next read. A record that cannot be
// read or understood is removed too.
func (f *roster) remove(ctx context.Context, client string) error {
	return f.change(ctx, client, true, func(_ *rosterConfig, known *sharedList, current *sharedstore.Record, _ time.Time) (*sharedstore.Record, error) {
		// (a record that was deleted by other means may be known all the same)
		if current == nil && known.records[client] == nil {
			return nil, errNoSharedClient
		}
		return nil, nil
	})
}

// edit decides on a change: what the record becomes, nil for none.
type edit func(c *rosterConfig, known *sharedList, current *sharedstore.Record, now time.Time) (*sharedstore.Record, error)

// change changes one client, in the storage and then here. Removing one does
// not depend on any other, nor on the client's lock: it must be possible
// whatever has happened.
func (f *roster) change(ctx context.Context, client string, removes bool, decide edit) error {
	if f == nil {
		return errNoRoster
	}
	if !adminapi.IsName(client) || client == "." || client == ".." {
		return adminapi.ErrClientName
	}
	f.mu.Lock()
	c := f.current
	f.mu.Unlock()
	known, err := f.upToDate(ctx, c, client, removes)
	if err != nil {
		return &sharedstore.OutageError{Err: err}
	}
	unlock, err := c.store.Lock(ctx, client, c.logger)
	switch {
	case ctx.Err() != nil:
		return &sharedstore.OutageError{Err: ctx.Err()}
	case err == nil:
		defer unlock()
	case !removes:
		return fmt.Errorf("%w (%w)", errLockHeld, err)
	default:
		c.logger.Warn("a shared client is removed without its lock", zap.String("gate", f.gate), zap.String("client", client), zap.Error(err))
	}
	// What has begun is done to its end, also if nobody waits for it any more.
	ctx = context.WithoutCancel(ctx)
	var former *sharedstore.Record
	next, mark, changeErr := c.store.Change(ctx, client, func(current *sharedstore.Record, now time.Time) (*sharedstore.Record, error) {
		former = current
		return decide(c, known, current, now)
	})
	f.adopt(c, client, next, mark, changeErr)
	if changeErr == nil && err != nil {
		return f.removeAgain(ctx, c, client, former)
	}
	return changeErr
}

// removeAgain makes sure that a client that was removed without its lock stays
// away: who had the lock may have read its record before, and write it again
// as long as a lock may be used.
func (f *roster) removeAgain(ctx context.Context, c *rosterConfig, client string, removed *sharedstore.Record) error {
	time.Sleep(sharedstore.LockUse)
	next, mark, err := c.store.Change(ctx, client, func(current *sharedstore.Record, _ time.Time) (*sharedstore.Record, error) {
		if current == nil || removed == nil || !current.Created.Equal(removed.Created) {
			return nil, errNoSharedClient // or a new one of the same name
		}
		return nil, nil
	})
	if errors.Is(err, errNoSharedClient) {
		return nil
	}
	f.adopt(c, client, next, mark, err)
	return err
}

// upToDate reads the clients on which a change is decided. It fails if the
// storage has lost what it had: a change would then begin a second set of
// clients.
func (f *roster) upToDate(ctx context.Context, c *rosterConfig, client string, removes bool) (*sharedList, error) {
	if removes {
		return f.upToDateFor(ctx, c, client)
	}
	f.mu.Lock()
	since, before := "", f.changes
	if known := f.known.Load(); known != nil && !known.isOld(time.Now()) {
		since = known.mark
	}
	f.mu.Unlock()
	r := <-c.store.ReadApart(ctx, since)
	f.mu.Lock()
	defer f.mu.Unlock()
	if c != f.current {
		return nil, errors.New("the config was reloaded meanwhile")
	}
	if before == f.changes {
		f.takeLocked(r)
	}
	known := f.known.Load()
	switch {
	case r.Err != nil:
		return nil, r.Err
	case !r.Exists && known.existed:
		return nil, errVanished
	}
	return known, nil
}

// upToDateFor is upToDate for the removal of a client, whatever is wrong with
// the others.
func (f *roster) upToDateFor(ctx context.Context, c *rosterConfig, client string) (*sharedList, error) {
	known := f.known.Load()
	if known == nil {
		known = new(sharedList)
	}
	mark, err := c.store.Mark(ctx)
	if err == nil {
		if mark == "" && known.existed {
			return nil, errVanished
		}
		return known, nil
	}
	// Then the record has to be there: without one either, this may be another
	// place, or no storage at all.
	record, err := c.store.Load(ctx, client)
	var damage *sharedstore.DamagedError
	switch {
	case errors.As(err, &damage) && damage.Unreadable:
		return nil, damage.Err
	case err == nil && record == nil && known.existed:
		return nil, errVanished
	}
	return known, nil
}

// adopt makes a change hold here. Everything is read again soon: there may have
// been others at the same time.
func (f *roster) adopt(c *rosterConfig, client string, record *sharedstore.Record, mark string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.known.Load()
	if c != f.current || known == nil {
		return
	}
	list := &sharedList{existed: known.existed, again: true, read: known.read, records: maps.Clone(known.records)}
	if list.records == nil {
		list.records = make(map[string]*sharedstore.Record)
	}
	if err == nil {
		list.existed = true
		if known.mark != "" {
			list.mark = mark
		}
		if record != nil {
			list.records[client] = record
		} else {
			delete(list.records, client)
		}
	}
	f.replaceLocked(list)
	f.nudge()
}

// hasElsewhere reports whether a token is another client's.
func (l *sharedList) hasElsewhere(digest secret.Digest, client string) bool {
	c := l.tokens[indexKeyOf(digest)]
	return c != nil && c.name != client
}
