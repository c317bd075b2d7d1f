package responsesproxygate

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
)

// moment is short, beside all that is timed here.
const moment = time.Millisecond

func TestAChangeOfSharedClientsHoldsEverywhereInTheStatedTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a, b := newReplica(t, storage), newReplica(t, storage)
		synctest.Wait()
		token := a.adds(t, "ci", 0)
		a.wants(t, "when it was added here", token, "ci")
		b.wants(t, "before the next read", token, "")
		time.Sleep(defaultSyncEvery + moment)
		b.wants(t, "when it was added elsewhere", token, "ci")

		onA, done := a.clients()[0].sessions.begin(t.Context())
		defer done()
		onB, done := b.clients()[0].sessions.begin(t.Context())
		defer done()
		if err := b.remove(t.Context(), "ci"); err != nil {
			t.Fatal(err)
		}
		b.wants(t, "when it was removed here", token, "")
		if onB.Err() == nil {
			t.Error("a WebSocket here outlives its client")
		}
		time.Sleep(defaultSyncEvery + moment)
		a.wants(t, "when it was removed elsewhere", token, "")
		if onA.Err() == nil {
			t.Error("a WebSocket elsewhere outlives its client")
		}
		again := a.adds(t, "ci", 0)
		a.wants(t, "after it was added again", token, "")
		a.wants(t, "after it was added again", again, "ci")
		a.logged(t)
		b.logged(t)
	})
}

// A file storage gives up listing when a file vanishes meanwhile, as the one
// does that another replica is about to put in place.
func TestAFileThatVanishesWhileClientsAreListedIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a, b := newReplica(t, storage), newReplica(t, storage)
		synctest.Wait() // both have listed once, and found nobody
		token := a.adds(t, "ci", 0)
		storage.vanish.Store(3)
		time.Sleep(defaultSyncEvery + moment)
		b.wants(t, "while files come and go", token, "ci")
		b.logged(t)
		if storage.vanish.Load() > 0 {
			t.Error("nothing was listed")
		}
	})
}

func TestLookingForChangesTakesOneReadWhateverTheNumberOfClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a := newReplica(t, storage)
		for i := range 20 {
			a.adds(t, fmt.Sprint("client", i), 0)
		}
		time.Sleep(2*defaultSyncEvery + moment)
		storage.mu.Lock()
		clear(storage.entered)
		storage.mu.Unlock()
		time.Sleep(4 * defaultSyncEvery)
		storage.mu.Lock()
		defer storage.mu.Unlock()
		if storage.entered["load"] != 4 || storage.entered["list"] != 0 {
			t.Errorf("four intervals take %v", storage.entered)
		}
	})
}

func TestAFormerSharedTokenIsGoodForItsGraceAndNotAMomentLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a := newReplica(t, storage)
		first := a.adds(t, "ci", 0)
		session, done := a.clients()[0].sessions.begin(t.Context())
		defer done()
		second, third := secret.NewToken().Reveal(), secret.NewToken().Reveal()
		if err := a.rotate(t.Context(), "ci", secret.DigestOf(second), time.Minute); err != nil {
			t.Fatal(err)
		}
		a.wants(t, "in its grace", first, "ci")
		a.wants(t, "once it is there", second, "ci")
		time.Sleep(time.Minute - moment)
		a.wants(t, "at the end of its grace", first, "ci")
		time.Sleep(moment)
		a.wants(t, "after its grace", first, "")
		if session.Err() != nil {
			t.Error("a rotation with grace ends a WebSocket")
		}
		if err := a.rotate(t.Context(), "ci", secret.DigestOf(third), 0); err != nil {
			t.Fatal(err)
		}
		a.wants(t, "without grace", second, "")
		a.wants(t, "without grace", third, "ci")
		if session.Err() == nil {
			t.Error("a rotation without grace leaves a WebSocket open")
		}
	})
}

func TestASharedClientsAccessEndsOnTimeAlsoInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a := newReplica(t, storage)
		token := a.adds(t, "contractor", time.Hour)
		session, done := a.clients()[0].sessions.begin(t.Context())
		defer done()
		storage.fail(errors.New("connection refused"))
		time.Sleep(time.Hour - moment)
		a.wants(t, "just before the end", token, "contractor")
		if session.Err() != nil {
			t.Error("its WebSocket has ended too early")
		}
		time.Sleep(moment)
		synctest.Wait()
		a.wants(t, "at the end", token, "")
		if session.Err() == nil {
			t.Error("its WebSocket goes on")
		}
		storage.fail(nil)
		if err := a.rotate(t.Context(), "contractor", secret.DigestOf(secret.NewToken().Reveal()), 0); !errors.Is(err, errAccessEnded) {
			t.Errorf("a rotation after the end: %v", err)
		}
	})
}

func TestAnOutageKeepsThoseWhoAreKnownAndLetsNobodyElseIn(t *testing.T) {
	for name, outage := range map[string]func(*memoryStorage) (recover func()){
		"the storage fails": func(s *memoryStorage) func() {
			s.fail(errors.New("connection refused"))
			return func() { s.fail(nil) }
		},
		"the storage is empty, as an unmounted folder": func(s *memoryStorage) func() {
			former := s.swap(make(map[string]string))
			return func() { s.swap(former) }
		},
		"the storage never answers": func(s *memoryStorage) func() {
			s.hang(true)
			return func() { s.hang(false) }
		},
		"the mark is torn": func(s *memoryStorage) func() {
			former := s.swap(map[string]string{"responses_proxy_gate/" + sharingGate + ".clients/changed": ""})
			return func() { s.swap(former) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newMemoryStorage()
				a := newReplica(t, storage)
				known := a.adds(t, "known", 0)
				// (the read that the change has brought about)
				synctest.Wait()
				recover := outage(storage)
				time.Sleep(30 * time.Second)
				a.wants(t, "in the outage", known, "known")
				a.wants(t, "in the outage", secret.NewToken().Reveal(), "")
				var failed *sharedstore.OutageError
				if err := a.add(t.Context(), "new", secret.DigestOf("new"), 0); !errors.As(err, &failed) || failed.Saving {
					t.Errorf("adding a client: %v", err)
				}
				if err := a.remove(t.Context(), "known"); !errors.As(err, &failed) || failed.Saving {
					t.Errorf("removing a client: %v", err)
				}
				fresh := newReplica(t, storage)
				fresh.wants(t, "on a replica that starts in the outage", known, "")
				a.logged(t, "those that are known pass as before")
				recover()
				time.Sleep(2 * time.Hour) // (what hangs does so for an hour)
				a.logged(t, "those that are known pass as before", "can be read again")
				fresh.wants(t, "after the outage", known, "known")
				a.adds(t, "next", 0)
			})
		})
	}
}

func TestADamagedRecordIsAnOutageOfItsClientAndOfNoOther(t *testing.T) {
	good := func(client string) string {
		record := &sharedstore.Record{
			Version: sharedstore.Version, Gate: sharingGate, Client: client, Created: time.Now(),
			Tokens: []sharedstore.Token{sharedstore.NewToken(secret.DigestOf("changed"))},
		}
		content, err := record.Encode()
		if err != nil {
			t.Fatal(err)
		}
		return string(content)
	}
	record := good("known")
	for name, damaged := range map[string]string{
		"empty":                       "",
		"torn":                        record[:len(record)/2],
		"of a newer version":          strings.Replace(record, `"version":1`, `"version":2`, 1),
		"of no version":               strings.Replace(record, `"version":1,`, "", 1),
		"with a limit that is new":    strings.Replace(record, `"client"`, `"routes":[],"client"`, 1),
		"of another client":           good("other"),
		"of another gate":             strings.Replace(record, sharingGate, "gate", 1),
		"without tokens":              record[:strings.Index(record, "[")] + "[]}",
		"with a token in the clear":   strings.Replace(record, `"sha256":"`, `"sha256":"`+strings.Repeat("A", 43), 1),
		"twice":                       record + record,
		"larger than a record can be": record + strings.Repeat(" ", sharedstore.MaxRecordSize),
		"a list":                      "[" + record + "]",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newMemoryStorage()
				a, b := newReplica(t, storage), newReplica(t, storage)
				known := a.adds(t, "known", 0)
				time.Sleep(defaultSyncEvery + moment)
				storage.put("known", damaged)
				other := b.adds(t, "other", 0)
				time.Sleep(3 * defaultSyncEvery)
				a.wants(t, "with a damaged record", known, "known")
				a.wants(t, "with a damaged record", "changed", "")
				a.wants(t, "beside a damaged record", other, "other")
				a.logged(t, "those that are known pass as before")
				newReplica(t, storage).wants(t, "on a replica that starts", known, "")
				if err := a.add(t.Context(), "known", secret.DigestOf("x"), 0); !errors.Is(err, errClientExists) {
					t.Errorf("adding the client again: %v", err)
				}
				if err := a.rotate(t.Context(), "known", secret.DigestOf("x"), 0); err == nil || !strings.Contains(err.Error(), "remove the client") {
					t.Errorf("rotating the client: %v", err)
				}
				if err := a.remove(t.Context(), "known"); err != nil {
					t.Fatal(err)
				}
				a.wants(t, "after it was removed", known, "")
				time.Sleep(defaultSyncEvery + moment)
				a.logged(t, "those that are known pass as before", "can be read again")
				b.wants(t, "after it was removed elsewhere", known, "")
			})
		})
	}
}

func TestASharedClientCannotTakeTheNameOfAConfiguredOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a, b := newReplica(t, storage), newReplica(t, storage, "codex")
		for _, name := range []string{"codex", sharingGate} {
			if err := b.add(t.Context(), name, secret.DigestOf("x"), 0); !errors.Is(err, errReservedName) {
				t.Errorf("adding %s: %v", name, err)
			}
		}
		token := a.adds(t, "codex", 0)
		time.Sleep(3 * defaultSyncEvery)
		a.wants(t, "where it is not configured", token, "codex")
		b.wants(t, "where it is configured", token, "")
		b.logged(t, "comes first")
		// Who can write to the storage still cannot speak for a configured client.
		b.tokens.callers[0].ring.set([]acceptedToken{{digest: secret.DigestOf("configured")}})
		if err := a.add(t.Context(), "thief", secret.DigestOf("configured"), 0); err != nil {
			t.Fatal(err)
		}
		time.Sleep(defaultSyncEvery + moment)
		b.wants(t, "with a digest in both", "configured", "codex")
	})
}

func TestARemovedClientDoesNotComeBackWithWhatWasReadBefore(t *testing.T) {
	for name, read := range map[string]func(t *testing.T, a *testReplica){
		"for news": func(*testing.T, *testReplica) { time.Sleep(defaultSyncEvery) },
		"for another change": func(t *testing.T, a *testReplica) {
			go func() { _ = a.add(t.Context(), "other", secret.DigestOf("other"), 0) }()
			synctest.Wait()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := newMemoryStorage()
				a := newReplica(t, storage)
				token := a.adds(t, "leaked", 0)
				time.Sleep(fullReadEvery + 2*defaultSyncEvery + moment)
				// Everything is read, and that stalls when it has the record.
				removed := make(chan struct{})
				stall := sync.OnceFunc(func() { <-removed })
				storage.mu.Lock()
				storage.values[a.config.store.MarkKey()] = secret.NewToken().Reveal()
				storage.loaded = func(key string) {
					if strings.HasSuffix(key, sharedstore.Ending) {
						stall()
					}
				}
				storage.mu.Unlock()
				read(t, a)
				storage.mu.Lock()
				storage.loaded = nil
				storage.mu.Unlock()
				if err := a.remove(t.Context(), "leaked"); err != nil {
					t.Fatal(err)
				}
				a.wants(t, "after it was removed", token, "")
				close(removed)
				synctest.Wait()
				for range 100 {
					a.wants(t, "after a read from before", token, "")
					time.Sleep(defaultSyncEvery / 10)
				}
			})
		})
	}
}

func TestTheStorageHoldsNoToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		storage := newMemoryStorage()
		a := newReplica(t, storage)
		first, second := a.adds(t, "ci", time.Hour), secret.NewToken().Reveal()
		if err := a.rotate(t.Context(), "ci", secret.DigestOf(second), time.Minute); err != nil {
			t.Fatal(err)
		}
		stored := storage.all()
		if strings.Contains(stored, first) || strings.Contains(stored, second) {
			t.Errorf("a token is in the storage:\n%s", stored)
		}
		if !strings.Contains(stored, `"client":"ci"`) || strings.Count(stored, "sha256") != 2 {
			t.Errorf("the storage has\n%s", stored)
		}
	})
}
