package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
)

func TestAChangeThatCannotBeMadeIsRefusedWithTheReason(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newReplica(t, newMemoryStorage())
		token := a.adds(t, "ci", 0)
		fresh := secret.DigestOf("fresh")
		for name, attempt := range map[string]struct {
			change func(context.Context) error
			want   error
		}{
			"adding a name twice":        {func(ctx context.Context) error { return a.add(ctx, "ci", fresh, 0) }, errClientExists},
			"adding a name with a slash": {func(ctx context.Context) error { return a.add(ctx, "../ci", fresh, 0) }, adminapi.ErrClientName},
			"adding no name":             {func(ctx context.Context) error { return a.add(ctx, "", fresh, 0) }, adminapi.ErrClientName},
			"adding another's token":     {func(ctx context.Context) error { return a.add(ctx, "other", secret.DigestOf(token), 0) }, errTokenInUse},
			"rotating to another's token": {func(ctx context.Context) error {
				a.adds(t, "b", 0)
				return a.rotate(ctx, "b", secret.DigestOf(token), 0)
			}, errTokenInUse},
			"rotating one that is not": {func(ctx context.Context) error { return a.rotate(ctx, "none", fresh, 0) }, errNoSharedClient},
			"removing one that is not": {func(ctx context.Context) error { return a.remove(ctx, "none") }, errNoSharedClient},
			"without shared clients":   {func(ctx context.Context) error { return (*roster)(nil).add(ctx, "ci", fresh, 0) }, errNoRoster},
		} {
			if err := attempt.change(t.Context()); !errors.Is(err, attempt.want) {
				t.Errorf("%s: %v, want %v", name, err, attempt.want)
			}
		}
		a.wants(t, "after all that", token, "ci")
	})
}

func TestRotatingWithAGraceAgainAndAgainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newReplica(t, newMemoryStorage())
		a.adds(t, "ci", 0)
		var err error
		for rotations := 1; err == nil; rotations++ {
			if rotations > maxAccepted {
				t.Fatalf("%d rotations", rotations)
			}
			err = a.rotate(t.Context(), "ci", secret.DigestOf(secret.NewToken().Reveal()), time.Hour)
		}
		if !errors.Is(err, errManyTokens) {
			t.Error(err)
		}
	})
}

// (In a bubble, because reading so many takes a busy machine longer than a
// replica waits for its storage.)
func TestMoreClientsThanMayBeAddedLockNobodyOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a := newReplica(t, storage)
		a.adds(t, "first", 0)
		for i := range maxSharedClients + 14 {
			name := fmt.Sprint("client", i)
			record := &sharedstore.Record{
				Version: sharedstore.Version, Gate: sharingGate, Client: name, Created: a.clients()[0].began,
				Tokens: []sharedstore.Token{sharedstore.NewToken(secret.DigestOf("token of " + name))},
			}
			content, err := record.Encode()
			if err != nil {
				t.Fatal(err)
			}
			storage.put(name, string(content))
		}
		b := newReplica(t, storage)
		for _, i := range []int{0, 1000, maxSharedClients + 13} {
			b.wants(t, "on a replica that starts", fmt.Sprint("token of client", i), fmt.Sprint("client", i))
		}
		if err := b.add(t.Context(), "new", secret.DigestOf("new"), 0); !errors.Is(err, errManyClients) {
			t.Errorf("adding one more: %v", err)
		}
		if err := b.rotate(t.Context(), "client7", secret.DigestOf("next"), 0); err != nil {
			t.Error(err)
		}
		b.wants(t, "after it was rotated", "next", "client7")
		if err := b.remove(t.Context(), "client7"); err != nil {
			t.Error(err)
		}
		b.wants(t, "after it was removed", "next", "")
	})
}

func TestChangesOfManyReplicasAtOnceAreAllKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		var group sync.WaitGroup
		tokens := make([]map[string]string, 4)
		for i := range tokens {
			replica, added := newReplica(t, storage), make(map[string]string)
			tokens[i] = added
			group.Go(func() {
				for j := range 20 {
					name := string(rune('a'+i)) + string(rune('a'+j))
					added[replica.adds(t, name, 0)] = name
				}
			})
		}
		group.Wait()
		fresh := newReplica(t, storage)
		for _, added := range tokens {
			for token, name := range added {
				fresh.wants(t, "on a replica that starts", token, name)
			}
		}
	})
}

func TestTwoChangesOfOneClientAtOnceDoNotBothSucceed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a, b := newReplica(t, storage), newReplica(t, storage)
		var group sync.WaitGroup
		errs := make([]error, 2)
		for i, replica := range []*testReplica{a, b} {
			group.Go(func() { errs[i] = replica.add(t.Context(), "ci", secret.DigestOf(secret.NewToken().Reveal()), 0) })
		}
		group.Wait()
		if (errs[0] == nil) == (errs[1] == nil) {
			t.Errorf("adding one client on two replicas: %v, %v", errs[0], errs[1])
		}
		// A lock is no guarantee: here, another process writes all the same.
		token := a.adds(t, "other", 0)
		storage.mu.Lock()
		former := storage.values[a.config.store.Key("other")]
		storage.before = func(operation, key string) {
			if operation == "store" && strings.HasSuffix(key, "/changed") {
				storage.put("other", former)
			}
		}
		storage.mu.Unlock()
		if err := a.rotate(t.Context(), "other", secret.DigestOf("lost"), 0); !errors.Is(err, sharedstore.ErrChangedAtOnce) {
			t.Errorf("a rotation that was overwritten: %v", err)
		}
		time.Sleep(defaultSyncEvery)
		a.wants(t, "after it was overwritten", "lost", "")
		a.wants(t, "after it was overwritten", token, "other")
	})
}

// A process that had the lock before one that was killed goes on refreshing
// the file (certmagic v0.25.6), so it never gets stale.
func TestALockInFilesThatNeverGetsStaleDoesNotStopChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := &certmagic.FileStorage{Path: t.TempDir()}
		a := newReplica(t, storage)
		token := a.adds(t, "leaked", 0)
		time.Sleep(time.Minute)
		if err := storage.Lock(t.Context(), a.config.store.Key("leaked")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		began := time.Now()
		if err := a.remove(t.Context(), "leaked"); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took > 2*sharedstore.LockTimeout {
			t.Errorf("it takes %v", took)
		}
		a.wants(t, "after it was removed", token, "")
		time.Sleep(time.Minute) // (certmagic looks every five seconds whether the file is still there)
	})
}
