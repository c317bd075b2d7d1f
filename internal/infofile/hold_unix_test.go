//go:build !windows

package infofile

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestAKilledHoldersLockIsTakenOver(t *testing.T) {
	dir := safeDir(t)
	f := newFile(t, filepath.Join(dir, "info.json"), "")
	put(t, filepath.Join(dir, f.lockName()), "", 0o600)
	held := mustHold(t, f)
	if err := held.Destruct(); err != nil {
		t.Error(err)
	}
	wantOnly(t, dir)
}

// Nobody else can keep a gate from its place: not by a lock on the file, which
// others cannot open, and not by what they put there, which is not taken for one.
func TestAnotherUserCannotLockAGateOut(t *testing.T) {
	needRoot(t)
	dir := openDir(t)
	must(t, os.Chmod(dir, 0o777|os.ModeSticky))
	f := newFile(t, filepath.Join(dir, "info.json"), "")
	lock := filepath.Join(dir, f.lockName())
	as := func(command string) error {
		cmd := exec.Command("/bin/sh", "-c", command, "sh", lock)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		return cmd.Run()
	}
	held := mustHold(t, f)
	if as(`: < "$1"`) == nil || as(`: >> "$1"`) == nil {
		t.Error("another user opens the lock")
	}
	must(t, held.Destruct())
	for what, plant := range map[string]string{
		"a file": `: > "$1" && chmod 0600 "$1"`, "a FIFO": `mkfifo "$1"`, "a directory": `mkdir "$1"`, "a link": `ln -s /etc/hostname "$1"`,
	} {
		if err := as(plant); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		if _, err := f.Hold(); err == nil || errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "remove it") {
			t.Errorf("%s: %v", what, err)
		}
		must(t, os.Remove(lock))
	}
}
