//go:build !windows

package infofile

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// asNobody reports whether another user can make something at a path: what can
// make a file there can bind a socket.
func asNobody(path string) bool {
	cmd := exec.Command("/bin/sh", "-c", `: > "$1" && rm "$1"`, "sh", path)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	return cmd.Run() == nil
}

func TestAnUpstreamsSocketThatAnotherUserCouldTakeIsRefused(t *testing.T) {
	for name, c := range unsafePlaces {
		if name == "another user's directory" {
			continue // the upstream may be another user's: see below
		}
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			mkdir(t, dir+"/d", 0o755)
			must(t, CheckUpstreamSocket(dir+"/d/up.sock"))
			c.make(t, dir)
			if err := CheckUpstreamSocket(dir + "/d/up.sock"); err == nil || !strings.Contains(err.Error(), c.reason) {
				t.Errorf("error %v, want %q", err, c.reason)
			}
		})
	}
	for name, c := range map[string]struct {
		mode   os.FileMode
		path   string
		reason string
	}{
		"where everybody can make one":              {0o777, "/up.sock", "run chmod go-w "},
		"where everybody can make one, and keep it": {0o777 | os.ModeSticky, "/up.sock", "run chmod go-w "},
		"where everybody can make its directory":    {0o777 | os.ModeSticky, "/missing/up.sock", "run chmod go-w "},
		"behind a link":                             {0o777 | os.ModeSticky, "/../link", "run chmod go-w "},
	} {
		t.Run(name, func(t *testing.T) {
			needRoot(t)
			dir := openDir(t)
			mkdir(t, dir+"/d", c.mode)
			must(t, os.Symlink("d/up.sock", dir+"/link"))
			if !asNobody(dir + "/d/up.sock") {
				t.Fatal("the control: another user cannot make it")
			}
			if err := CheckUpstreamSocket(dir + "/d" + c.path); err == nil || !strings.Contains(err.Error(), c.reason+dir+"/d ") {
				t.Errorf("error %v, want %q", err, c.reason)
			}
			must(t, os.Chmod(dir+"/d", 0o755), CheckUpstreamSocket(dir+"/d"+c.path))
		})
	}
	t.Run("abstract", func(t *testing.T) {
		if err := CheckUpstreamSocket("@up"); err == nil || !strings.Contains(err.Error(), "abstract") {
			t.Error(err)
		}
	})
}

func TestAnUpstreamMayBeAServiceOfAnotherUsers(t *testing.T) {
	dir := safeDir(t)
	mkdir(t, dir+"/d", 0o755)
	plantSocket(t, dir+"/d/up.sock", "")
	theirs(t, dir+"/d/up.sock")
	theirs(t, dir+"/d")
	must(t, CheckUpstreamSocket(dir+"/d/up.sock"))
	must(t, os.Chmod(dir, 0o777|os.ModeSticky)) // anybody could have made that directory
	if err := CheckUpstreamSocket(dir + "/d/up.sock"); err == nil || !strings.Contains(err.Error(), "belongs to uid 65534") {
		t.Error(err)
	}
}
