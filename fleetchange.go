package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Why a change of the shared clients is refused. None of them has changed then.
var (
	errNoFleet        = errors.New("the gate has no shared clients; write shared_clients in it and reload")
	errClientExists   = errors.New("there is a shared client of this name; rotate it, or remove it first")
	errNoSharedClient = errors.New("there is no shared client of this name")
	errReservedName   = errors.New("this is the name of the gate or of a client in its config; choose another")
	errClientName     = errors.New("a client's name has letters, digits, '.', '_' and '-', 64 at most")
	errTokenInUse     = errors.New("another shared client has this token; make a new one")
	errManyClients    = fmt.Errorf("there are %d shared clients already; remove some", maxSharedClients)
	errAccessEnded    = errors.New("the client's access has expired; remove it, and add it again")
	errChangedAtOnce  = errors.New("the client was changed from elsewhere at the same moment, and that change won; look, and make this one again if it is still needed")
	errSlowStorage    = fmt.Errorf("the storage took more than %v, and the client's lock does not last; try again", lockUse)
)

// outageError says that the storage did not do what a change needed.
type outageError struct {
	err    error
	saving bool // it may have been saved all the same
}

func (e *outageError) Error() string {
	if e.saving {
		return fmt.Sprintf("the storage: %v. Whether the change was saved is not certain; make it again when the storage answers", e.err)
	}
	return fmt.Sprintf("the storage: %v. Nothing was changed", e.err)
}

func (e *outageError) Unwrap() error { return e.err }

// add registers a client by the digest of its token. Its access ends after a
// time; zero is never. When it returns, the token is good here, and on other
// replicas by their next read.
func (f *fleet) add(ctx context.Context, client string, digest tokenDigest, expires time.Duration) error {
	return f.change(ctx, client, func(c *fleetConfig, known *sharedList, current *clientRecord, now time.Time) (*clientRecord, error) {
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
		record := &clientRecord{
			Version: recordVersion, Gate: f.gate, Client: client,
			Created: now, Tokens: []recordedToken{recordToken(digest)},
		}
		if expires > 0 {
			record.Expires = now.Add(expires)
		}
		return record, nil
	})
}

// rotate gives a client another token, by its digest. The former ones end after
// grace; with 0 at once, and the client's WebSockets with them.
func (f *fleet) rotate(ctx context.Context, client string, digest tokenDigest, grace time.Duration) error {
	return f.change(ctx, client, func(_ *fleetConfig, known *sharedList, current *clientRecord, now time.Time) (*clientRecord, error) {
		switch {
		case current == nil:
			return nil, errNoSharedClient
		case current.expired(now):
			return nil, errAccessEnded
		case known.hasElsewhere(digest, client):
			return nil, errTokenInUse
		}
		next := current.rotated(digest, grace, now)
		if len(next.Tokens) > maxAccepted {
			return nil, errManyTokens
		}
		return next, nil
	})
}

// remove takes a client's access away: its tokens and its WebSockets end here
// at once, and on other replicas by their next read. A record that cannot be
// understood is removed too.
func (f *fleet) remove(ctx context.Context, client string) error {
	return f.change(ctx, client, func(_ *fleetConfig, known *sharedList, current *clientRecord, _ time.Time) (*clientRecord, error) {
		// (a record that was deleted by other means may be known all the same)
		if current == nil && known.records[client] == nil {
			return nil, errNoSharedClient
		}
		return nil, nil
	})
}

// edit decides on a change: what the record becomes, nil for none.
type edit func(c *fleetConfig, known *sharedList, current *clientRecord, now time.Time) (*clientRecord, error)

// change changes one client, in the storage and then here.
func (f *fleet) change(ctx context.Context, client string, decide edit) error {
	if f == nil {
		return errNoFleet
	}
	if !isName(client) || client == "." || client == ".." {
		return errClientName
	}
	f.mu.Lock()
	c := f.current
	f.mu.Unlock()
	known, err := f.upToDate(ctx, c)
	if err != nil {
		return &outageError{err: err}
	}
	defer c.store.lock(ctx, client, c.logger)()
	next, err := c.store.change(ctx, client, func(current *clientRecord, now time.Time) (*clientRecord, error) {
		return decide(c, known, current, now)
	})
	f.adopt(c, client, next, err)
	return err
}

// upToDate reads the storage, and fails if it does not have what it had: a
// change then would begin a second set of clients.
func (f *fleet) upToDate(ctx context.Context, c *fleetConfig) (*sharedList, error) {
	f.mu.Lock()
	since, before := f.sinceLocked(time.Now()), f.changes
	f.mu.Unlock()
	r := c.store.readWithin(ctx, since)
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
	case r.err != nil:
		return nil, r.err
	case r.mark == "" && known.existed:
		return nil, errVanished
	}
	return known, nil
}

// change reads a client's record, has it edited and saves it. Errors of edit
// come back as they are, those of the storage as outageError.
func (s *sharedStore) change(ctx context.Context, client string, decide func(*clientRecord, time.Time) (*clientRecord, error)) (*clientRecord, error) {
	began := time.Now()
	now := began.UTC().Round(0) // by the wall clock, as other replicas have it
	ctx, cancel := context.WithTimeout(ctx, lockUse)
	defer cancel()
	current, err := s.load(ctx, client)
	var damage *damagedRecordError
	switch {
	case errors.As(err, &damage):
		current = new(clientRecord) // there is one; that is all one can say
	case err != nil:
		return nil, &outageError{err: err}
	}
	next, err := decide(current, now)
	if err == nil && next != nil && damage != nil {
		err = fmt.Errorf("%w; remove the client, and add it again", damage)
	}
	if err != nil {
		return nil, err
	}
	if time.Since(began) > lockUse {
		return nil, errSlowStorage
	}
	if err := s.save(ctx, client, next); err != nil {
		return nil, &outageError{err: err, saving: true}
	}
	saved, err := s.load(ctx, client)
	switch {
	case err != nil:
		return nil, &outageError{err: err, saving: true}
	case (saved == nil) != (next == nil) || saved != nil && saved.Tokens[0] != next.Tokens[0]:
		return nil, errChangedAtOnce
	}
	return saved, nil
}

// adopt makes a change hold here. If it is not certain what the storage has
// now, everything is read again.
func (f *fleet) adopt(c *fleetConfig, client string, record *clientRecord, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.known.Load()
	if c != f.current || known == nil {
		return
	}
	list := &sharedList{existed: known.existed, read: known.read, records: maps.Clone(known.records)}
	if list.records == nil {
		list.records = make(map[string]*clientRecord)
	}
	if err == nil {
		list.existed = true
		if record != nil {
			list.records[client] = record
		} else {
			delete(list.records, client)
		}
	}
	f.replaceLocked(list)
	f.nudge()
}

// hasElsewhere tells whether a token is another client's.
func (l *sharedList) hasElsewhere(digest tokenDigest, client string) bool {
	for name, record := range l.records {
		if name != client && record.has(digest) {
			return true
		}
	}
	return false
}
