package responsesproxygate

import (
	"context"
	"io/fs"
	"maps"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// memoryStorage is a storage that several replicas have, and that can fail.
type memoryStorage struct {
	mu      sync.Mutex
	values  map[string]string
	fails   error
	hangs   bool                        // beyond any context
	before  func(operation, key string) // runs before each operation, without the lock
	loaded  func(key string)            // runs before what was loaded is returned
	vanish  atomic.Int32                // lists that fail because a file is no longer there
	locked  map[string]bool
	entered map[string]int // how often each operation was begun
}

func newMemoryStorage() *memoryStorage {
	return &memoryStorage{values: make(map[string]string), locked: make(map[string]bool), entered: make(map[string]int)}
}

// enter begins an operation; leave ends it.
func (s *memoryStorage) enter(operation, key string) (leave func(), err error) {
	s.mu.Lock()
	before, hangs := s.before, s.hangs
	s.entered[operation]++
	s.mu.Unlock()
	if before != nil {
		before(operation, key)
	}
	if hangs {
		time.Sleep(time.Hour)
	}
	s.mu.Lock()
	return s.mu.Unlock, s.fails
}

func (s *memoryStorage) Store(_ context.Context, key string, value []byte) error {
	leave, err := s.enter("store", key)
	defer leave()
	if err == nil {
		s.values[key] = string(value)
	}
	return err
}

func (s *memoryStorage) Load(_ context.Context, key string) ([]byte, error) {
	leave, err := s.enter("load", key)
	value, ok := s.values[key]
	loaded := s.loaded
	leave()
	if err == nil && !ok {
		err = fs.ErrNotExist
	}
	if loaded != nil {
		loaded(key)
	}
	return []byte(value), err
}

func (s *memoryStorage) Delete(_ context.Context, key string) error {
	leave, err := s.enter("delete", key)
	defer leave()
	if err == nil {
		delete(s.values, key)
	}
	return err
}

func (s *memoryStorage) Exists(ctx context.Context, key string) bool {
	_, err := s.Load(ctx, key)
	return err == nil
}

func (s *memoryStorage) List(_ context.Context, folder string, _ bool) (keys []string, err error) {
	leave, err := s.enter("list", folder)
	defer leave()
	if s.vanish.Add(-1) >= 0 {
		return nil, fs.ErrNotExist
	}
	for key := range s.values {
		if path.Dir(key) == folder {
			keys = append(keys, key)
		}
	}
	return keys, err
}

func (s *memoryStorage) Stat(context.Context, string) (certmagic.KeyInfo, error) {
	return certmagic.KeyInfo{}, fs.ErrInvalid
}

func (s *memoryStorage) Lock(ctx context.Context, name string) error {
	for {
		leave, err := s.enter("lock", name)
		free := !s.locked[name]
		s.locked[name] = true
		leave()
		if err != nil || free {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (s *memoryStorage) Unlock(_ context.Context, name string) error {
	leave, err := s.enter("unlock", name)
	defer leave()
	s.locked[name] = false
	return err
}

// fail has every operation fail from now on; nil ends it.
func (s *memoryStorage) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fails = err
}

// hang has every operation that begins hang for an hour; false ends it.
func (s *memoryStorage) hang(hangs bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangs = hangs
}

// swap exchanges all that is stored.
func (s *memoryStorage) swap(values map[string]string) (former map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	former, s.values = s.values, values
	return former
}

// put writes a record as it is, and a new mark.
func (s *memoryStorage) put(client, content string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	place := sharedstore.New(s, sharingGate)
	s.values[place.Key(client)], s.values[place.MarkKey()] = content, secret.NewToken().Reveal()
}

// all is everything that is stored.
func (s *memoryStorage) all() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b strings.Builder
	for key, value := range maps.All(s.values) {
		b.WriteString(key + " " + value + "\n")
	}
	return b.String()
}

const sharingGate = "fleet"

// testReplica is one replica of a gate: all that concerns shared clients.
type testReplica struct {
	*roster
	tokens *tokenSet
	config *rosterConfig
	logs   *observer.ObservedLogs
}

// newReplica is a replica that has just started. It ends with the test.
func newReplica(t *testing.T, storage certmagic.Storage, configured ...string) *testReplica {
	t.Helper()
	core, logs := observer.New(zap.InfoLevel)
	r := &testReplica{roster: newRoster(sharingGate), logs: logs}
	r.config = &rosterConfig{
		store: sameStore(storage),
		every: defaultSyncEvery, reserved: map[string]bool{sharingGate: true}, logger: zap.New(core),
	}
	var callers []*configuredCaller
	for _, name := range configured {
		r.config.reserved[name] = true
		c := &configuredCaller{caller: &caller{id: callerID{gate: sharingGate, client: name}}, name: name}
		callers = append(callers, c)
	}
	r.tokens = newTokenSet(callers, r.roster)
	t.Cleanup(func() { _ = r.Destruct() })
	r.join(t.Context(), 1, r.config)
	return r
}

// adds adds a client, and returns its token.
func (r *testReplica) adds(t *testing.T, client string, expires time.Duration) (token string) {
	t.Helper()
	token = secret.NewToken().Reveal()
	if err := r.add(t.Context(), client, secret.DigestOf(token), expires); err != nil {
		t.Fatal(err)
	}
	return token
}

// wants fails the test unless a token is that of a client; "" is for nobody's.
func (r *testReplica) wants(t *testing.T, when, token, client string) {
	t.Helper()
	name := ""
	if c, ok := r.tokens.match(markOf(token)); ok {
		name = c.name
	}
	if name != client {
		t.Errorf("%s, the token is that of %q, want %q", when, name, client)
	}
}

// logged fails the test unless these errors and recoveries were logged, in this
// order, each by a part of its message.
func (r *testReplica) logged(t *testing.T, want ...string) {
	t.Helper()
	entries := r.logs.All()
	for i, entry := range entries {
		if i >= len(want) || !strings.Contains(entry.Message, want[i]) {
			t.Errorf("it logs %q %v", entry.Message, entry.ContextMap())
		}
	}
	if len(entries) < len(want) {
		t.Errorf("it logs %d messages, want %q", len(entries), want)
	}
}

// sameStore is one that replicas take for each other's.
func sameStore(storage certmagic.Storage) *sharedstore.Store {
	store := sharedstore.New(storage, sharingGate)
	store.Identity = "the same"
	return store
}
