//go:build unix

package responsesproxygate

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"golang.org/x/sys/unix"
)

// spoil puts something into the folder of a gate's clients that no gate writes.
var spoil = map[string]func(path string) error{
	"a folder":                  func(path string) error { return os.Mkdir(path, 0o700) },
	"a folder with files":       func(path string) error { return os.MkdirAll(filepath.Join(path, "x"), 0o700) },
	"a named pipe":              func(path string) error { return unix.Mkfifo(path, 0o600) },
	"what cannot be read":       func(path string) error { return os.Symlink(filepath.Base(path), path) },
	"nothing":                   func(path string) error { return os.WriteFile(path, nil, 0o600) },
	"one and a half gigabytes":  func(path string) error { return errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 3<<29)) },
	"another program's content": func(path string) error { return os.WriteFile(path, []byte("\x00\x01"), 0o600) },
}

func TestOneBadEntryOfTheFolderIsAnOutageOfItsClientAndOfNoOther(t *testing.T) {
	for name, put := range spoil {
		for _, entry := range []string{"bad.json", "changed"} {
			t.Run(entry+" is "+name, func(t *testing.T) {
				storage := &certmagic.FileStorage{Path: t.TempDir()}
				a := newReplica(t, storage)
				good := a.adds(t, "good", 0)
				path := storage.Filename(filepath.Dir(a.config.store.MarkKey()) + "/" + entry)
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
				if err := put(path); err != nil {
					t.Fatal(err)
				}
				a.wants(t, "where it is known", good, "good")
				fresh := newReplica(t, storage)
				fresh.wants(t, "on a replica that starts", good, "good")
				storageNow, clients := fresh.status(time.Now())
				if len(clients) != 1 || !strings.Contains(storageNow.Error, entry[:3]) {
					t.Errorf("it says %q of the storage, and knows %d clients", storageNow.Error, len(clients))
				}
				for _, replica := range []*testReplica{a, fresh} {
					if err := replica.rotate(t.Context(), "good", secret.DigestOf("next"), 0); err != nil {
						t.Errorf("rotating a client: %v", err)
					}
					replica.wants(t, "after it was rotated", "next", "good")
				}
				a.adds(t, "new", 0)
				if entry == "bad.json" {
					if err := a.remove(t.Context(), "bad"); err != nil {
						t.Errorf("removing the bad client: %v", err)
					}
					a.adds(t, "bad", 0)
				}
				if err := fresh.remove(t.Context(), "good"); err != nil {
					t.Errorf("removing a good client: %v", err)
				}
				again := newReplica(t, storage)
				again.wants(t, "after it was removed", "next", "")
				if storage, _ := again.status(time.Now()); storage.Error != "" {
					t.Errorf("after all that, it says %q", storage.Error)
				}
			})
		}
	}
}
