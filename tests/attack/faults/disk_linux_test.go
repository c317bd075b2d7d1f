package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
	"golang.org/x/sys/unix"
)

// disk is a tiny file system of the test's own.
type disk struct {
	t   *testing.T
	dir string
}

// tinyDisk mounts one. Without the right to, the test is skipped, or fails if
// CI or REQUIRE_MOUNT is set.
func tinyDisk(t *testing.T) *disk {
	t.Helper()
	dir := gatetest.TempDir(t)
	if err := unix.Mount("none", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "size=64k,mode=700"); err != nil {
		gatetest.SkipOrFail(t, "REQUIRE_MOUNT", fmt.Sprintf("a tmpfs cannot be mounted (run this as root): %v", err))
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return &disk{t, dir}
}

// trouble is a way in which a disk fails, and its end.
type trouble struct {
	name       string
	begin, end func(*disk)
}

var troubles = []trouble{
	{"full", (*disk).fill, (*disk).free},
	{"read-only", (*disk).lock, (*disk).unlock},
}

func (d *disk) filler() string { return filepath.Join(d.dir, "filler") }

func (d *disk) fill() {
	d.t.Helper()
	file, err := os.OpenFile(d.filler(), os.O_WRONLY|os.O_CREATE, 0o600)
	gatetest.Must(d.t, err)
	defer file.Close()
	for err == nil {
		_, err = file.Write(make([]byte, 512))
	}
}

func (d *disk) free() { gatetest.Must(d.t, os.Remove(d.filler())) }

func (d *disk) remount(flags uintptr) {
	d.t.Helper()
	// (as long as the gate has a file open for writing, it is busy)
	gatetest.Until(d.t, "the disk to be mounted in another way", func() bool {
		return unix.Mount("none", d.dir, "tmpfs", unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV|flags, "size=64k,mode=700") == nil
	})
}

func (d *disk) lock()   { d.remount(unix.MS_RDONLY) }
func (d *disk) unlock() { d.remount(0) }

// holds fails the test unless the disk has these files, whole and for their
// owner alone, and no others.
func (d *disk) holds(when string, want ...string) {
	d.t.Helper()
	entries, err := os.ReadDir(d.dir)
	gatetest.Must(d.t, err)
	var names []string
	for _, entry := range entries {
		if name := entry.Name(); name != "filler" && !strings.HasSuffix(name, ".lock") { // (which is empty)
			names = append(names, name)
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			d.t.Errorf("%s: %s has mode %v", when, entry.Name(), info.Mode())
		}
	}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		d.t.Errorf("%s: the disk has %q, want %q", when, names, want)
	}
	for _, name := range want {
		gatetest.ReadInfo(d.t, filepath.Join(d.dir, name))
	}
}

// infoAppears waits for a server-info file.
func infoAppears(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	gatetest.Until(t, "a server-info file", func() bool { return !gatetest.Missing(g.Site.InfoPath()) })
	g.ReadInfo()
}

// rotationsGoOn waits for the next token.
func rotationsGoOn(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	g.ReadInfo()
	old := g.Token
	gatetest.Until(t, "rotations to go on", func() bool {
		g.ReadInfo()
		return g.Token != old
	})
}

func TestAGateThatStartsOnAFullDiskTellsItsCallersOnceThereIsRoom(t *testing.T) {
	t.Parallel()
	d := tinyDisk(t)
	d.fill()
	up := gatetest.NewUpstream(t, nil)
	s := gatetest.Site{Info: filepath.Join(d.dir, "info.json")}.With(t, up)
	g := &gatetest.Gate{Site: s, Up: up, Process: gatetest.Start(t, s.Launch(t)), HTTP: gatetest.NewClient(t)}
	g.WaitOutput(gatetest.ReadyLog, 1)
	g.WaitOutput("no space left on device", 1)
	d.holds("on the full disk")
	d.free()
	infoAppears(t, g)
	d.holds("with room again", "info.json")
	g.Works(t)
	noSecretIn(t, "the log", g.Output.String(), g.Token)
}

func TestAStartOnAReadOnlyDiskIsRefused(t *testing.T) {
	t.Parallel()
	d := tinyDisk(t)
	d.lock()
	up := gatetest.NewUpstream(t, nil)
	s := gatetest.Site{Info: filepath.Join(d.dir, "info.json")}.With(t, up)
	out := gatetest.StartRefused(t, s.Launch(t))
	if said := gatetest.LastError(out); !strings.Contains(said, "read-only file system") || !strings.Contains(said, "server_info") {
		t.Errorf("it says %s", said)
	}
	d.holds("afterwards")
}

// Nobody could find or use it; whoever started it is told so.
func TestTheCommandDoesNotStayWhereItCannotTellItsCallers(t *testing.T) {
	t.Parallel()
	for _, trouble := range troubles {
		t.Run(trouble.name, func(t *testing.T) {
			d := tinyDisk(t)
			trouble.begin(d)
			home := gatetest.TempDir(t)
			out, code := gatetest.Run(t, gatetest.Launch{
				Dir: home, Stdin: strings.NewReader(gatetest.OperatorKey + "\n"),
				Args: []string{"responses-proxy", "--server-info", filepath.Join(d.dir, "info.json")},
			})
			if code != 1 || !strings.Contains(out, "server_info") && !strings.Contains(out, "--server-info") {
				t.Errorf("exit code %d:\n%s", code, out)
			}
			noSecretIn(t, "the output", out)
			d.holds("afterwards")
		})
	}
}

func TestAReloadOnABrokenDiskKeepsWhatHoldsAndTellsTheRestLater(t *testing.T) {
	t.Parallel()
	for _, trouble := range troubles {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			d := tinyDisk(t)
			g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{Info: filepath.Join(d.dir, "info.json")})
			before := g.Info
			trouble.begin(d)

			same := g.Site
			same.Gate += "\nallow_origin https://app.example"
			if trouble.name == "full" { // (what is checked in advance is refused)
				g.MustReload(t, same)
			} else if got := g.Reload(t, same); got.Status == 200 {
				t.Error("a reload to a file that cannot be written is not refused")
			}
			g.Works(t)
			d.holds("after a reload that changes nothing in the file", "info.json")
			if gatetest.ReadInfo(t, g.Site.InfoPath()) != before {
				t.Error("the file has changed")
			}

			moved := g.Site
			moved.Address = fmt.Sprintf("http://:%d", gatetest.FreePort(t))
			if got := g.Reload(t, moved); trouble.name != "full" {
				if got.Status == 200 {
					t.Error("a reload to a file that cannot be written is not refused")
				}
				trouble.end(d)
				g.Works(t)
				g.MustReload(t, moved)
			} else {
				// The port that the file names is anybody's now.
				d.holds("after a reload that moves the gate")
				trouble.end(d)
			}
			infoAppears(t, g)
			d.holds("in the end", "info.json")
			if g.Info.Port == before.Port || g.Token != before.AuthToken {
				t.Errorf("callers are told port %d, formerly %d; the token changed: %t", g.Info.Port, before.Port, g.Token != before.AuthToken)
			}
			g.Works(t)
		})
	}
}

func TestARotationOnABrokenDiskIsMadeUpFor(t *testing.T) {
	t.Parallel()
	for _, trouble := range troubles {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			d := tinyDisk(t)
			g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
				Info: filepath.Join(d.dir, "info.json"), Gate: "rotate_every 1s 500ms",
			})
			first := g.Token
			trouble.begin(d)
			const failed = "could not be replaced or revoked as planned"
			g.WaitOutput(failed, 2) // long after a grace would be over
			d.holds("while it is broken", "info.json")
			g.ReadInfo()
			g.Works(t)
			kept := g.Token
			trouble.end(d)
			rotationsGoOn(t, g)
			g.Works(t)
			d.holds("afterwards", "info.json")
			g.Token = first
			if kept != first {
				gatetest.Refused(t, g.Do(t), 401, "invalid_token")
			}
		})
	}
}

func TestDumpsOnABrokenDiskHoldNoRequestUpAndLeaveNothingHalf(t *testing.T) {
	t.Parallel()
	for _, trouble := range troubles {
		t.Run(trouble.name, func(t *testing.T) {
			t.Parallel()
			d := tinyDisk(t)
			g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "dump_dir " + d.dir})
			dumps := func() (whole, partial int) {
				entries, err := os.ReadDir(d.dir)
				gatetest.Must(t, err)
				for _, entry := range entries {
					info, err := entry.Info()
					switch {
					case entry.Name() == "filler" || err != nil:
						continue
					case info.Mode().Perm() != 0o600:
						t.Errorf("%s has mode %v", entry.Name(), info.Mode())
					case strings.HasSuffix(entry.Name(), ".partial"):
						partial++ // while it is being tried
						continue
					case info.Size() == 0:
						t.Errorf("%s is empty", entry.Name())
					}
					whole++
				}
				return whole, partial
			}
			trouble.begin(d)
			for range 5 {
				g.Works(t)
			}
			g.WaitOutput("an exchange could not be dumped", 1)
			gatetest.Until(t, "partial files to go", func() bool {
				whole, partial := dumps()
				if whole != 0 {
					t.Errorf("%d files were made", whole)
				}
				return partial == 0
			})
			trouble.end(d)
			gatetest.Until(t, "exchanges to be dumped again", func() bool {
				g.Works(t)
				return strings.Contains(g.Output.String(), "exchanges are dumped again")
			})
			g.Signal(syscall.SIGTERM) // which waits for what is still to be written
			g.Wait()
			if whole, partial := dumps(); whole == 0 || whole%2 != 0 || partial != 0 {
				t.Errorf("%d files were made, and %d in part", whole, partial)
			}
		})
	}
}

func TestALogOnABrokenDiskHoldsNoRequestUp(t *testing.T) {
	t.Parallel()
	d := tinyDisk(t)
	path := filepath.Join(d.dir, "gate.log")
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Gate:   "log_accepted",
		Global: "log gate {\noutput file " + path + "\ninclude http.handlers.responses_proxy_gate\n}",
	})
	g.Works(t)
	d.fill()
	for range 100 { // (far more than its last page has room for)
		g.Works(t)
		gatetest.Refused(t, g.Do(t, gatetest.SetHeader("X-Proxy-Token", "x")), 401, "invalid_token")
	}
	full := len(gatetest.ReadFile(t, path))
	d.free()
	g.Works(t)
	gatetest.Until(t, "something to be logged again", func() bool {
		g.Works(t)
		return len(gatetest.ReadFile(t, path)) != full
	})
	noSecretIn(t, "the log", gatetest.ReadFile(t, path)+g.Output.String(), g.Token)
}
