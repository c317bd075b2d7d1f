// Package storage is Caddy's storage for what must be right: its calls may hang,
// and in a folder, other users may have put something there.
package storage

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/caddyserver/certmagic"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// Storage is one of Caddy's storages, with its calls that hang.
type Storage struct {
	certmagic.Storage
	Calls *Calls
}

// New makes a Storage of one of Caddy's.
func New(storage certmagic.Storage) *Storage { return &Storage{storage, new(Calls)} }

// Identity tells storages apart, by their place and not by their value: each
// reload makes a new one. One that does not describe itself is always another.
func (s *Storage) Identity() string {
	if described, ok := s.Storage.(fmt.Stringer); ok {
		return fmt.Sprintf("%T %s", s.Storage, described)
	}
	return fmt.Sprintf("%T %p", s.Storage, s.Storage)
}

// maxLists is how often a folder is listed before it counts as gone.
const maxLists = 10

// Names lists what is in a folder, as keys. File storage gives up when a file
// vanishes while it looks, as the one does that another process is about to put
// in place.
func (s *Storage) Names(ctx context.Context, folder string) (keys []string, err error) {
	for range maxLists {
		keys, err = Within(ctx, s.Calls, "list", func() ([]string, error) {
			return s.List(ctx, folder, false)
		}, nil)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return keys, err
}

// Get reads one key. In a folder, it looks first at what is there: a pipe would
// never end, and a file of any size would be read whole.
func (s *Storage) Get(ctx context.Context, key string, limit int64) ([]byte, error) {
	content, _, err := s.Read(ctx, key, limit)
	return content, err
}

// State is how a key's file was when it was read; zero if a later one cannot be
// told from it.
type State struct{ file fs.FileInfo }

// settled is how old a file must be for its time to tell it from a later one:
// some file systems count whole seconds.
const settled = 10 * time.Second

// is reports whether a file is as it was.
func (s State) is(file fs.FileInfo) bool {
	return s.file != nil && os.SameFile(s.file, file) &&
		s.file.ModTime().Equal(file.ModTime()) && s.file.Size() == file.Size() && s.file.Mode() == file.Mode()
}

// AsTheyWere are those keys that need not be read again, because their files are
// as they were. There are none in storages that are no folder.
func (s *Storage) AsTheyWere(ctx context.Context, were map[string]State) (map[string]bool, error) {
	return Within(ctx, s.Calls, "look", func() (map[string]bool, error) {
		same := make(map[string]bool)
		for key, was := range were {
			path, err := s.File(key)
			if err != nil || path == "" {
				continue
			}
			if file, err := os.Lstat(path); err == nil && was.is(file) {
				same[key] = true
			}
		}
		return same, nil
	}, nil)
}

// Read is Get, and tells the state of what it has read.
func (s *Storage) Read(ctx context.Context, key string, limit int64) ([]byte, State, error) {
	type value struct {
		content []byte
		state   State
	}
	got, err := Within(ctx, s.Calls, key, func() (got value, err error) {
		path, err := s.File(key)
		if err != nil {
			return got, err
		}
		if path != "" {
			if err := infofile.CheckPlace(path); err != nil {
				return got, err // another user could have written it
			}
			info, err := os.Stat(path)
			switch {
			case err != nil:
				return got, err
			case !info.Mode().IsRegular():
				return got, errors.New("it is not a file")
			case info.Size() > limit:
				return got, fmt.Errorf("it is larger than %d bytes", limit)
			case time.Since(info.ModTime()) > settled:
				got.state.file = info
			}
		}
		got.content, err = s.Load(ctx, key)
		return got, err
	}, nil)
	return got.content, got.state, err
}

// Put writes one key.
func (s *Storage) Put(ctx context.Context, key string, content []byte) error {
	_, err := Within(ctx, s.Calls, "store "+key, func() (struct{}, error) {
		return struct{}{}, s.Store(ctx, key, content)
	}, nil)
	return err
}

// Drop deletes one key.
func (s *Storage) Drop(ctx context.Context, key string) error {
	_, err := Within(ctx, s.Calls, "delete "+key, func() (struct{}, error) {
		return struct{}{}, s.Delete(ctx, key)
	}, nil)
	return err
}

// CheckWritable refuses a folder in which others could write a key, or this
// process could not. Storages that are no folder pass: they have no modes.
func (s *Storage) CheckWritable(key string) error {
	path, err := s.File(key)
	if err == nil && path != "" {
		_, err = infofile.CheckWritable(path)
	}
	return err
}

// File is where the storage has a key; "" if it does not keep keys in files.
func (s *Storage) File(key string) (string, error) {
	files, ok := s.Storage.(*certmagic.FileStorage)
	if !ok {
		return "", nil
	}
	return filepath.Abs(files.Filename(key))
}
