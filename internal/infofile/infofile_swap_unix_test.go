//go:build !windows

package infofile

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"golang.org/x/sys/unix"
)

// A directory that is replaced in the one moment that matters, without luck.
func TestDirectoryReplacedAfterTheCheckIsNotUsed(t *testing.T) {
	for name, plant := range map[string]func(t *testing.T, dir string){
		"by a link to the attacker's":      func(t *testing.T, dir string) { must(t, os.Symlink(dir+"/evil", dir+"/d")) },
		"by another directory":             func(t *testing.T, dir string) { mkdir(t, dir+"/d", 0o777) },
		"by a FIFO that nobody ever opens": func(t *testing.T, dir string) { must(t, unix.Mkfifo(dir+"/d", 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			mkdir(t, dir+"/evil", 0o777)
			mkdir(t, dir+"/d", 0o700)
			f := newFile(t, dir+"/d/gate.json", "")
			parent, err := f.findParent()
			must(t, err)
			held, err := f.open(parent)
			must(t, err)
			defer held.Close()

			must(t, os.Rename(dir+"/d", dir+"/away"))
			plant(t, dir)
			_, err = f.open(parent)
			wantRefusal(t, err, "directory")
			// A handle from before keeps to the directory that was checked.
			must(t, f.replace(held, []byte("content")))
			wantOnly(t, dir+"/evil")
			wantOnly(t, dir+"/away", "gate.json")
		})
	}
}

func TestReaderSeesOldOrNewWholeContent(t *testing.T) {
	dir := safeDir(t)
	f := newFile(t, dir+"/gate.json", "")
	versions := []Info{sampleInfo(), sampleInfo()}
	versions[1].Token = secret.New(strings.Repeat("x", 10_000)) // several pages
	whole := map[string]bool{}
	for _, v := range versions {
		line, _ := v.line()
		whole[string(line)] = true
	}
	mustWrite(t, f, versions[0])
	whileWriting(t, rounds(2000), func(n int) error { return f.Write(versions[n%2]) }, func() {
		if got, err := os.ReadFile(f.path); err != nil || !whole[string(got)] {
			t.Errorf("a reader saw %d bytes that are no version (%v)", len(got), err)
		}
	})
	got, err := Read(f.path)
	if err != nil || told(got) != told(versions[1]) {
		t.Errorf("the last version is not there: %v, %v", got, err)
	}
}

// A file that others can open for a moment while it is still empty is theirs to
// read for as long as they keep it open.
func TestTemporaryFileIsNeverOpenToOthers(t *testing.T) {
	dir := safeDir(t)
	defer syscall.Umask(syscall.Umask(0))
	f := newFile(t, dir+"/gate.json", "")
	whileWriting(t, rounds(1000), func(n int) error {
		info := sampleInfo()
		info.PID = n + 1
		return f.Write(info)
	}, func() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if info, err := e.Info(); err == nil && info.Mode().Perm()&0o077 != 0 {
				t.Errorf("%s has mode %v", e.Name(), info.Mode())
			}
		}
	})
}

// rounds is how often a race is tried: with -short, a tenth of the times.
func rounds(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

// whileWriting calls write n times and look all the time.
func whileWriting(t *testing.T, n int, write func(int) error, look func()) {
	t.Helper()
	done := make(chan struct{})
	var looking sync.WaitGroup
	looking.Go(func() {
		for !t.Failed() {
			look()
			select {
			case <-done:
				return
			default:
			}
		}
	})
	var err error
	for i := 0; i < n && err == nil; i++ {
		err = write(i)
	}
	close(done)
	looking.Wait()
	must(t, err)
}

// seenByOthers reports whether others could read the token at path. It looks at
// the mode of the very file that it reads, for the writer is at work meanwhile.
func seenByOthers(path string) bool {
	file, err := os.OpenFile(path, openWithoutSurprises, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Mode().Perm()&0o077 == 0 {
		return false
	}
	content, _ := io.ReadAll(file)
	return bytes.Contains(content, []byte("SeCrEt"))
}

// The attacker can do here what the checks make sure that nobody can: change the
// directory and the one above, all the time. The token still stays inside.
func TestSwappingFilesAndDirectoriesNeverLeaksTheToken(t *testing.T) {
	dir := safeDir(t)
	evil, victim, home, path := dir+"/evil", dir+"/victim", dir+"/home", dir+"/home/gate.json"
	loose, away := dir+"/loose", dir+"/away"
	mkdir(t, evil, 0o777)
	mkdir(t, home, 0o700)
	put(t, victim, "precious", 0o644)
	moves := []func(){
		func() { _ = os.Symlink(victim, path) },
		func() { _ = os.Symlink("../evil/gate.json", path) },
		func() { _ = os.Link(victim, path) },
		func() {
			if file, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL, 0o600); err == nil {
				_ = file.Chmod(0o666)
				_ = file.Close()
			}
		},
		func() { _ = os.Mkdir(path, 0o777) },
		func() { _ = unix.Mkfifo(path, 0o666) },
		func() { _ = os.Rename(home, away); _ = os.Symlink(evil, home) },
		func() { _ = os.Rename(home, away); _ = os.Rename(loose, home) },
	}
	attack := func(move func()) {
		_ = os.Mkdir(loose, 0o700)
		_ = os.Chmod(loose, 0o777)
		trap, err := os.Open(loose)
		must(t, err)
		defer trap.Close()
		move()
		caught, _ := trap.Readdirnames(-1)
		if info, err := trap.Stat(); err != nil || info.Mode().Perm()&0o077 == 0 {
			caught = nil // the writer took it for one that it made, empty, and closed it first
		}
		inEvil, _ := os.ReadDir(evil)
		if len(caught)+len(inEvil) > 0 || seenByOthers(path) || seenByOthers(victim) {
			t.Errorf("leaked: %v %v", caught, inEvil)
		}
		if _, err := os.Lstat(away); err == nil {
			_ = os.RemoveAll(home) // the link, the trap, or what the writer made
			_ = os.Rename(away, home)
		}
		_ = os.RemoveAll(path)
	}

	done := make(chan struct{})
	var attacker sync.WaitGroup
	attacker.Go(func() {
		for n := 0; ; n++ {
			attack(moves[n%len(moves)])
			select {
			case <-done:
				return
			default:
			}
		}
	})
	f := newFile(t, path, "")
	var written, refused int
	for n := 0; n < rounds(3000) || n < 200_000 && (written == 0 || refused == 0); n++ {
		info := sampleInfo()
		info.PID = n + 1
		if err := f.Write(info); err == nil {
			written++
		} else {
			refused++
			wantRefusal(t, err, "server_info")
		}
	}
	close(done)
	attacker.Wait()
	t.Logf("%d writes, %d refusals", written, refused)
	if written == 0 || refused == 0 {
		t.Error("the attacker and the writer never met")
	}
	if got, _ := os.ReadFile(victim); string(got) != "precious" {
		t.Errorf("the victim now holds %q", got)
	}
	wantOnly(t, evil)
}

// The look before opening is not what counts: what is at the path changes after it.
func TestFileSwappedWhileItIsReadIsNeitherBelievedNorWaitedFor(t *testing.T) {
	dir := safeDir(t)
	path := dir + "/gate.json"
	good, planted := sampleInfo(), sampleInfo()
	planted.Port = 6666
	mustWrite(t, newFile(t, path, ""), good)
	goodLine, _ := good.line()
	plantedLine, _ := planted.line()
	done := make(chan struct{})
	go func() {
		defer close(done)
		whileWriting(t, rounds(1000), func(int) error {
			return errors.Join(
				os.WriteFile(dir+"/loose", plantedLine, 0o644), os.Rename(dir+"/loose", path),
				os.WriteFile(dir+"/good", goodLine, 0o600), os.Rename(dir+"/good", path),
				unix.Mkfifo(dir+"/fifo", 0o600), os.Rename(dir+"/fifo", path),
				os.WriteFile(dir+"/good", goodLine, 0o600), os.Rename(dir+"/good", path))
		}, func() {
			if info, err := Read(path); err == nil && told(info) != told(good) {
				t.Errorf("believed a file that others can write: %v", info)
			}
		})
	}()
	select {
	case <-done:
	case <-time.After(3 * time.Minute):
		t.Fatal("a FIFO made Read wait")
	}
}

func TestContentIsReadFromTheFileThatWasChecked(t *testing.T) {
	dir := safeDir(t)
	path := dir + "/gate.json"
	f := newFile(t, path, "")
	mustWrite(t, f, sampleInfo())
	line, _ := sampleInfo().line()
	root, err := os.OpenRoot(dir)
	must(t, err)
	defer root.Close()
	found, err := root.Lstat("gate.json")
	must(t, err)
	if !f.holds(root, found, line) {
		t.Error("the file's own content is not recognised")
	}
	put(t, dir+"/copy", string(line), 0o600)
	must(t, os.Remove(path), os.Symlink("copy", path))
	if f.holds(root, found, line) {
		t.Error("a link that took the file's place was followed")
	}
}
