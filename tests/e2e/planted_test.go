//go:build unix

package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// tree describes everything under dir: a refused start must not change it.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		stat, err := os.Lstat(path)
		if err != nil {
			return err
		}
		sys := stat.Sys().(*syscall.Stat_t)
		content := ""
		switch {
		case stat.Mode().IsRegular():
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(raw)
		case stat.Mode()&fs.ModeSymlink != 0:
			content, _ = os.Readlink(path)
		}
		_, _ = fmt.Fprintf(&b, "%s %v inode %d links %d owner %d:%d modified %v %q\n",
			path, stat.Mode(), sys.Ino, sys.Nlink, sys.Uid, sys.Gid, stat.ModTime(), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func nobody(t *testing.T) (uid, gid int) {
	t.Helper()
	account, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ = strconv.Atoi(account.Uid)
	gid, _ = strconv.Atoi(account.Gid)
	return uid, gid
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// mkdir makes a directory with this mode, whatever the umask.
func mkdir(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(path, 0o700))
	must(t, os.Chmod(path, mode))
}

func plant(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	writeFile(t, path, "planted\n")
	must(t, os.Chmod(path, mode))
}

// Whoever controls what is at the path could read the token, or have Caddy
// overwrite a file of the operator's.
func TestAPlantedServerInfoFileIsRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	file := func(mode os.FileMode) func(*testing.T, string) string {
		return func(t *testing.T, dir string) string {
			plant(t, filepath.Join(dir, "i.json"), mode)
			return "i.json"
		}
	}
	for name, c := range map[string]struct {
		plant  func(t *testing.T, dir string) (path string)
		reason string
	}{
		"a symlink to another file": {func(t *testing.T, dir string) string {
			plant(t, filepath.Join(dir, "target"), 0o600)
			must(t, os.Symlink("target", filepath.Join(dir, "i.json")))
			return "i.json"
		}, `(?i)sym(bolic )?link`},
		"a symlink to nothing yet": {func(t *testing.T, dir string) string {
			must(t, os.Symlink(filepath.Join(dir, "later"), filepath.Join(dir, "i.json")))
			return "i.json"
		}, `(?i)sym(bolic )?link`},
		"a symlink to a directory": {func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "d"), 0o700)
			must(t, os.Symlink("d", filepath.Join(dir, "i.json")))
			return "i.json"
		}, `(?i)sym(bolic )?link`},
		"a directory": {func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "i.json"), 0o700)
			return "i.json"
		}, `(?i)regular|is a directory`},
		"a FIFO": {func(t *testing.T, dir string) string {
			must(t, syscall.Mkfifo(filepath.Join(dir, "i.json"), 0o600))
			return "i.json"
		}, `(?i)regular|FIFO`},
		"a socket": {func(t *testing.T, dir string) string {
			listener, err := net.Listen("unix", filepath.Join(dir, "i.json"))
			must(t, err)
			t.Cleanup(func() { _ = listener.Close() })
			return "i.json"
		}, `(?i)regular|is a socket`},
		"a file that all can read":             {file(0o644), `(?i)group|other|mode|access`},
		"a file that all can write":            {file(0o666), `(?i)group|other|mode|access`},
		"a file that its group can read":       {file(0o640), `(?i)group|other|mode|access`},
		"a file that its group can write":      {file(0o620), `(?i)group|other|mode|access`},
		"a file that others alone can read":    {file(0o604), `(?i)group|other|mode|access`},
		"a file that others alone can execute": {file(0o601), `(?i)group|other|mode|access`},
		"a file with another hard link": {func(t *testing.T, dir string) string {
			plant(t, filepath.Join(dir, "first"), 0o600)
			must(t, os.Link(filepath.Join(dir, "first"), filepath.Join(dir, "i.json")))
			return "i.json"
		}, `(?i)link`},
		"a file of somebody else": {func(t *testing.T, dir string) string {
			needRoot(t)
			plant(t, filepath.Join(dir, "i.json"), 0o600)
			uid, gid := nobody(t)
			must(t, os.Chown(filepath.Join(dir, "i.json"), uid, gid))
			return "i.json"
		}, `(?i)own`},
		"in a directory that all can write to": {func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "d"), 0o777)
			return "d/i.json"
		}, `(?i)write|writable|mode`},
		"in a directory that its group can write to": {func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "d"), 0o770)
			return "d/i.json"
		}, `(?i)write|writable|mode`},
		"in a directory of somebody else": {func(t *testing.T, dir string) string {
			needRoot(t)
			mkdir(t, filepath.Join(dir, "d"), 0o755)
			uid, gid := nobody(t)
			must(t, os.Chown(filepath.Join(dir, "d"), uid, gid))
			return "d/i.json"
		}, `(?i)own`},
		"in a new directory below one that all can write to": {func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "d"), 0o777)
			return "d/new/deep/i.json"
		}, `(?i)write|writable|mode`},
		"in a safe directory that others could swap": {func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "d"), 0o777)
			mkdir(t, filepath.Join(dir, "d", "safe"), 0o700)
			return "d/safe/i.json"
		}, `(?i)write|writable|mode`},
		"below a file": {func(t *testing.T, dir string) string {
			plant(t, filepath.Join(dir, "f"), 0o600)
			return "f/i.json"
		}, `(?i)director`},
		"behind a symlink to a directory that all can write to": {func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "loose"), 0o777)
			must(t, os.Symlink("loose", filepath.Join(dir, "d")))
			return "d/i.json"
		}, `(?i)write|writable|mode|link`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := site{noInfo: true}.with(t, up)
			place := filepath.Join(s.dir, "place")
			mkdir(t, place, 0o700)
			path := filepath.Join(place, c.plant(t, place))
			s.gate = "server_info " + path
			before := tree(t, place)
			message := lastError(startRefused(t, s.launch(t)))
			if !regexp.MustCompile(c.reason).MatchString(message) || !strings.Contains(message, "server_info") || !strings.Contains(message, place) {
				t.Errorf("the message does not say what is wrong where (%s): %s", c.reason, message)
			}
			if after := tree(t, place); after != before {
				t.Errorf("the refused start changed the disk:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

func TestHarmlessPlacesForServerInfoAreTaken(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	for name, prepare := range map[string]func(t *testing.T, dir string) (path string){
		"an own file of a former launch": func(t *testing.T, dir string) string {
			plant(t, filepath.Join(dir, "i.json"), 0o600)
			return "i.json"
		},
		"a sticky directory, as /tmp is": func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "tmp"), 0o777|os.ModeSticky)
			return "tmp/i.json"
		},
		"a directory that others can read": func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "d"), 0o755)
			return "d/i.json"
		},
		"a new directory in a sticky one": func(t *testing.T, dir string) string {
			mkdir(t, filepath.Join(dir, "tmp"), 0o777|os.ModeSticky)
			return "tmp/new/i.json"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			path := filepath.Join(dir, prepare(t, dir))
			g := startGate(t, up, site{dir: dir, noInfo: true, gate: "server_info " + path})
			if missing(path) {
				t.Fatal("no server-info was written")
			}
			if in := readInfo(t, path); len(in.AuthToken) != 43 || modeOf(t, path) != 0o600 {
				t.Errorf("%+v %v", in, modeOf(t, path))
			}
			g.signal(syscall.SIGTERM)
			if g.wait(); !missing(path) {
				t.Error("server-info is still there after the exit")
			}
		})
	}
}

// The path was fine when the config was checked; by the time of a reload
// somebody could have planted something.
func TestASymlinkPlantedLaterIsNotFollowed(t *testing.T) {
	t.Parallel()
	g := reloadable(t, newUpstream(t, nil), site{})
	target := filepath.Join(g.site.dir, "target")
	writeFile(t, target, "untouched")
	must(t, os.Remove(g.site.infoPath()))
	must(t, os.Symlink(target, g.site.infoPath()))
	changed := g.site
	changed.address = fmt.Sprintf("http://:%d", freePort(t))
	if got := g.reload(t, changed); got.status == 200 {
		t.Errorf("the reload with a planted symlink got 200")
	}
	g.signal(syscall.SIGTERM)
	g.wait()
	if got := readFile(t, target); got != "untouched" {
		t.Errorf("the target of the symlink has %q", got)
	}
	if missing(g.site.infoPath()) {
		t.Error("somebody else's symlink was removed at exit")
	}
}
