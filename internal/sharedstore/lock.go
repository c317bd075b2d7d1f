package sharedstore

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/storage"
	"go.uber.org/zap"
)

const (
	// LockUse is how long a change may hold its lock: less than any storage
	// does for a process that was killed (files: 10 seconds; Redis: 5).
	LockUse = 3 * time.Second

	// LockTimeout is how long a change waits for its lock.
	LockTimeout = 2 * LockUse
)

// Lock keeps changes of one client apart, each of which reads before it writes.
// It fails if the lock cannot be had, or if nobody waits for the change any
// more.
func (s *Store) Lock(ctx context.Context, client string, logger *zap.Logger) (unlock func(), err error) {
	key := s.Key(client)
	unlock = func() {
		releasing, cancel := context.WithTimeout(context.WithoutCancel(ctx), keyTimeout)
		defer cancel()
		_, err := storage.Within(releasing, s.storage.Calls, "unlock "+key, func() (struct{}, error) {
			return struct{}{}, s.storage.Unlock(releasing, key)
		}, nil)
		if err != nil {
			logger.Warn("a shared client's lock was not released", zap.String("gate", s.gate), zap.String("client", client), zap.Error(err))
		}
	}
	holder := s.lockHolder(key)
	err = s.lockWithin(ctx, key, LockTimeout, unlock)
	if err != nil && ctx.Err() == nil && holder != "" && s.lockHolder(key) == holder {
		// One and the same has had it all the while: it was killed. A lock in
		// files may then never get stale: the process that had it before the
		// killed one goes on refreshing the file if it finds it at the next
		// turn (certmagic v0.25.6).
		logger.Warn("the lock of a shared client was left by a process that is gone; it is removed", zap.String("gate", s.gate), zap.String("client", client))
		if err = os.Remove(s.lockFile(key)); err == nil {
			err = s.lockWithin(ctx, key, LockUse, unlock)
		}
	}
	if gone := ctx.Err(); gone != nil {
		if err == nil {
			unlock()
		}
		return nil, gone
	}
	return unlock, err
}

// lockWithin waits so long for a lock.
func (s *Store) lockWithin(ctx context.Context, key string, timeout time.Duration, unlock func()) error {
	waiting, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// (the storage may take a moment to notice that the wait is over)
	hanging, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout+keyTimeout)
	defer cancel()
	_, err := storage.Within(hanging, s.storage.Calls, "lock "+key, func() (struct{}, error) {
		return struct{}{}, s.storage.Lock(waiting, key)
	}, unlock)
	return err
}

// lockFile is where a folder has a lock; "" for other storages.
func (s *Store) lockFile(key string) string {
	if files, ok := s.storage.Storage.(*certmagic.FileStorage); ok {
		return filepath.Join(files.Path, "locks", certmagic.StorageKeys.Safe(key)+".lock")
	}
	return ""
}

// lockHolder tells those apart that have had a lock in a folder, by the moment
// at which they got it; "" for nobody, or if that is not known.
func (s *Store) lockHolder(key string) string {
	path := s.lockFile(key)
	if path == "" {
		return ""
	}
	for range lockLooks {
		var holder struct {
			Created string `json:"created"`
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return ""
		}
		if err == nil && json.Unmarshal(content, &holder) == nil {
			return holder.Created
		}
		time.Sleep(lockLookAgain) // it is being refreshed: emptied, and written again
	}
	return ""
}

// lockLooks and lockLookAgain are for a file that is refreshed just then.
const (
	lockLooks     = 5
	lockLookAgain = 50 * time.Millisecond
)
