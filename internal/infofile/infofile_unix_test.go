//go:build !windows

package infofile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"golang.org/x/sys/unix"
)

const nobody = 65534

// needRoot skips, visibly, what takes root to set up.
func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root, to act as another user")
	}
}

// openDir is a directory that every user may enter and nobody else may write to.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate-test-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

func must(t *testing.T, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// put makes a file with exactly this mode.
func put(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(content), 0o600), os.Chmod(path, mode))
}

func mkdir(t *testing.T, path string, mode fs.FileMode) {
	t.Helper()
	must(t, os.Mkdir(path, 0o700), os.Chmod(path, mode))
}

func wantMode(t *testing.T, path string, mode fs.FileMode, uid uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	if info.Mode() != mode || statOf(info).Uid != uid {
		t.Errorf("%s has mode %v and uid %d, want %v and %d", path, info.Mode(), statOf(info).Uid, mode, uid)
	}
}

func TestFileIsPrivateWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0o000, 0o022, 0o077, 0o777} {
		t.Run(fmt.Sprintf("umask %04o", umask), func(t *testing.T) {
			dir := safeDir(t)
			defer syscall.Umask(syscall.Umask(umask))
			mustWrite(t, newFile(t, dir+"/gate.json", ""), sampleInfo())
			mustWrite(t, newFile(t, dir+"/a/b/gate.json", ""), sampleInfo())
			us := currentUID()
			wantMode(t, dir+"/gate.json", 0o600, us)
			wantMode(t, dir+"/a/b/gate.json", 0o600, us)
			wantMode(t, dir+"/a", fs.ModeDir|0o700, us)
			wantMode(t, dir+"/a/b", fs.ModeDir|0o700, us)
		})
	}
}

func TestPlantedFileIsRefusedAndLeftAlone(t *testing.T) {
	for name, c := range map[string]struct {
		plant  func(t *testing.T, path, victim string)
		reason string
	}{
		"a symbolic link to a file of ours": {func(t *testing.T, p, victim string) { must(t, os.Symlink(victim, p)) }, "symbolic link"},
		"a symbolic link to nothing":        {func(t *testing.T, p, victim string) { must(t, os.Symlink(victim+".new", p)) }, "symbolic link"},
		"a symbolic link within the directory": {func(t *testing.T, p, _ string) {
			put(t, p+".real", "", 0o600)
			must(t, os.Symlink(filepath.Base(p)+".real", p))
		}, "symbolic link"},
		"a directory":              {func(t *testing.T, p, _ string) { mkdir(t, p, 0o700) }, "a directory"},
		"a FIFO":                   {func(t *testing.T, p, _ string) { must(t, unix.Mkfifo(p, 0o600)) }, "FIFO"},
		"a socket":                 {plantSocket, "a socket"},
		"a device":                 {func(t *testing.T, p, _ string) { needRoot(t); must(t, unix.Mknod(p, unix.S_IFCHR|0o600, 0x103)) }, "a device"},
		"a file the group reads":   {func(t *testing.T, p, _ string) { put(t, p, "old", 0o640) }, "mode 0640"},
		"a file anybody reads":     {func(t *testing.T, p, _ string) { put(t, p, "old", 0o604) }, "mode 0604"},
		"a file anybody writes":    {func(t *testing.T, p, _ string) { put(t, p, "old", 0o602) }, "mode 0602"},
		"a file anybody executes":  {func(t *testing.T, p, _ string) { put(t, p, "old", 0o601) }, "mode 0601"},
		"another name of our file": {func(t *testing.T, p, victim string) { must(t, os.Link(victim, p)) }, "hard links"},
		"a file of another user": {func(t *testing.T, p, _ string) {
			needRoot(t)
			put(t, p, "old", 0o600)
			must(t, os.Chown(p, nobody, nobody))
		}, "belongs to uid 65534"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			victim, path := dir+"/victim", dir+"/d/gate.json"
			put(t, victim, "precious", 0o600)
			mkdir(t, dir+"/d", 0o700)
			c.plant(t, path, victim)
			before, err := os.Lstat(path)
			must(t, err)
			entries, err := os.ReadDir(dir + "/d")
			must(t, err)

			f := newFile(t, path, "")
			wantRefusal(t, f.Check(), c.reason)
			wantRefusal(t, f.Write(sampleInfo()), c.reason)
			_, err = Read(path)
			wantRefusal(t, err, c.reason)
			must(t, f.Remove(sampleInfo()))

			if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) || before.Mode() != after.Mode() {
				t.Errorf("the planted file was touched: %v, %v", after, err)
			}
			if now, _ := os.ReadDir(dir + "/d"); len(now) != len(entries) {
				t.Errorf("something was left behind: %v", now)
			}
			if got, err := os.ReadFile(victim); string(got) != "precious" {
				t.Errorf("the victim now holds %q (%v)", got, err)
			}
			wantOnly(t, dir, "d", "victim")
		})
	}
}

func plantSocket(t *testing.T, path, _ string) {
	t.Chdir(filepath.Dir(path)) // the whole path may be too long for a socket
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	must(t, err)
	t.Cleanup(func() { _ = syscall.Close(fd) })
	must(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: filepath.Base(path)}))
}

// arrange builds a scene from steps such as "dir p 700", "link l p", "chown p".
func arrange(t *testing.T, dir, steps string) {
	t.Helper()
	for step := range strings.SplitSeq(steps, "; ") {
		word := append(strings.Fields(step), "", "")
		path := dir + "/" + word[1]
		switch word[0] {
		case "dir":
			mode, err := strconv.ParseUint(word[2], 8, 32)
			must(t, err, syscall.Mkdir(path, 0o700), syscall.Chmod(path, uint32(mode)))
		case "link":
			must(t, os.Symlink(strings.ReplaceAll(word[2], "DIR", dir), path))
		case "chown":
			needRoot(t)
			must(t, os.Lchown(path, nobody, nobody))
		case "file":
			put(t, path, "", 0o600)
		case "fifo":
			must(t, unix.Mkfifo(path, 0o600))
		}
	}
}

func TestDirectoryThatOthersCanExchangeIsRefused(t *testing.T) {
	const fine = ""
	for name, c := range map[string]struct{ scene, path, owner, reason string }{
		"anybody can write to the directory":    {"dir p 707", "p/f", "", "others can write"},
		"the group can write to the directory":  {"dir p 770", "p/f", "", "others can write"},
		"anybody can write to one further up":   {"dir p 707; dir p/q 700", "p/q/f", "", "others can write"},
		"missing directories below a loose one": {"dir p 777", "p/q/r/f", "", "others can write"},
		"the directory is another user's":       {"dir p 700; chown p", "p/f", "", "belongs to uid 65534"},
		"one further up is another user's":      {"dir p 700; dir p/q 700; chown p", "p/q/f", "", "belongs to uid 65534"},
		"a sticky directory of another user":    {"dir p 1777; chown p", "p/f", "", "belongs to uid 65534"},
		"another user's, who is not the owner":  {"dir p 700; chown p", "p/f", "65533:65533", "belongs to uid 65534"},
		"a link of ours to a loose directory":   {"dir p 777; link l p", "l/f", "", "others can write"},
		"an absolute link to a loose directory": {"dir p 777; link l DIR/p", "l/f", "", "others can write"},
		"a link that lies in a loose directory": {"dir p 777; dir q 700; link p/l DIR/q", "p/l/f", "", "others can write"},
		"another user's link in a sticky one":   {"dir p 1777; dir q 700; link p/l DIR/q; chown p/l", "p/l/f", "", "which belongs to uid 65534"},
		"a loose one that dots lead through":    {"dir p 777; dir p/q 700", "p/q/../../f", "", "others can write"},
		"links that lead in a circle":           {"link a b; link b a", "a/f", "", "too many symbolic links"},
		"a file where a directory should be":    {"file p", "p/f", "", "not a directory"},
		"a FIFO where a directory should be":    {"fifo p", "p/f", "", "not a directory"},
		"dots behind a missing directory":       {"", "p/../f", "", "no such file"},

		"a link of the owner's, to a directory": {"dir q 700; dir p 700; link p/l DIR/q; chown p/l; chown p", "p/l/f", "65534:65534", "which belongs to uid 65534"},
		"a link of the owner's, beside its own": {"dir p 700; link l p; chown p; chown l", "l/f", "65534:65534", "which belongs to uid 65534"},
		"root's directory below the owner's":    {"dir p 700; dir p/q 700; chown p", "p/q/f", "65534:65534", "is below one of uid 65534"},
		"dots that lead out of the owner's":     {"dir p 700; chown p", "p/../f", "65534:65534", "is below one of uid 65534"},

		"fine: the owner's below the owner's":      {"dir p 700; dir p/q 700; chown p/q; chown p", "p/q/f", "65534:65534", fine},
		"fine: a sticky directory like /tmp":       {"dir p 1777", "p/f", "", fine},
		"fine: missing ones below a sticky one":    {"dir p 1777", "p/q/f", "", fine},
		"fine: others may look but not write":      {"dir p 755", "p/f", "", fine},
		"fine: it is the configured owner's":       {"dir p 700; chown p", "p/f", "65534:65534", fine},
		"fine: a link of ours, as /tmp on macOS":   {"dir p 700; link l DIR/p", "l/f", "", fine},
		"fine: dots behind a link, as for readers": {"dir p 700; dir p/q 700; link l p/q", "l/../f", "", fine},
	} {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			arrange(t, dir, c.scene)
			if c.owner != "" {
				needRoot(t)
			}
			path := dir + "/" + c.path
			f := newFile(t, path, c.owner)
			if c.reason != fine {
				wantRefusal(t, f.Check(), c.reason)
				wantRefusal(t, f.Write(sampleInfo()), c.reason)
				if _, err := os.Lstat(path); err == nil {
					t.Error("the file was written all the same")
				}
				return
			}
			mustWrite(t, f, sampleInfo())
			if _, err := os.Lstat(path); err != nil {
				t.Error("the file is not where a reader of the same path looks:", err)
			}
			must(t, f.Remove(sampleInfo()))
			if _, err := os.Lstat(path); err == nil {
				t.Error("the file was not removed")
			}
		})
	}
}

func TestCheckChangesNothing(t *testing.T) {
	dir := safeDir(t)
	must(t, newFile(t, dir+"/a/b/gate.json", "").Check(), newFile(t, dir+"/gate.json", "").Check())
	wantOnly(t, dir)
}

// A directory that is exchanged in the one moment that matters, without luck.
func TestDirectoryExchangedAfterTheCheckIsNotUsed(t *testing.T) {
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

func TestRemoveDoesNotBelieveForeignOrLinkedFiles(t *testing.T) {
	dir := safeDir(t)
	path := dir + "/gate.json"
	f := newFile(t, path, "")
	line, _ := sampleInfo().line()
	put(t, dir+"/copy", string(line), 0o600)
	must(t, os.Symlink("copy", path), f.Remove(sampleInfo()))
	wantOnly(t, dir, "copy", "gate.json")

	must(t, os.Remove(path))
	put(t, path, string(line), 0o444)
	must(t, f.Remove(sampleInfo()))
	wantOnly(t, dir, "copy") // made readable since: all the more reason

	needRoot(t)
	put(t, path, string(line), 0o600)
	must(t, os.Chown(path, nobody, nobody), f.Remove(sampleInfo()))
	wantOnly(t, dir, "copy", "gate.json")
}

// catAs reads a file as another user would.
func catAs(t *testing.T, uid uint32, path string) (string, error) {
	t.Helper()
	cmd := exec.Command("cat", path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.Output()
	return string(out), err
}

func TestOwnerAndNobodyElseReadsAFileMadeByRoot(t *testing.T) {
	needRoot(t)
	line, _ := sampleInfo().line()
	for name, below := range map[string]string{
		"in a directory of root's":      "/gate.json",
		"in directories yet to be made": "/a/b/c/gate.json",
	} {
		t.Run(name, func(t *testing.T) {
			dir := openDir(t)
			path := dir + below
			f := newFile(t, path, "65534:65534")
			mustWrite(t, f, sampleInfo())
			wantMode(t, path, 0o600, nobody)
			if got, err := catAs(t, nobody, path); got != string(line) {
				t.Errorf("the owner reads %q, %v", got, err)
			}
			if got, err := catAs(t, 65533, path); err == nil || got != "" {
				t.Errorf("somebody else reads %q", got)
			}
			for parent := filepath.Dir(path); parent != dir; parent = filepath.Dir(parent) {
				wantMode(t, parent, fs.ModeDir|0o700, nobody)
			}
			// The file is the owner's, so root does not believe it, ...
			_, err := Read(path)
			wantRefusal(t, err, "sudo -u '#65534'")
			// ... but rewrites and removes it.
			before, _ := os.Stat(path)
			mustWrite(t, f, sampleInfo())
			if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("rewritten although nothing changed (%v)", err)
			}
			must(t, f.Remove(sampleInfo()))
			wantOnly(t, filepath.Dir(path))
		})
	}
}

func TestNewOwnerGetsTheFileEvenIfItsContentIsTheSame(t *testing.T) {
	needRoot(t)
	path := safeDir(t) + "/gate.json"
	mustWrite(t, newFile(t, path, ""), sampleInfo())
	mustWrite(t, newFile(t, path, "65534:65534"), sampleInfo())
	wantMode(t, path, 0o600, nobody)
}

// The owner of the directory exchanges the one that root has just made for
// another one of root's, to be given that.
func TestRootsOtherDirectoryIsNotHandedOver(t *testing.T) {
	needRoot(t)
	for name, fill := range map[string]func(dir string) error{
		"because it has something in it": func(dir string) error { return os.WriteFile(dir+"/secret", nil, 0o600) },
		"because it is another user's":   func(dir string) error { return os.Chown(dir, 65533, 65533) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			must(t, fill(dir))
			root, err := os.OpenRoot(dir)
			must(t, err)
			defer root.Close()
			if err := claimDir(root); err == nil {
				t.Error("the directory was taken for a new one")
			}
		})
	}
}

func TestOwnerIsAUserOrNumericIDs(t *testing.T) {
	needRoot(t)
	for owner, want := range map[string]fileOwner{
		"":            {},
		"root":        {given: true, uid: 0, gid: 0},
		"0":           {given: true, uid: 0, gid: 0},
		"0:65534":     {given: true, uid: 0, gid: nobody},
		"65534:1":     {given: true, uid: nobody, gid: 1},
		"root:12345":  {given: true, uid: 0, gid: 12345},
		"70123:70124": {given: true, uid: 70123, gid: 70124},
	} {
		if f, err := New("/x", owner); err != nil || f.owner != want {
			t.Errorf("%q: %v, %v", owner, f, err)
		}
	}
	for owner, reason := range map[string]string{
		":": "not an owner", ":0": "not an owner", "root:": "not an owner", "0:0:0": "not an owner",
		"no such user": "no such user", "-1": "no such user", "4294967295": "no such user", "4294967296": "no such user",
		"0:no such group": "no such group", "0:4294967295": "no such group", "70123": "write 70123:GROUP",
	} {
		_, err := New("/x", owner)
		wantRefusal(t, err, reason)
		wantRefusal(t, err, "owner")
	}
}

// TestOrdinaryUser runs itself again as nobody, who must have the same safety and
// is told early what only root can do.
func TestOrdinaryUser(t *testing.T) {
	const again = "TEST_ORDINARY_USER_DIR"
	if dir := os.Getenv(again); dir != "" {
		asOrdinaryUser(t, dir)
		return
	}
	needRoot(t)
	dir := openDir(t)
	mkdir(t, dir+"/mine", 0o700)
	must(t, os.Chown(dir+"/mine", nobody, nobody))
	mustWrite(t, newFile(t, dir+"/roots.json", ""), sampleInfo())

	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Skip("SKIPPED: needs /proc to find this program:", err)
	}
	defer self.Close()
	program, err := os.OpenFile(dir+"/test", os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(program, self)
	must(t, err, program.Close(), os.Chmod(dir+"/test", 0o755))
	cmd := exec.Command(dir+"/test", "-test.run=^TestOrdinaryUser$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{again + "=" + dir, "TMPDIR=" + dir + "/mine"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestOrdinaryUser")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func asOrdinaryUser(t *testing.T, dir string) {
	_, err := New("/x", "0:0")
	wantRefusal(t, err, "only root can give a file to another user")
	_, err = New("/x", "65534:0")
	wantRefusal(t, err, "only root can give a file to a group")
	wantRefusal(t, newFile(t, dir+"/new.json", "").Check(), "cannot make files")
	wantRefusal(t, newFile(t, dir+"/roots.json", "").Check(), "cannot make files")
	_, err = Read(dir + "/roots.json")
	wantRefusal(t, err, "belongs to uid 0, and you are uid 65534")

	defer syscall.Umask(syscall.Umask(0o777))
	path := dir + "/mine/a/b/gate.json"
	f := newFile(t, path, "65534:65534")
	mustWrite(t, f, sampleInfo())
	wantMode(t, path, 0o600, nobody)
	wantMode(t, dir+"/mine/a", fs.ModeDir|0o700, nobody)
	if got, err := Read(path); err != nil || told(got) != told(sampleInfo()) {
		t.Errorf("got %v, %v", got, err)
	}
	must(t, f.Remove(sampleInfo()))
	wantOnly(t, dir+"/mine/a/b")
}
