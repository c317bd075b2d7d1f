package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"go.uber.org/zap"
)

// sharedStore is the place of a gate's shared clients in Caddy's storage: one
// key for each client, so that no change can undo or tear another client's,
// whatever becomes of the process that makes it and of its lock; and a mark
// that every change replaces, so that looking for changes takes one small read.
type sharedStore struct {
	storage  certmagic.Storage
	identity string // of the storage: see identify
	gate     string
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
	mark    string // of the last change; "" if there never was one
	same    bool   // it is the mark that was known: there is nothing new
	records map[string]*clientRecord
	damaged map[string]error // clients whose records cannot be understood
}

// read reads what has changed since a mark; with no mark, everything. It has
// read everything or fails: part of the clients is not a list of clients.
func (s *sharedStore) read(ctx context.Context, since string) (*contents, error) {
	// The mark comes first. What changes while we read has a newer one, which
	// the next read finds.
	mark, err := s.mark(ctx)
	if err != nil || mark == "" || mark == since {
		return &contents{mark: mark, same: err == nil && mark != "" && mark == since}, err
	}
	keys, err := s.list(ctx)
	if err != nil {
		return nil, err
	}
	found := &contents{mark: mark, records: make(map[string]*clientRecord), damaged: make(map[string]error)}
	for _, key := range keys {
		// (A storage may have more here, such as the file that a process was
		// about to put in place when it was killed.)
		client, isRecord := strings.CutSuffix(path.Base(key), recordEnding)
		if !isRecord || !isName(client) {
			continue
		}
		record, err := s.load(ctx, client)
		var damage *damagedRecordError
		switch {
		case errors.As(err, &damage):
			found.damaged[client] = damage
		case err != nil:
			return nil, err
		case record != nil:
			found.records[client] = record
		}
		if len(found.records)+len(found.damaged) > maxSharedClients {
			return nil, fmt.Errorf("there are more than %d clients; remove some", maxSharedClients)
		}
	}
	return found, nil
}

// maxLists is how often the folder is listed before it counts as gone.
const maxLists = 10

// list lists the folder. File storage gives up when a file vanishes while it
// looks, as the one does that another replica is about to put in place.
func (s *sharedStore) list(ctx context.Context) (keys []string, err error) {
	for range maxLists {
		if keys, err = s.storage.List(ctx, s.folder(), false); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return keys, err
}

// readApart is read in a goroutine of its own: on a network file system, it can
// hang where no context reaches it.
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

// readWithin is read, and does not hang.
func (s *sharedStore) readWithin(ctx context.Context, since string) reading {
	ctx, cancel := context.WithTimeout(ctx, readPatience)
	defer cancel()
	select {
	case r := <-s.readApart(ctx, since):
		return r
	case <-ctx.Done():
		return reading{err: errHangs}
	}
}

// reading is what came of a read.
type reading struct {
	*contents
	err error
}

// readPatience is how long a read may take.
const readPatience = 10 * time.Second

var errHangs = fmt.Errorf("it has not answered within %v", readPatience)

// damagedRecordError says that there is a record that cannot be understood.
type damagedRecordError struct {
	client string
	err    error
}

func (e *damagedRecordError) Error() string {
	return fmt.Sprintf("record of client %s: %v", e.client, e.err)
}

func (e *damagedRecordError) Unwrap() error { return e.err }

// load reads one client's record; nil if there is none.
func (s *sharedStore) load(ctx context.Context, client string) (*clientRecord, error) {
	content, err := s.storage.Load(ctx, s.key(client))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	record, err := parseRecord(s.gate, client, content)
	if err != nil {
		return nil, &damagedRecordError{client, err}
	}
	return record, nil
}

// mark reads the mark of the last change; "" if there never was one.
func (s *sharedStore) mark(ctx context.Context) (string, error) {
	content, err := s.storage.Load(ctx, s.markKey())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", err
	case len(content) == 0 || len(content) > 2*tokenBytes || !isVisible(string(content), ""):
		return "", fmt.Errorf("%s holds something else than a gate wrote there; put it back, or remove it and make any change", s.markKey())
	}
	return string(content), nil
}

// save replaces a client's record, or deletes it if it is nil. Others then
// learn of it by the new mark.
func (s *sharedStore) save(ctx context.Context, client string, record *clientRecord) error {
	if record == nil {
		if err := s.storage.Delete(ctx, s.key(client)); err != nil {
			return err
		}
	} else {
		content, err := record.encode()
		if err != nil {
			return err
		}
		if err := s.storage.Store(ctx, s.key(client), content); err != nil {
			return err
		}
	}
	return s.storage.Store(ctx, s.markKey(), []byte(newToken().Reveal()))
}

const (
	// lockUse is how long a change may hold its lock: less than any storage
	// does for a process that was killed (files: 10 seconds; Redis: 5).
	lockUse = 3 * time.Second

	// lockPatience is how long a change waits for its lock.
	lockPatience = 2 * lockUse
)

// lock keeps changes of one client apart, each of which reads before it writes.
//
// A change goes on without it if it cannot be had: whoever holds it longer than
// lockUse was killed. For a lock in files may then never get stale: the process
// that had it before the killed one goes on refreshing the file if it finds it
// at the next turn. At worst, two changes of one client at the same moment end
// as one of the two, which the other finds out when it reads it back.
func (s *sharedStore) lock(ctx context.Context, client string, logger *zap.Logger) (unlock func()) {
	waiting, cancel := context.WithTimeout(ctx, lockPatience)
	defer cancel()
	if err := s.storage.Lock(waiting, s.key(client)); err != nil {
		if ctx.Err() == nil {
			logger.Warn("a shared client is changed without its lock", zap.String("gate", s.gate), zap.String("client", client), zap.Error(err))
		}
		return func() {}
	}
	return func() {
		releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), readPatience)
		defer cancel()
		if err := s.storage.Unlock(releasing, s.key(client)); err != nil {
			logger.Warn("a shared client's lock was not released", zap.String("gate", s.gate), zap.String("client", client), zap.Error(err))
		}
	}
}

// audit refuses a folder in which other users can put clients, as far as
// the storage is one.
func (s *sharedStore) audit() error {
	files, ok := s.storage.(*certmagic.FileStorage)
	if !ok {
		return nil
	}
	path, err := filepath.Abs(files.Filename(s.markKey()))
	if err != nil {
		return err
	}
	place, err := infofile.New(path, "")
	if err == nil {
		_, err = place.CheckParent()
	}
	if err != nil {
		return fmt.Errorf("shared_clients: the storage would let others add clients, or the gate not: %s", strings.TrimPrefix(err.Error(), "server_info "))
	}
	return nil
}
