package responsesproxygate

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
)

// Who rotates a client has read it before it was removed, and writes it after.
func TestARemovedClientIsNotBroughtBackByARotationAtTheSameTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a, b := newReplica(t, storage), newReplica(t, storage)
		a.adds(t, "leaked", 0)
		time.Sleep(defaultSyncEvery + moment)
		removed := make(chan error, 1)
		var once atomic.Bool
		storage.mu.Lock()
		storage.before = func(operation, key string) {
			if operation == "store" && strings.HasSuffix(key, "/leaked.json") && once.CompareAndSwap(false, true) {
				go func() { removed <- b.remove(t.Context(), "leaked") }()
				time.Sleep(sharedstore.LockTimeout + time.Second) // by then, b goes on without the lock
			}
		}
		storage.mu.Unlock()
		_ = a.rotate(t.Context(), "leaked", secret.DigestOf("rotated"), 0)
		if err := <-removed; err != nil {
			t.Fatal(err)
		}
		newReplica(t, storage).wants(t, "after the removal was acknowledged", "rotated", "")
		time.Sleep(time.Minute)
		a.wants(t, "after the removal was acknowledged", "rotated", "")
		b.wants(t, "after the removal was acknowledged", "rotated", "")
	})
}

func TestAClientWithoutItsLockIsOnlyRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a := newReplica(t, storage)
		token := a.adds(t, "ci", 0)
		for _, client := range []string{"ci", "new"} {
			if err := storage.Lock(t.Context(), a.config.store.Key(client)); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.rotate(t.Context(), "ci", secret.DigestOf("x"), 0); !errors.Is(err, errLockHeld) {
			t.Errorf("a rotation: %v", err)
		}
		if err := a.add(t.Context(), "new", secret.DigestOf("new"), 0); !errors.Is(err, errLockHeld) {
			t.Errorf("an addition: %v", err)
		}
		a.wants(t, "after that", token, "ci")
		if err := a.remove(t.Context(), "ci"); err != nil {
			t.Errorf("a removal: %v", err)
		}
		a.wants(t, "after it was removed", token, "")
	})
}

func TestAChangeThatIsGivenUpWhileItWaitsForTheLockIsNotMade(t *testing.T) {
	for name, change := range map[string]func(*testReplica, context.Context) error{
		"add":    func(a *testReplica, ctx context.Context) error { return a.add(ctx, "new", secret.DigestOf("new"), 0) },
		"rotate": func(a *testReplica, ctx context.Context) error { return a.rotate(ctx, "ci", secret.DigestOf("x"), 0) },
		"remove": func(a *testReplica, ctx context.Context) error { return a.remove(ctx, "ci") },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newMemoryStorage()
				a := newReplica(t, storage)
				token := a.adds(t, "ci", 0)
				time.Sleep(defaultSyncEvery + moment)
				for _, client := range []string{"ci", "new"} {
					if err := storage.Lock(t.Context(), a.config.store.Key(client)); err != nil {
						t.Fatal(err)
					}
				}
				before := storage.all()
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(time.Second, cancel)
				if err := change(a, ctx); !errors.Is(err, context.Canceled) {
					t.Errorf("it ends with %v", err)
				}
				time.Sleep(time.Minute)
				if after := storage.all(); len(after) != len(before) || !strings.Contains(after, a.config.store.Key("ci")) {
					t.Errorf("the storage had\n%s\nand has\n%s", before, after)
				}
				a.wants(t, "after that", token, "ci")
				a.wants(t, "after that", "new", "")
			})
		})
	}
}

func TestARecordThatHangsIsNotAskedForAgainUntilItAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a := newReplica(t, storage)
		good, bad := a.adds(t, "good", 0), a.adds(t, "bad", 0)
		time.Sleep(defaultSyncEvery + moment)
		var asked, hung atomic.Int64
		answers := make(chan struct{})
		storage.mu.Lock()
		storage.before = func(operation, key string) {
			if operation == "load" && strings.HasSuffix(key, "/bad.json") {
				asked.Add(1)
				hung.Add(1)
				<-answers
				hung.Add(-1)
			}
		}
		storage.mu.Unlock()
		fresh := newReplica(t, storage)
		fresh.wants(t, "on a replica that starts", good, "good")
		for range 20 {
			time.Sleep(fullReadEvery)
			if err := fresh.rotate(t.Context(), "bad", secret.DigestOf("x"), 0); err == nil {
				t.Error("a client is rotated whose record hangs")
			}
		}
		a.wants(t, "where it is known", bad, "bad")
		if asked.Load() != 2 || hung.Load() != 2 { // one for each replica
			t.Errorf("it is asked for %d times, and %d hang", asked.Load(), hung.Load())
		}
		close(answers)
		time.Sleep(fullReadEvery)
		fresh.wants(t, "once it answers", bad, "bad")
	})
}
