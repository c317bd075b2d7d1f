//go:build unix

package responsesproxygate

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
)

func newFIFO(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAKeyFileThatOthersCanUseIsRefused(t *testing.T) {
	for mode := range os.FileMode(0o1000) {
		path := keyFile(t, testKey, mode|0o400) // (root reads it in any case)
		_, fromPlaceholder := resolveSecret("upstream_bearer", "{file."+path+"}", true)
		_, _, watched := openFollowedSecret("upstream_bearer_file", path, nil, testReloads)
		mode |= 0o400
		for _, err := range []error{fromPlaceholder, watched} {
			// Others may do nothing but execute; the group may read.
			if safe := mode&0o026 == 0; safe != (err == nil) {
				t.Fatalf("mode %04o: %v", mode, err)
			} else if !safe && (leaks(err.Error()) || !strings.Contains(err.Error(), "chmod ")) {
				t.Errorf("mode %04o: the error does not say what to run: %v", mode, err)
			}
		}
	}
}

func TestAFIFOInPlaceOfAKeyFileBlocksNobody(t *testing.T) {
	fifo := newFIFO(t)
	if _, err := resolveSecret("upstream_bearer", "{file."+fifo+"}", true); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("as a placeholder: %v", err)
	}
	if _, _, err := openFollowedSecret("upstream_bearer_file", fifo, nil, testReloads); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("as upstream_bearer_file: %v", err)
	}
	w := watch(t, testKey)
	synctest.Test(t, func(t *testing.T) {
		w.start(t)
		if err := os.Rename(fifo, w.path); err != nil {
			t.Fatal(err)
		}
		w.looks(t, testKey, testKey, testKey)
	})
	w.logged(t, "has nothing that can be used")
}

func TestALoosenedKeyFileIsNoLongerRead(t *testing.T) {
	w := watch(t, testKey)
	synctest.Test(t, func(t *testing.T) {
		w.start(t)
		w.rename(t, "skLeaked", 0o644)
		w.looks(t, testKey, testKey, testKey)
		w.chmod(t, 0o600)
		w.looks(t, testKey, "skLeaked")
	})
	w.logged(t, "has nothing that can be used", "the new one is in use")
}

func TestAKeyFileIsFollowedThroughASymlink(t *testing.T) {
	w := watch(t, testKey) // how Kubernetes replaces secrets
	dir := t.TempDir()
	for name, content := range map[string]string{"old": testKey, "new": "skNew"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target string) {
		if err := os.Symlink(filepath.Join(dir, target), w.path+".next"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(w.path+".next", w.path); err != nil {
			t.Fatal(err)
		}
	}
	link("old")
	synctest.Test(t, func(t *testing.T) {
		w.start(t)
		link("new")
		w.looks(t, "skNew")
	})
	w.logged(t, "the new one is in use")
}
