//go:build !windows

package infofile

import (
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// theirs gives a path to another user.
func theirs(t *testing.T, path string) {
	t.Helper()
	needRoot(t)
	must(t, os.Lchown(path, nobody, nobody))
}

// unsafePlaces are the ways in which another user can put something else at
// dir/d/name, and what a refusal says.
var unsafePlaces = map[string]struct {
	make   func(t *testing.T, dir string)
	reason string
}{
	"another user's directory": {func(t *testing.T, dir string) { theirs(t, dir+"/d") }, "belongs to uid 65534"},
	"one above it":             {func(t *testing.T, dir string) { theirs(t, dir) }, "belongs to uid 65534"},
	"a directory of everybody": {func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/d", 0o777)) }, "/d (mode 0777)"},
	"one above that everybody has": {
		func(t *testing.T, dir string) { must(t, os.Chmod(dir, 0o777)) }, "run chmod go-w ",
	},
	"a directory of the group": {func(t *testing.T, dir string) { must(t, os.Chmod(dir+"/d", 0o775)) }, "mode 0775"},
	"another user's link in a directory that all share": {func(t *testing.T, dir string) {
		must(t, os.Chmod(dir, 0o777|os.ModeSticky), os.Rename(dir+"/d", dir+"/real"), os.Symlink("real", dir+"/d"))
		theirs(t, dir+"/d")
	}, "symbolic link"},
}

func TestASocketInAPlaceOfAnotherUsersIsRefused(t *testing.T) {
	for name, c := range unsafePlaces {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			mkdir(t, dir+"/d", 0o755)
			if err := CheckSocket(dir + "/d/a.sock"); err != nil {
				t.Fatalf("a place of our own: %v", err)
			}
			c.make(t, dir)
			err := CheckSocket(dir + "/d/a.sock")
			if err == nil || !strings.Contains(err.Error(), c.reason) || strings.Contains(err.Error(), "server_info") {
				t.Errorf("error %v, want %q", err, c.reason)
			}
		})
	}
}

func TestWhatIsNoSocketOfOurOwnIsNotReplacedByOne(t *testing.T) {
	dir := safeDir(t)
	mkdir(t, dir+"/shared", 0o777)
	must(t, os.Chmod(dir+"/shared", 0o777|os.ModeSticky))
	put(t, dir+"/file", "", 0o600)
	must(t, os.Symlink("file", dir+"/link"))
	plantSocket(t, dir+"/ours", "")
	for name, refused := range map[string]bool{"file": true, "link": true, "ours": false, "none": false, "shared/none": false} {
		if err := CheckSocket(filepath.Join(dir, name)); (err != nil) != refused {
			t.Errorf("%s: %v", name, err)
		}
	}
	plantSocket(t, dir+"/shared/theirs", "")
	theirs(t, dir+"/shared/theirs")
	if err := CheckSocket(dir + "/shared/theirs"); err == nil || !strings.Contains(err.Error(), "a socket of uid 65534") {
		t.Errorf("another user's socket: %v", err)
	}
}

func TestASecretThatAnotherUserCouldHavePutThereIsNotRead(t *testing.T) {
	for name, c := range unsafePlaces {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			mkdir(t, dir+"/d", 0o755)
			put(t, dir+"/d/key", "sk-ours", 0o600)
			readsSecret(t, dir+"/d/key", "sk-ours")
			c.make(t, dir)
			refusesSecret(t, dir+"/d/key", c.reason)
		})
	}
	t.Run("another user's file", func(t *testing.T) {
		dir := safeDir(t)
		put(t, dir+"/key", "sk-theirs", 0o600)
		theirs(t, dir+"/key")
		refusesSecret(t, dir+"/key", dir+"/key belongs to uid 65534")
	})
	t.Run("a file behind another user's directory", func(t *testing.T) {
		dir := safeDir(t)
		mkdir(t, dir+"/theirs", 0o755)
		put(t, dir+"/theirs/key", "sk-theirs", 0o600)
		must(t, os.Symlink(dir+"/theirs/key", dir+"/key"))
		theirs(t, dir+"/theirs")
		refusesSecret(t, dir+"/key", dir+"/theirs belongs to uid 65534")
	})
	t.Run("links in a circle", func(t *testing.T) {
		dir := safeDir(t)
		must(t, os.Symlink("b", dir+"/a"), os.Symlink("a", dir+"/b"))
		refusesSecret(t, dir+"/a", "too many symbolic links")
	})
}

// What the kubelet makes of a secret: the key is a link into ..data, which is a
// link to a directory, in a directory that everybody may write to.
func TestASecretOfKubernetesIsReadUnlessEveryUserCanReadIt(t *testing.T) {
	dir := safeDir(t)
	mkdir(t, dir+"/..2026_01_01", 0o755)
	put(t, dir+"/..2026_01_01/key", "sk-ours", 0o440)
	must(t, os.Symlink("..2026_01_01", dir+"/..data"), os.Symlink("..data/key", dir+"/key"),
		os.Chmod(dir, 0o777|os.ModeSticky|os.ModeSetgid))
	readsSecret(t, dir+"/key", "sk-ours")
	must(t, os.Chmod(dir+"/..2026_01_01/key", 0o644))
	refusesSecret(t, dir+"/key", "chmod o= "+dir+"/..2026_01_01/key")
	refusesSecret(t, dir+"/key", "defaultMode: 0440")
	refusesSecret(t, dir+"/key", "fsGroup")
}

func readsSecret(t *testing.T, path, want string) {
	t.Helper()
	file, _, err := OpenSecret(path)
	must(t, err)
	defer file.Close()
	if got, err := io.ReadAll(file); string(got) != want || err != nil {
		t.Errorf("it reads %q, %v", got, err)
	}
}

func refusesSecret(t *testing.T, path, reason string) {
	t.Helper()
	file, _, err := OpenSecret(path)
	if err == nil {
		_ = file.Close()
		t.Errorf("%s is read", path)
	} else if !strings.Contains(err.Error(), reason) {
		t.Errorf("error %q does not say %q", err, reason)
	}
}

func TestADirectoryIsNotMadeWhereAnotherUserLeadsIt(t *testing.T) {
	for name, c := range unsafePlaces {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			mkdir(t, dir+"/d", 0o755)
			root, err := OpenPrivateDir(dir + "/d/a/b")
			must(t, err)
			must(t, root.Close())
			wantMode(t, dir+"/d/a", os.ModeDir|0o700, currentUID())
			c.make(t, dir)
			for _, path := range []string{"/d/a/b", "/d/new/dumps"} {
				if root, err := OpenPrivateDir(dir + path); err == nil {
					_ = root.Close()
					t.Errorf("%s is opened", path)
				} else if !strings.Contains(err.Error(), c.reason) {
					t.Errorf("%s: %v, want %q", path, err, c.reason)
				}
			}
			if _, err := os.Stat(dir + "/d/new"); err == nil {
				t.Error("it was made")
			}
		})
	}
}

func TestAFileThatOthersCanWriteIsNoPlaceForARecord(t *testing.T) {
	dir := safeDir(t)
	path := dir + "/record.json"
	must(t, CheckPlace(path))
	put(t, path, "", 0o644)
	must(t, CheckPlace(path))
	for _, mode := range []os.FileMode{0o666, 0o620, 0o602} {
		must(t, os.Chmod(path, mode))
		if err := CheckPlace(path); err == nil || !strings.Contains(err.Error(), "chmod go-w "+path) {
			t.Errorf("mode %04o: %v", mode, err)
		}
	}
	must(t, os.Chmod(path, 0o600))
	theirs(t, path)
	if err := CheckPlace(path); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Errorf("another user's: %v", err)
	}
}

func TestOnlyOurOwnUserIsBelievedAtASocket(t *testing.T) {
	path := safeDir(t) + "/a.sock"
	listener, err := net.Listen("unix", path)
	must(t, err)
	defer listener.Close()
	conn, err := net.Dial("unix", path)
	must(t, err)
	defer conn.Close()
	must(t, CheckPeer(conn))
}
