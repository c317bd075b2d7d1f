//go:build unix

package gatetest

import (
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
)

// SkipOrFail ends a test that needs what this machine has not. Where CI or this
// variable is set, nothing may be missing: the test fails.
func SkipOrFail(t testing.TB, variable string, why any) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv(variable) != "" {
		t.Fatal(why)
	}
	t.Skip(why)
}

// NeedRoot skips the test for anybody but root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can act as another user")
	}
}

// Nobody is another user than the one who runs the tests.
func Nobody(t testing.TB) (uid, gid int) {
	t.Helper()
	account, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ = strconv.Atoi(account.Uid)
	gid, _ = strconv.Atoi(account.Gid)
	return uid, gid
}

// AsNobody has a program run as that other user, without further groups. Only
// root can.
func AsNobody(t testing.TB) *syscall.Credential {
	t.Helper()
	NeedRoot(t)
	uid, gid := Nobody(t)
	return &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
}

// NobodysDir is a directory of nobody's, which others can enter.
func NobodysDir(t testing.TB) string {
	t.Helper()
	dir := TempDir(t)
	uid, gid := Nobody(t)
	Must(t, os.Chmod(dir, 0o755))
	Must(t, os.Chown(dir, uid, gid))
	return dir
}

// Role is a part that the test binary can play in a process of its own, as
// another user say. Play returns when the part is over, or when its stdin
// ends; what it prints is the process's output.
type Role struct {
	Name string
	Play func(args []string) error
}

// roleVariable has Main play a role.
const roleVariable = "GATETEST_ROLE"

func play(name string, roles []Role) int {
	for _, role := range roles {
		if role.Name != name {
			continue
		}
		if err := role.Play(os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			return 1
		}
		return 0
	}
	fmt.Fprintf(os.Stderr, "there is no role %q\n", name)
	return 1
}

// Actor is a process that plays a role.
type Actor struct {
	*Process
	stdin io.Closer
}

// StartRole has the test binary play a role, as another user if one is given.
// Its working directory is a new one, which is that user's.
func StartRole(t testing.TB, as *syscall.Credential, name string, args ...string) *Actor {
	t.Helper()
	program, err := actorBinary()
	Must(t, err)
	home := TempDir(t)
	if as != nil {
		Must(t, os.Chown(home, int(as.Uid), int(as.Gid)))
	}
	reader, writer, err := os.Pipe()
	Must(t, err)
	defer reader.Close()
	t.Cleanup(func() { _ = writer.Close() })
	return &Actor{stdin: writer, Process: Start(t, Launch{
		Program: program, Dir: home, Env: []string{roleVariable + "=" + name}, Args: args, User: as, Stdin: reader,
	})}
}

// actorBinary is a copy of the test binary. Other users cannot enter the
// directory where go test keeps that one.
var actorBinary = sync.OnceValues(func() (string, error) {
	source, err := os.Open("/proc/self/exe")
	if err != nil {
		return "", err
	}
	defer source.Close()
	// A child that began its life meanwhile would have the file open for
	// writing too, and a file that is open for writing cannot be run.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	target, err := os.OpenFile(filepath.Join(binDir, "actor"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return "", err
	}
	if _, err := io.Copy(target, source); err != nil {
		return "", err
	}
	if err := target.Chmod(0o755); err != nil {
		return "", err
	}
	return target.Name(), target.Close()
})

// End has the actor come to an end, and returns what it printed.
func (a *Actor) End() string {
	a.t.Helper()
	_ = a.stdin.Close()
	if code := a.Wait(); code != 0 {
		a.t.Fatalf("exit code %d of the role:\n%s", code, a.Output)
	}
	return a.Output.String()
}
