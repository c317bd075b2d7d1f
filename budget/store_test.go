package budget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

var daily = Limits{Per: []Per{{Window: "1d", Tokens: 1000}}}

// records are the files of the default budget.
func records(t *testing.T, folder string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, "responses_budget", "default.budget", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// saved waits until everybody has saved and read.
func saved() {
	time.Sleep(saveInterval + readInterval)
	synctest.Wait()
}

func TestWhatIsKnownIsWrittenAgainWhenTheStorageIsEmptiedOrPutBack(t *testing.T) {
	for name, harm := range map[string]func(t *testing.T, folder string){
		"emptied": func(t *testing.T, folder string) {
			if err := os.RemoveAll(filepath.Join(folder, "responses_budget")); err != nil {
				t.Fatal(err)
			}
		},
		"put back": func(t *testing.T, folder string) {
			for _, record := range records(t, folder) {
				if err := os.WriteFile(record, []byte(`{"codex":{"requests":1,"input_tokens":1}}`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
		"damaged": func(t *testing.T, folder string) {
			for _, record := range records(t, folder) {
				if err := os.WriteFile(record, []byte(`{"codex":{"input_tokens":-5}}`), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				folder := t.TempDir()
				ended, lives := open(t, folder, daily), open(t, folder, daily)
				call(t, ended, "codex", "{}", costs(100, 200))
				call(t, lives, "codex", "{}", costs(10, 20))
				saved()
				stop(t, ended)
				harm(t, folder)
				if got := spentBy(t, lives, "codex", "1d").Tokens(); got != 330 {
					t.Errorf("right after it, %d are known", got)
				}
				saved()
				saved()
				if got := spentBy(t, lives, "codex", "1d").Tokens(); got != 330 {
					t.Errorf("later, %d are known", got)
				}
				if got := spentBy(t, open(t, folder, daily), "codex", "1d").Tokens(); got != 330 {
					t.Errorf("who starts then knows of %d", got)
				}
			})
		})
	}
}

func TestABudgetDoesNotStartWithoutKnowingWhatIsSpent(t *testing.T) {
	for name, c := range map[string]struct {
		harm func(folder string) error
		says string
	}{
		"a damaged record":  {func(record string) error { return os.WriteFile(record, []byte("{"), 0o600) }, "damaged"},
		"a negative number": {func(record string) error { return os.WriteFile(record, []byte(`{"a":{"requests":-1}}`), 0o600) }, "damaged"},
		"a number without end": {func(record string) error {
			return os.WriteFile(record, []byte(`{"a":{"requests":9000000000000000000}}`), 0o600)
		}, "damaged"},
		"a directory":                 {func(record string) error { return errors.Join(os.Remove(record), os.Mkdir(record, 0o700)) }, "it is not a file"},
		"a record of enormous length": {func(record string) error { return os.Truncate(record, maxValue+1) }, "it is larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				folder := t.TempDir()
				h := open(t, folder, daily)
				call(t, h, "codex", "{}", costs(1, 2))
				stop(t, h)
				if found := records(t, folder); len(found) != 1 {
					t.Fatalf("records: %v", found)
				} else if err := c.harm(found[0]); err != nil {
					t.Fatal(err)
				}
				_, err := openBook(&certmagic.FileStorage{Path: folder}, "default", zap.NewNop())
				if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "remove a record that is damaged") {
					t.Errorf("it says %v", err)
				}
			})
		})
	}
}

// failing is a storage whose calls fail or hang, beyond any context.
type failing struct {
	certmagic.FileStorage
	trouble atomic.Pointer[trouble]
}

type trouble struct {
	err   error
	hangs chan struct{}
}

func (f *failing) fail() error {
	now := f.trouble.Load()
	if now == nil {
		return nil
	}
	if now.hangs != nil {
		<-now.hangs
	}
	return now.err
}

// ends ends the trouble.
func (f *failing) ends() {
	if was := f.trouble.Swap(nil); was.hangs != nil {
		close(was.hangs)
	}
}

func (f *failing) Store(ctx context.Context, key string, value []byte) error {
	if err := f.fail(); err != nil {
		return err
	}
	return f.FileStorage.Store(ctx, key, value)
}

func (f *failing) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	if err := f.fail(); err != nil {
		return nil, err
	}
	return f.FileStorage.List(ctx, path, recursive)
}

func TestAnOutageOfTheStorageChangesNothingThatIsKnownAndIsLoggedOnce(t *testing.T) {
	for name, new := range map[string]func() *trouble{
		"it fails": func() *trouble { return &trouble{err: errors.New("connection refused")} },
		"it hangs": func() *trouble { return &trouble{hangs: make(chan struct{})} },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				storage := &failing{FileStorage: certmagic.FileStorage{Path: t.TempDir()}}
				core, logs := observer.New(zap.InfoLevel)
				h := open(t, storage.Path, daily)
				stop(t, h)
				book, err := openBook(storage, "default", zap.New(core))
				if err != nil {
					t.Fatal(err)
				}
				h.book = book
				book.join(h)
				t.Cleanup(func() { stop(t, h) })
				storage.trouble.Store(new())
				call(t, h, "codex", "{}", costs(900, 200))
				time.Sleep(time.Minute)
				synctest.Wait()
				began := time.Now()
				if w := call(t, h, "codex", "{}", costs(1, 1)); code(w) != "budget_exhausted" {
					t.Errorf("during the outage, it got %d", w.Code)
				}
				if time.Since(began) != 0 {
					t.Errorf("the request waited %v", time.Since(began))
				}
				storage.ends()
				saved()
				saved()
				if failed, well := logs.FilterMessageSnippet("does not take").Len(), logs.FilterMessageSnippet("again").FilterLevelExact(zap.InfoLevel).Len(); failed != 1 || well != 1 {
					t.Errorf("%d failures and %d recoveries were logged: %v", failed, well, logs.All())
				}
				if got := spentBy(t, open(t, storage.Path, daily), "codex", "1d").Tokens(); got != 1100 {
					t.Errorf("who starts then knows of %d", got)
				}
			})
		})
	}
}

func TestABudgetDoesNotStartDuringAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, now := range []*trouble{{err: errors.New("connection refused")}, {hangs: make(chan struct{})}} {
			storage := &failing{FileStorage: certmagic.FileStorage{Path: t.TempDir()}}
			storage.trouble.Store(now)
			_, err := openBook(storage, "default", zap.NewNop())
			if err == nil || !strings.Contains(err.Error(), "see that it can be reached") {
				t.Errorf("it says %v", err)
			}
			storage.ends()
		}
	})
}

func TestEndedWindowsAreDeletedAndPresentOnesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		h := open(t, folder, daily)
		call(t, h, "codex", "{}", costs(1, 2))
		saved()
		other := func(window string, ended time.Duration) string {
			w, err := parseWindow(window)
			if err != nil {
				t.Fatal(err)
			}
			return fmt.Sprintf("%s/%s.%d.OTHER.json", filepath.Dir(records(t, folder)[0]), window, w.start(time.Now().Add(-ended)).Unix())
		}
		goes := []string{other("1h", kept+2*time.Hour), other("1d", kept+25*time.Hour), other("month", 40*24*time.Hour)}
		stays := []string{records(t, folder)[0], other("1h", 0), other("1d", 24*time.Hour), other("month", 0), filepath.Join(filepath.Dir(goes[0]), "a.note")}
		for _, path := range append(goes, stays[1:]...) {
			if err := os.WriteFile(path, []byte(`{"codex":{"requests":1}}`), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		saved()
		for i, path := range append(goes, stays...) {
			if _, err := os.Stat(path); (err == nil) != (i >= len(goes)) {
				t.Errorf("%s: %v", path, err)
			}
		}
		if got := spentBy(t, h, "codex", "1d"); got.Calls() != 1 {
			t.Errorf("it counts %+v", got)
		}
	})
}

func TestWhatIsSpentWhileRequestsAreCutOffAtTheEndIsSaved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		h := open(t, folder, daily)
		release := make(chan struct{})
		go call(t, h, "codex", "{}", waits(release, costs(3, 4)))
		synctest.Wait()
		time.AfterFunc(time.Second, func() { close(release) })
		stop(t, h)
		if got := spentBy(t, open(t, folder, daily), "codex", "1d").Tokens(); got != 7 {
			t.Errorf("%d are known", got)
		}
	})
}

func TestAFailedReloadStillCountsWhatTheOldConfigLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1h", Requests: 1}}})
		next := &Handler{Name: "default", Limits: daily, logger: zap.NewNop(), book: h.book}
		if err := next.resolve(); err != nil {
			t.Fatal(err)
		}
		h.book.join(next)
		call(t, h, "codex", "{}", costs(1, 1)) // while both are there
		if got := spentBy(t, next, "codex", "1d").Calls(); got != 1 {
			t.Errorf("the new config knows of %d", got)
		}
		h.book.leave(next)
		if w := call(t, h, "codex", "{}", costs(1, 1)); code(w) != "budget_exhausted" {
			t.Errorf("in the old one, it got %d", w.Code)
		}
	})
}

func TestTwoBudgetsCountApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		first := open(t, folder, daily)
		call(t, first, "codex", "{}", costs(600, 600))
		stop(t, first)
		book, err := openBook(&certmagic.FileStorage{Path: folder}, "second", zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		second := &Handler{Name: "second", limits: first.limits, logger: zap.NewNop(), book: book}
		book.join(second)
		t.Cleanup(func() { stop(t, second) })
		if w := call(t, second, "codex", "{}", costs(1, 1)); w.Code != 200 {
			t.Errorf("the second budget says %s", code(w))
		}
	})
}

func TestWhatIsForgivenIsTakenOffAtEveryReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		first, second := open(t, folder, daily), open(t, folder, daily)
		call(t, first, "codex", "{}", costs(900, 200))
		saved()
		second.book.forgive("codex", time.Now())
		saved()
		for _, h := range []*Handler{first, second} {
			if got := spentBy(t, h, "codex", "1d"); got.Tokens() != 0 || got.Calls() != 0 || got.Input != 900 {
				t.Errorf("a replica counts %+v", got)
			}
		}
		if w := call(t, first, "codex", "{}", costs(999, 1)); w.Code != 200 {
			t.Errorf("it got %s", code(w))
		}
		if w := call(t, first, "codex", "{}", costs(1, 1)); code(w) != "budget_exhausted" {
			t.Errorf("then it got %d", w.Code)
		}
	})
}

func TestAnOperatorIsToldOfMostAndAllOfABudgetOnceInAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, logs := observer.New(zap.WarnLevel)
		h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1h", Tokens: 1000, Requests: 1000}}})
		h.logger = zap.New(core)
		for range 2 {
			for _, cost := range []int{700, 100, 100, 50, 100, 1} {
				call(t, h, "codex", asking(1), costs(cost, 0))
			}
			if most, all := logs.FilterMessageSnippet("most of").Len(), logs.FilterMessageSnippet("is spent").Len(); most != 1 || all != 1 {
				t.Errorf("%d and %d lines: %v", most, all, logs.All())
			}
			logs.TakeAll()
			time.Sleep(time.Hour)
		}
	})
}

func TestEveryRecordIsForItsOwnerAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		folder := t.TempDir()
		h := open(t, folder, daily)
		call(t, h, "codex", "{}", costs(1, 2))
		stop(t, h)
		for _, record := range records(t, folder) {
			info, err := os.Stat(record)
			if err != nil || runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 { // Windows has no such bits
				t.Errorf("%v %v", info, err)
			}
			content, err := os.ReadFile(record)
			var spent map[string]Spent
			if err := errors.Join(err, json.Unmarshal(content, &spent)); err != nil || spent["codex"].Tokens() != 3 {
				t.Errorf("%s: %v", content, err)
			}
		}
	})
}

func TestARecordIsReadAgainOnceItIsAnother(t *testing.T) {
	folder := t.TempDir()
	storage := &certmagic.FileStorage{Path: folder}
	day := window{"1d", day}
	record := (&book{name: "default", launch: "FORMER"}).key(day.slot(time.Now()))
	write := func(tokens int, age time.Duration) {
		t.Helper()
		path := storage.Filename(record)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, fmt.Appendf(nil, `{"ci":{"input_tokens":%d}}`, tokens), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, time.Time{}, time.Now().Truncate(time.Hour).Add(-age)); err != nil {
			t.Fatal(err)
		}
	}
	write(111, time.Hour)
	b, err := openBook(storage, "default", zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	close(b.stop) // the test reads in its place
	<-b.done
	read := func() int64 {
		t.Helper()
		if err := b.readAll(); err != nil {
			t.Fatal(err)
		}
		return b.spent(day.slot(time.Now()), "ci").Tokens()
	}
	// What has the time and the size of before is taken for it: so it is known
	// that nothing is read that need not be.
	write(222, time.Hour)
	if got := read(); got != 111 {
		t.Errorf("a record that looks as before is read: %d tokens", got)
	}
	write(333, 30*time.Minute)
	if got := read(); got != 333 {
		t.Errorf("a record with another time counts %d tokens, want 333", got)
	}
	write(4444, 30*time.Minute)
	if got := read(); got != 4444 {
		t.Errorf("a record with another size counts %d tokens, want 4444", got)
	}
	// On a file system that counts seconds, two states can have one time.
	write(5555, -2*time.Hour)
	if got := read(); got != 5555 {
		t.Errorf("a new record counts %d tokens, want 5555", got)
	}
	write(6666, -2*time.Hour)
	if got := read(); got != 6666 {
		t.Errorf("a record that is as new as it was counts %d tokens, want 6666", got)
	}
}
