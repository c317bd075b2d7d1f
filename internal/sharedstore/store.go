// Package sharedstore keeps the clients that gates share in Caddy's storage,
// and tells what it has of them. It believes no storage to answer.
package sharedstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/storage"
)

// Store is the place of a gate's shared clients in Caddy's storage: one
// key for each client, so that no change can undo or tear another client's,
// whatever becomes of the process that makes it and of its lock; and a mark
// that every change replaces, so that looking for changes takes one small read.
type Store struct {
	// Identity tells storages apart, by their place and not by their value.
	Identity string

	storage *storage.Storage
	gate    string
}

// New is the place of a gate in a storage.
func New(of certmagic.Storage, gate string) *Store {
	place := storage.New(of)
	return &Store{Identity: place.Identity(), storage: place, gate: gate}
}

// Gate is the gate's name.
func (s *Store) Gate() string { return s.gate }

// Continue has s know what hangs in former, which has the same storage.
func (s *Store) Continue(former *Store) { s.storage.Calls = former.storage.Calls }

// folder is where the clients are. The ending keeps gates with names such as
// ".." in their place.
func (s *Store) folder() string { return "responses_proxy_gate/" + s.gate + ".clients" }

// Ending is that of the key of every client's record.
const Ending = ".json"

// Key is that of a client's record.
func (s *Store) Key(client string) string { return s.folder() + "/" + client + Ending }

// MarkKey is not a client's: it has no ending.
func (s *Store) MarkKey() string { return s.folder() + "/changed" }

// Contents is what a storage has of a gate's clients.
type Contents struct {
	Exists  bool   // there are clients, or there have been some
	Mark    string // of the last change; "" if there is none that can be understood
	Same    bool   // it is the mark that was known: there is nothing new
	Records map[string]*Record
	Damaged map[string]error // clients whose records cannot be read or understood
	BadMark error
}

// Read reads what has changed since a mark; with no mark, everything. It knows
// of every client or fails: part of the clients is not a list of clients. What
// is wrong with one client's record, or with the mark, concerns nothing else.
func (s *Store) Read(ctx context.Context, since string) (*Contents, error) {
	// The mark comes first. A change while we read makes a newer one, which the
	// next read finds.
	mark, err := s.Mark(ctx)
	if err == nil && (mark == "" || mark == since) {
		return &Contents{Exists: mark != "", Mark: mark, Same: mark != ""}, nil
	}
	found := &Contents{Mark: mark, BadMark: err, Records: make(map[string]*Record), Damaged: make(map[string]error)}
	keys, err := s.storage.Names(ctx, s.folder())
	if err != nil {
		return nil, err
	}
	if err := s.loadAll(ctx, keys, found); err != nil {
		return nil, err
	}
	// (without a mark, an empty folder says nothing: it may be another)
	found.Exists = found.BadMark == nil || len(found.Records)+len(found.Damaged) > 0
	return found, nil
}

// maxLoads is how many records are read at a time: over a network, reading one
// after another takes longer than ReadTimeout if there are thousands.
const maxLoads = 16

// loadAll loads the records.
func (s *Store) loadAll(ctx context.Context, keys []string, found *Contents) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, maxLoads)
	)
	for _, key := range keys {
		// (A storage may have more here, such as the file that a process was
		// about to put in place when it was killed.)
		client, isRecord := strings.CutSuffix(path.Base(key), Ending)
		if !isRecord || !adminapi.IsName(client) {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			record, err := s.Load(ctx, client)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				found.Damaged[client] = err
			} else if record != nil {
				found.Records[client] = record
			}
		})
	}
	group.Wait()
	return ctx.Err()
}

// Damage is what is wrong with single records, and with the mark.
func (c *Contents) Damage() error {
	const told = 3
	errs := []error{c.BadMark}
	for i, client := range slices.Sorted(maps.Keys(c.Damaged)) {
		if i == told {
			errs = append(errs, fmt.Errorf("and %d more", len(c.Damaged)-told))
			break
		}
		errs = append(errs, c.Damaged[client])
	}
	return errors.Join(errs...)
}

// ReadApart is read in a goroutine of its own.
func (s *Store) ReadApart(ctx context.Context, since string) <-chan Reading {
	done := make(chan Reading, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, ReadTimeout)
		defer cancel()
		found, err := s.Read(ctx, since)
		done <- Reading{found, err}
	}()
	return done
}

// Reading is what came of a read.
type Reading struct {
	*Contents
	Err error
}

const (
	// ReadTimeout is how long a read may take.
	ReadTimeout = 10 * time.Second

	// keyTimeout is how long the storage may take for one key.
	keyTimeout = 2 * time.Second
)

// DamagedError says that there is a record that cannot be read, or not
// understood.
type DamagedError struct {
	client     string
	Err        error
	Unreadable bool
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("record of client %s: %v", e.client, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// Load reads one client's record; nil if there is none. Its errors are all
// DamagedErrors.
func (s *Store) Load(ctx context.Context, client string) (*Record, error) {
	content, err := s.get(ctx, s.Key(client), MaxRecordSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &DamagedError{client, err, true}
	}
	record, err := parseRecord(s.gate, client, content)
	if err != nil {
		return nil, &DamagedError{client, err, false}
	}
	return record, nil
}

// maxMarkSize is twice a mark's.
const maxMarkSize = 2 * secret.TokenBytes

// Mark reads the mark of the last change; "" if there never was one.
func (s *Store) Mark(ctx context.Context) (string, error) {
	content, err := s.get(ctx, s.MarkKey(), maxMarkSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err == nil && (len(content) == 0 || len(content) > maxMarkSize || strings.ContainsFunc(string(content), isOther)):
		err = errors.New("it holds something else than a gate wrote there")
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w; the next change puts it right, and until then all is read each time", s.MarkKey(), err)
	}
	return string(content), nil
}

// isOther reports whether r is in no mark: a mark is visible ASCII.
func isOther(r rune) bool { return r < 0x21 || r > 0x7e }

// get reads one key.
func (s *Store) get(ctx context.Context, key string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	return s.storage.Get(ctx, key, limit)
}

// save replaces a client's record, or deletes it if it is nil. Others then
// learn of it by the new mark.
func (s *Store) save(ctx context.Context, client string, record *Record) (mark string, err error) {
	if record == nil {
		err = s.storage.Drop(ctx, s.Key(client))
	} else {
		var content []byte
		if content, err = record.Encode(); err == nil {
			err = s.storage.Put(ctx, s.Key(client), content)
		}
	}
	if err != nil {
		return "", err
	}
	mark = secret.NewToken().Reveal()
	if s.storage.Put(ctx, s.MarkKey(), []byte(mark)) == nil {
		return mark, nil
	}
	// A folder in its place, say.
	if err := s.storage.Drop(ctx, s.MarkKey()); err != nil {
		return "", err
	}
	return mark, s.storage.Put(ctx, s.MarkKey(), []byte(mark))
}

// CheckFolder refuses a folder in which other users can put clients, as far as
// the storage is one.
func (s *Store) CheckFolder() error {
	if err := s.storage.CheckWritable(s.MarkKey()); err != nil {
		return fmt.Errorf("shared_clients: the storage would let others add clients, or the gate not: %w", err)
	}
	return nil
}
