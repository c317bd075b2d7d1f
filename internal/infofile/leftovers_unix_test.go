//go:build !windows

package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAKilledGatesTemporaryFileIsRemovedByTheNextOne(t *testing.T) {
	dir := safeDir(t)
	for range 3 {
		put(t, filepath.Join(dir, tempName()), `{"port":1,"pid":1,"auth_tok`, 0o600)
	}
	mustWrite(t, newFile(t, dir+"/gate.json", ""), sampleInfo())
	wantOnly(t, dir, "gate.json")
}

func TestOnlyLeftoversAreTakenForLeftovers(t *testing.T) {
	us := currentUID()
	for name, c := range map[string]struct {
		plant func(t *testing.T, path string)
	}{
		"one that is being written": {func(t *testing.T, path string) {
			file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
			must(t, err)
			t.Cleanup(func() { _ = file.Close() })
			lock(file)
		}},
		"a symbolic link to a file of ours": {func(t *testing.T, path string) {
			put(t, filepath.Join(filepath.Dir(path), "x"), "", 0o600)
			must(t, os.Symlink("x", path))
		}},
		"another name of a file of ours": {func(t *testing.T, path string) {
			put(t, filepath.Join(filepath.Dir(path), "x"), "", 0o600)
			must(t, os.Link(filepath.Join(filepath.Dir(path), "x"), path))
		}},
		"a directory":             {func(t *testing.T, path string) { mkdir(t, path, 0o700) }},
		"a FIFO":                  {func(t *testing.T, path string) { must(t, unix.Mkfifo(path, 0o600)) }},
		"a file that others read": {func(t *testing.T, path string) { put(t, path, "", 0o644) }},
		"a file that we may run":  {func(t *testing.T, path string) { put(t, path, "", 0o700) }},
		"a file of another user's": {func(t *testing.T, path string) {
			needRoot(t)
			put(t, path, "", 0o600)
			must(t, os.Chown(path, nobody, nobody))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			path := filepath.Join(dir, tempName())
			c.plant(t, path)
			before, err := os.Lstat(path)
			must(t, err)
			mustWrite(t, newFile(t, dir+"/gate.json", ""), sampleInfo())
			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("it is gone: %v", err)
			}
			wantMode(t, dir+"/gate.json", 0o600, us)
		})
	}
	for _, name := range []string{".responses-proxy-gate-notes.tmp", tempName() + "x", "x" + tempName()[1:], tempName()[:30], "gate.json.tmp"} {
		dir := safeDir(t)
		put(t, filepath.Join(dir, name), "", 0o600)
		mustWrite(t, newFile(t, dir+"/gate.json", ""), sampleInfo())
		if _, err := os.Lstat(filepath.Join(dir, name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheOwnersLeftoverIsRemovedToo(t *testing.T) {
	needRoot(t)
	dir := safeDir(t)
	left := filepath.Join(dir, tempName())
	put(t, left, "", 0o600)
	must(t, os.Chown(left, nobody, nobody))
	mustWrite(t, newFile(t, dir+"/gate.json", fmt.Sprint(nobody)), sampleInfo())
	wantOnly(t, dir, "gate.json")
}

// Gates that start side by side look for leftovers while the others write.
func TestGatesThatShareADirectoryDoNotTakeEachOthersFiles(t *testing.T) {
	dir := safeDir(t)
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			info := sampleInfo()
			for n := range 50 {
				info.PID = n + 1
				f, err := New(fmt.Sprintf("%s/gate%d.json", dir, i), "")
				if err == nil {
					err = f.Write(info)
				}
				if err != nil {
					t.Errorf("gate %d, launch %d: %v", i, n, err)
					return
				}
			}
		})
	}
	wait.Wait()
	entries, err := os.ReadDir(dir)
	must(t, err)
	for _, e := range entries {
		if isTempName(e.Name()) || e.Type()&fs.ModeType != 0 {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// A gate with thousands of clients may have all of their files in one directory.
func TestFilesOfOneGateLookForLeftoversOnceInADirectory(t *testing.T) {
	dir, other := safeDir(t), safeDir(t)
	sweep := new(Sweep)
	leave := func(dir string) (path string) {
		path = filepath.Join(dir, tempName())
		must(t, os.WriteFile(path, []byte("left"), 0o600))
		return path
	}
	write := func(dir, name string, sweep *Sweep) {
		if sweep == nil {
			sweep = new(Sweep)
		}
		f, err := sweep.New(filepath.Join(dir, name), "")
		must(t, err)
		must(t, f.Write(sampleInfo()))
	}
	gone := func(path string) bool {
		_, err := os.Lstat(path)
		return errors.Is(err, fs.ErrNotExist)
	}
	first := leave(dir)
	write(dir, "a.json", sweep)
	if !gone(first) {
		t.Error("the first file leaves a leftover")
	}
	second := leave(dir)
	write(dir, "b.json", sweep)
	if gone(second) {
		t.Error("the second file looks again")
	}
	elsewhere := leave(other)
	write(other, "c.json", sweep)
	if !gone(elsewhere) {
		t.Error("in another directory, nobody looks")
	}
	write(dir, "d.json", nil)
	if !gone(second) {
		t.Error("another gate does not look")
	}
}
