package responsesproxygate

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

// sharedStore is the place of a gate's shared clients in Caddy's storage: one
// key for each client, so that no change can undo or tear another client's,
// whatever becomes of the process that makes it and of its lock; and a mark
// that every change replaces, so that looking for changes takes one small read.
type sharedStore struct {
	storage  *storage.Storage
	identity string // of the storage
	gate     string
}

func newSharedStore(of certmagic.Storage, gate string) *sharedStore {
	place := storage.New(of)
	return &sharedStore{storage: place, identity: place.Identity(), gate: gate}
}

// folder is where the clients are. The ending keeps gates with names such as
// ".." in their place.
func (s *sharedStore) folder() string { return "responses_proxy_gate/" + s.gate + ".clients" }

const recordEnding = ".json"

func (s *sharedStore) key(client string) string { return s.folder() + "/" + client + recordEnding }

// markKey is not a client's: it has no ending.
func (s *sharedStore) markKey() string { return s.folder() + "/changed" }

// contents is what a storage has of a gate's clients.
type contents struct {
	exists  bool   // there are clients, or there have been some
	mark    string // of the last change; "" if there is none that can be understood
	same    bool   // it is the mark that was known: there is nothing new
	records map[string]*clientRecord
	damaged map[string]error // clients whose records cannot be read or understood
	badMark error
}

// read reads what has changed since a mark; with no mark, everything. It knows
// of every client or fails: part of the clients is not a list of clients. What
// is wrong with one client's record, or with the mark, concerns nothing else.
func (s *sharedStore) read(ctx context.Context, since string) (*contents, error) {
	// The mark comes first. What changes while we read has a newer one, which
	// the next read finds.
	mark, err := s.mark(ctx)
	if err == nil && (mark == "" || mark == since) {
		return &contents{exists: mark != "", mark: mark, same: mark != ""}, nil
	}
	found := &contents{mark: mark, badMark: err, records: make(map[string]*clientRecord), damaged: make(map[string]error)}
	keys, err := s.storage.Names(ctx, s.folder())
	if err != nil {
		return nil, err
	}
	if err := s.loadAll(ctx, keys, found); err != nil {
		return nil, err
	}
	// (without a mark, an empty folder says nothing: it may be another)
	found.exists = found.badMark == nil || len(found.records)+len(found.damaged) > 0
	return found, nil
}

// maxLoads is how many records are read at a time: over a network, reading one
// after another takes longer than readPatience if there are thousands.
const maxLoads = 16

// loadAll loads the records.
func (s *sharedStore) loadAll(ctx context.Context, keys []string, found *contents) error {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, maxLoads)
	)
	for _, key := range keys {
		// (A storage may have more here, such as the file that a process was
		// about to put in place when it was killed.)
		client, isRecord := strings.CutSuffix(path.Base(key), recordEnding)
		if !isRecord || !adminapi.IsName(client) {
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			record, err := s.load(ctx, client)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				found.damaged[client] = err
			} else if record != nil {
				found.records[client] = record
			}
		})
	}
	group.Wait()
	return ctx.Err()
}

// damage is what is wrong with single records, and with the mark.
func (c *contents) damage() error {
	const told = 3
	errs := []error{c.badMark}
	for i, client := range slices.Sorted(maps.Keys(c.damaged)) {
		if i == told {
			errs = append(errs, fmt.Errorf("and %d more", len(c.damaged)-told))
			break
		}
		errs = append(errs, c.damaged[client])
	}
	return errors.Join(errs...)
}

// readApart is read in a goroutine of its own.
func (s *sharedStore) readApart(ctx context.Context, since string) <-chan reading {
	done := make(chan reading, 1)
	go func() {
		ctx, cancel := context.WithTimeout(ctx, readPatience)
		defer cancel()
		found, err := s.read(ctx, since)
		done <- reading{found, err}
	}()
	return done
}

// reading is what came of a read.
type reading struct {
	*contents
	err error
}

const (
	// readPatience is how long a read may take.
	readPatience = 10 * time.Second

	// keyPatience is how long the storage may take for one key.
	keyPatience = 2 * time.Second
)

// damagedRecordError says that there is a record that cannot be read, or not
// understood.
type damagedRecordError struct {
	client     string
	err        error
	unreadable bool
}

func (e *damagedRecordError) Error() string {
	return fmt.Sprintf("record of client %s: %v", e.client, e.err)
}

func (e *damagedRecordError) Unwrap() error { return e.err }

// load reads one client's record; nil if there is none. Its errors are all
// damagedRecordErrors.
func (s *sharedStore) load(ctx context.Context, client string) (*clientRecord, error) {
	content, err := s.get(ctx, s.key(client), maxRecordSize)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, &damagedRecordError{client, err, true}
	}
	record, err := parseRecord(s.gate, client, content)
	if err != nil {
		return nil, &damagedRecordError{client, err, false}
	}
	return record, nil
}

// maxMarkSize is twice a mark's.
const maxMarkSize = 2 * secret.TokenBytes

// mark reads the mark of the last change; "" if there never was one.
func (s *sharedStore) mark(ctx context.Context) (string, error) {
	content, err := s.get(ctx, s.markKey(), maxMarkSize)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err == nil && (len(content) == 0 || len(content) > maxMarkSize || !isVisible(string(content), "")):
		err = errors.New("it holds something else than a gate wrote there")
	}
	if err != nil {
		return "", fmt.Errorf("%s: %w; the next change puts it right, and until then all is read each time", s.markKey(), err)
	}
	return string(content), nil
}

// get reads one key.
func (s *sharedStore) get(ctx context.Context, key string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, keyPatience)
	defer cancel()
	return s.storage.Get(ctx, key, limit)
}

// save replaces a client's record, or deletes it if it is nil. Others then
// learn of it by the new mark.
func (s *sharedStore) save(ctx context.Context, client string, record *clientRecord) (mark string, err error) {
	if record == nil {
		err = s.storage.Drop(ctx, s.key(client))
	} else {
		var content []byte
		if content, err = record.encode(); err == nil {
			err = s.storage.Put(ctx, s.key(client), content)
		}
	}
	if err != nil {
		return "", err
	}
	mark = secret.NewToken().Reveal()
	if s.storage.Put(ctx, s.markKey(), []byte(mark)) == nil {
		return mark, nil
	}
	// A folder in its place, say.
	if err := s.storage.Drop(ctx, s.markKey()); err != nil {
		return "", err
	}
	return mark, s.storage.Put(ctx, s.markKey(), []byte(mark))
}

// audit refuses a folder in which other users can put clients, as far as
// the storage is one.
func (s *sharedStore) audit() error {
	if err := s.storage.CheckWritable(s.markKey()); err != nil {
		return fmt.Errorf("shared_clients: the storage would let others add clients, or the gate not: %w", err)
	}
	return nil
}
