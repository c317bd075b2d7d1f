//go:build unix

package e2e

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func plant(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	gatetest.WriteFile(t, path, "planted\n")
	gatetest.Must(t, os.Chmod(path, mode))
}

// Whoever controls what is at the path could read the token, or have Caddy
// overwrite a file of the operator's.
func TestAPlantedServerInfoFileIsRefusedAndLeftAlone(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
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
			gatetest.Must(t, os.Symlink("target", filepath.Join(dir, "i.json")))
			return "i.json"
		}, `(?i)sym(bolic )?link`},
		"a symlink to nothing yet": {func(t *testing.T, dir string) string {
			gatetest.Must(t, os.Symlink(filepath.Join(dir, "later"), filepath.Join(dir, "i.json")))
			return "i.json"
		}, `(?i)sym(bolic )?link`},
		"a symlink to a directory": {func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "d"), 0o700)
			gatetest.Must(t, os.Symlink("d", filepath.Join(dir, "i.json")))
			return "i.json"
		}, `(?i)sym(bolic )?link`},
		"a directory": {func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "i.json"), 0o700)
			return "i.json"
		}, `(?i)regular|is a directory`},
		"a FIFO": {func(t *testing.T, dir string) string {
			gatetest.Must(t, syscall.Mkfifo(filepath.Join(dir, "i.json"), 0o600))
			return "i.json"
		}, `(?i)regular|FIFO`},
		"a socket": {func(t *testing.T, dir string) string {
			listener, err := net.Listen("unix", filepath.Join(dir, "i.json"))
			gatetest.Must(t, err)
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
			gatetest.Must(t, os.Link(filepath.Join(dir, "first"), filepath.Join(dir, "i.json")))
			return "i.json"
		}, `(?i)link`},
		"a file of somebody else": {func(t *testing.T, dir string) string {
			gatetest.NeedRoot(t)
			plant(t, filepath.Join(dir, "i.json"), 0o600)
			uid, gid := gatetest.Nobody(t)
			gatetest.Must(t, os.Chown(filepath.Join(dir, "i.json"), uid, gid))
			return "i.json"
		}, `(?i)own`},
		"in a directory that all can write to": {func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "d"), 0o777)
			return "d/i.json"
		}, `(?i)write|writable|mode`},
		"in a directory that its group can write to": {func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "d"), 0o770)
			return "d/i.json"
		}, `(?i)write|writable|mode`},
		"in a directory of somebody else": {func(t *testing.T, dir string) string {
			gatetest.NeedRoot(t)
			gatetest.Mkdir(t, filepath.Join(dir, "d"), 0o755)
			uid, gid := gatetest.Nobody(t)
			gatetest.Must(t, os.Chown(filepath.Join(dir, "d"), uid, gid))
			return "d/i.json"
		}, `(?i)own`},
		"in a new directory below one that all can write to": {func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "d"), 0o777)
			return "d/new/deep/i.json"
		}, `(?i)write|writable|mode`},
		"in a safe directory that others could swap": {func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "d"), 0o777)
			gatetest.Mkdir(t, filepath.Join(dir, "d", "safe"), 0o700)
			return "d/safe/i.json"
		}, `(?i)write|writable|mode`},
		"below a file": {func(t *testing.T, dir string) string {
			plant(t, filepath.Join(dir, "f"), 0o600)
			return "f/i.json"
		}, `(?i)director`},
		"behind a symlink to a directory that all can write to": {func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "loose"), 0o777)
			gatetest.Must(t, os.Symlink("loose", filepath.Join(dir, "d")))
			return "d/i.json"
		}, `(?i)write|writable|mode|link`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{NoInfo: true}.With(t, up)
			place := filepath.Join(s.Dir, "place")
			gatetest.Mkdir(t, place, 0o700)
			path := filepath.Join(place, c.plant(t, place))
			s.Gate = "server_info " + path
			before := gatetest.Tree(t, place)
			message := gatetest.LastError(gatetest.StartRefused(t, s.Launch(t)))
			if !regexp.MustCompile(c.reason).MatchString(message) || !strings.Contains(message, "server_info") || !strings.Contains(message, place) {
				t.Errorf("the message does not say what is wrong where (%s): %s", c.reason, message)
			}
			if after := gatetest.Tree(t, place); after != before {
				t.Errorf("the refused start changed the disk:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

func TestHarmlessPlacesForServerInfoAreTaken(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, prepare := range map[string]func(t *testing.T, dir string) (path string){
		"an own file of a former launch": func(t *testing.T, dir string) string {
			plant(t, filepath.Join(dir, "i.json"), 0o600)
			return "i.json"
		},
		"a sticky directory, as /tmp is": func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "tmp"), 0o777|os.ModeSticky)
			return "tmp/i.json"
		},
		"a directory that others can read": func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "d"), 0o755)
			return "d/i.json"
		},
		"a new directory in a sticky one": func(t *testing.T, dir string) string {
			gatetest.Mkdir(t, filepath.Join(dir, "tmp"), 0o777|os.ModeSticky)
			return "tmp/new/i.json"
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := gatetest.TempDir(t)
			path := filepath.Join(dir, prepare(t, dir))
			g := gatetest.StartGate(t, up, gatetest.Site{Dir: dir, NoInfo: true, Gate: "server_info " + path})
			if gatetest.Missing(path) {
				t.Fatal("no server-info was written")
			}
			if in := gatetest.ReadInfo(t, path); len(in.AuthToken) != 43 || modeOf(t, path) != 0o600 {
				t.Errorf("%+v %v", in, modeOf(t, path))
			}
			g.Signal(syscall.SIGTERM)
			if g.Wait(); !gatetest.Missing(path) {
				t.Error("server-info is still there after the exit")
			}
		})
	}
}

// The path was fine when the config was checked; by the time of a reload
// somebody could have planted something.
func TestASymlinkPlantedLaterIsNotFollowed(t *testing.T) {
	t.Parallel()
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	target := filepath.Join(g.Site.Dir, "target")
	gatetest.WriteFile(t, target, "untouched")
	gatetest.Must(t, os.Remove(g.Site.InfoPath()))
	gatetest.Must(t, os.Symlink(target, g.Site.InfoPath()))
	changed := g.Site
	changed.Address = fmt.Sprintf("http://:%d", gatetest.FreePort(t))
	if got := g.Reload(t, changed); got.Status == 200 {
		t.Errorf("the reload with a planted symlink got 200")
	}
	g.Signal(syscall.SIGTERM)
	g.Wait()
	if got := gatetest.ReadFile(t, target); got != "untouched" {
		t.Errorf("the target of the symlink has %q", got)
	}
	if gatetest.Missing(g.Site.InfoPath()) {
		t.Error("somebody else's symlink was removed at exit")
	}
}
