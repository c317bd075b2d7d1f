//go:build !windows

package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

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

func TestDirectoryThatOthersCanReplaceIsRefused(t *testing.T) {
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
