package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/follow"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// watching is a key's file, the credential that follows it, and what that
// logs. Time is the bubble's: it advances while a test sleeps, and at once.
type watching struct {
	path       string
	credential *credential
	logs       *observer.ObservedLogs
	end        context.CancelFunc // of the config
}

// watch makes the file; start opens it, and belongs into the bubble.
func watch(t *testing.T, content string) *watching {
	t.Helper()
	return &watching{path: keyFile(t, content, 0o600)}
}

func (w *watching) start(t *testing.T) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	file, key, err := openFollowedSecret("upstream_bearer_file", w.path, zap.New(core), testReloads)
	if err != nil {
		t.Fatal(err)
	}
	w.credential, w.logs = newCredential("api-key", 1), logs
	w.credential.file = file
	w.credential.use(key)
	h := &Handler{credential: w.credential}
	ctx, end := context.WithCancel(t.Context()) // which ends with the bubble
	h.followSecrets(ctx)
	w.end = end
	time.Sleep(follow.Interval / 2) // what the test does is between two looks
}

// looks lets the interval pass, again and again, and says what the key must be then.
func (w *watching) looks(t *testing.T, want ...string) {
	t.Helper()
	for i, key := range want {
		time.Sleep(follow.Interval)
		if got := keyOf(w.credential); got != key {
			t.Errorf("look %d: the key is %q, want %q", i+1, got, key)
		}
	}
}

// logged says what must have been logged, entry by entry.
func (w *watching) logged(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for _, entry := range w.logs.All() {
		line := entry.Message + fmt.Sprint(entry.ContextMap())
		got = append(got, line)
		if leaks(line) || strings.Contains(line, "skNew") {
			t.Errorf("a key is in the log: %s", line)
		}
	}
	if !slices.EqualFunc(got, want, strings.Contains) {
		t.Errorf("logged %q, want %q", got, want)
	}
}

// write writes the file in place, a second of its own time after the last write.
func (w *watching) write(t *testing.T, content string) {
	t.Helper()
	info, err := os.Stat(w.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if info != nil {
		later := info.ModTime().Add(time.Second)
		if err := os.Chtimes(w.path, later, later); err != nil {
			t.Fatal(err)
		}
	}
}

func (w *watching) rename(t *testing.T, content string, mode fs.FileMode) {
	t.Helper()
	if err := os.Rename(keyFile(t, content, mode), w.path); err != nil {
		t.Fatal(err)
	}
}

func (w *watching) chmod(t *testing.T, mode fs.FileMode) {
	t.Helper()
	if err := os.Chmod(w.path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestAKeyFileIsFollowed(t *testing.T) {
	for name, c := range map[string]struct {
		steps  func(t *testing.T, w *watching)
		logged []string
	}{
		"nothing happens to it": {func(t *testing.T, w *watching) {
			w.looks(t, testKey, testKey, testKey)
		}, nil},
		"a new file is renamed into its place": {func(t *testing.T, w *watching) {
			w.rename(t, "skNew\n", 0o600)
			w.looks(t, "skNew", "skNew")
		}, []string{"the new one is in use"}},
		"it is renamed over twice": {func(t *testing.T, w *watching) {
			w.rename(t, "skNew1", 0o600)
			w.looks(t, "skNew1")
			w.rename(t, "skNew2", 0o600)
			w.looks(t, "skNew2")
		}, []string{"the new one is in use", "the new one is in use"}},
		"it is written in place, and used once it stays the same": {func(t *testing.T, w *watching) {
			w.write(t, "skNew")
			w.looks(t, testKey, "skNew", "skNew")
		}, []string{"the new one is in use"}},
		"a slow writer's unfinished key is never used": {func(t *testing.T, w *watching) {
			for n := range 5 {
				w.write(t, "skNew"[:n+1])
				w.looks(t, testKey)
			}
			w.looks(t, "skNew")
		}, []string{"the new one is in use"}},
		"a slow writer's key of the same length is seen": {func(t *testing.T, w *watching) {
			other := strings.Repeat("x", len(testKey))
			w.write(t, other)
			w.looks(t, testKey, other)
		}, []string{"the new one is in use"}},
		"it is written in place as it was": {func(t *testing.T, w *watching) {
			w.write(t, testKey)
			w.looks(t, testKey, testKey)
		}, []string{"the new one is in use"}},
		"it changes for an instant only": {func(t *testing.T, w *watching) {
			before, err := os.Stat(w.path)
			if err != nil {
				t.Fatal(err)
			}
			w.write(t, "skNew")
			w.looks(t, testKey)
			w.write(t, testKey)
			if err := os.Chtimes(w.path, before.ModTime(), before.ModTime()); err != nil {
				t.Fatal(err)
			}
			w.looks(t, testKey)
			w.write(t, "skNew")
			w.looks(t, testKey, "skNew")
		}, []string{"the new one is in use"}},
		"it is emptied, and filled again": {func(t *testing.T, w *watching) {
			w.write(t, "")
			w.looks(t, testKey, testKey, testKey, testKey)
			w.write(t, "skNew")
			w.looks(t, testKey, "skNew")
		}, []string{"has nothing that can be used", "the new one is in use"}},
		"it gets a malformed key": {func(t *testing.T, w *watching) {
			w.rename(t, "Bearer "+testKey, 0o600)
			w.looks(t, testKey, testKey, testKey)
		}, []string{"has nothing that can be used"}},
		"it gets one malformed key after another": {func(t *testing.T, w *watching) {
			w.rename(t, "a b", 0o600)
			w.looks(t, testKey, testKey)
			w.rename(t, "c d", 0o600)
			w.looks(t, testKey, testKey)
		}, []string{"has nothing that can be used", "has nothing that can be used"}},
		"it gets a key that is too long": {func(t *testing.T, w *watching) {
			w.rename(t, strings.Repeat("k", secret.MaxLength+1), 0o600)
			w.looks(t, testKey, testKey)
		}, []string{"has nothing that can be used"}},
		"it gets a key of the greatest length, and a newline": {func(t *testing.T, w *watching) {
			w.rename(t, strings.Repeat("k", secret.MaxLength)+"\r\n", 0o600)
			w.looks(t, strings.Repeat("k", secret.MaxLength))
		}, []string{"the new one is in use"}},
		"it is removed, and does not come back": {func(t *testing.T, w *watching) {
			w.remove(t)
			w.looks(t, testKey, testKey, testKey)
		}, []string{"cannot read"}},
		"it is removed, and comes back": {func(t *testing.T, w *watching) {
			w.remove(t)
			w.looks(t, testKey, testKey)
			w.write(t, "skNew")
			w.looks(t, testKey, "skNew")
		}, []string{"cannot read", "the new one is in use"}},
		"it is removed twice": {func(t *testing.T, w *watching) {
			w.remove(t)
			w.looks(t, testKey, testKey)
			w.write(t, "skNew")
			w.looks(t, testKey, "skNew")
			w.remove(t)
			w.looks(t, "skNew", "skNew")
		}, []string{"cannot read", "the new one is in use", "cannot read"}},
		"a directory takes its place": {func(t *testing.T, w *watching) {
			w.remove(t)
			if err := os.Mkdir(w.path, 0o700); err != nil {
				t.Fatal(err)
			}
			w.looks(t, testKey, testKey, testKey)
		}, []string{"has nothing that can be used"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t, testKey)
			synctest.Test(t, func(t *testing.T) {
				w.start(t)
				c.steps(t, w)
			})
			w.logged(t, c.logged...)
		})
	}
}

func (w *watching) remove(t *testing.T) {
	t.Helper()
	if err := os.Remove(w.path); err != nil {
		t.Fatal(err)
	}
}

// Nothing looks at the file but its follower: what is in use is there at once.
func TestAKeyFileIsTakenUpWithoutARequest(t *testing.T) {
	for name, change := range map[string]func(*watching){
		"renamed":          func(w *watching) { w.rename(t, "skNew", 0o600) },
		"written in place": func(w *watching) { w.write(t, "skNew") },
	} {
		t.Run(name, func(t *testing.T) {
			w := watch(t, testKey)
			synctest.Test(t, func(t *testing.T) {
				w.start(t)
				time.Sleep(time.Hour)
				change(w)
				time.Sleep(2 * time.Second) // as the docs promise
				if got := keyOf(w.credential); got != "skNew" {
					t.Errorf("the first request gets %q", got)
				}
			})
			w.logged(t, "the new one is in use")
		})
	}
}

func TestABrokenKeyFileIsReportedWithoutARequest(t *testing.T) {
	w := watch(t, testKey)
	synctest.Test(t, func(t *testing.T) {
		w.start(t)
		w.rename(t, "two words", 0o600)
		time.Sleep(2 * time.Second)
		w.logged(t, "has nothing that can be used")
		w.end()
	})
}

// What an old config would make of the file is of no use any more.
func TestAKeyFileIsFollowedNoLongerThanItsConfigLasts(t *testing.T) {
	w := watch(t, testKey)
	synctest.Test(t, func(t *testing.T) {
		w.start(t)
		w.end()
		w.rename(t, "skNew", 0o600)
		w.looks(t, testKey, testKey, testKey)
	})
	w.logged(t)
}

func TestAKeyFileMustBeRightAtTheStart(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct{ path, says string }{
		"missing":   {filepath.Join(dir, "missing"), "missing"},
		"directory": {dir, "not a regular file"},
		"empty":     {keyFile(t, "\n", 0o600), "empty"},
		"malformed": {keyFile(t, "Bearer "+testKey, 0o600), "bare key"},
		"too long":  {keyFile(t, testKey+strings.Repeat("k", secret.MaxLength), 0o600), "longer than"},
	} {
		file, key, err := openFollowedSecret("upstream_bearer_file", c.path, zap.NewNop(), testReloads)
		if err == nil || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), c.path) || leaks(err.Error()) {
			t.Errorf("%s: the error is %v; it should say %q and the path", name, err, c.says)
		}
		if file != nil || key != (secret.Secret{}) {
			t.Errorf("%s: a file is watched all the same", name)
		}
	}
}

// A look at the file may take for ever on a network file system.
func TestAFileSystemThatHangsHoldsNobody(t *testing.T) {
	w := watch(t, "skOld\n")
	synctest.Test(t, func(t *testing.T) {
		w.start(t)
		hung, released := make(chan struct{}), make(chan struct{})
		w.credential.file.follow(t.Context(), func(secret.Secret) error { // as a read that does not come back
			close(hung)
			<-released
			return nil
		})
		w.rename(t, "skNew", 0o600)
		<-hung
		w.looks(t, "skNew") // of the other follower
		close(released)
		w.end()
	})
}
