package surroundings

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/sys/unix"
)

func TestAnAddressIsClaimedByOneGateUntilItIsGivenBack(t *testing.T) {
	const address = "127.0.0.1:18099/claimed"
	first, err := claimAddress(address)
	if err != nil || first == nil {
		t.Fatalf("%v, %v", first, err)
	}
	if _, err := claimAddress(address); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("claimed a second time: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := claimAddress(address)
	if err != nil || again == nil {
		t.Fatalf("given back, and not to be had: %v", err)
	}
	_ = again.Close()
}

// Containers that share a network can each have a gate.sock of their own at one path.
func TestAClaimOnASocketIsOnItsDirectoryAndNotOnItsPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	name := func(dir string) string {
		t.Helper()
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		return claimName(caddy.NetworkAddress{Network: "unix", Host: filepath.Join(dir, "gate.sock|0600")})
	}
	first := name(dir)
	if err := os.Rename(dir, dir+"-of-another"); err != nil {
		t.Fatal(err)
	}
	if other := name(dir); other == first {
		t.Errorf("another directory at the same path has the same name %s", other)
	}
	if same := name(dir + "-of-another"); same != first {
		t.Errorf("the directory has the names %s and %s", first, same)
	}
}

func TestAnotherUserCannotKeepAGateFromStartingByItsClaim(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, for a second user")
	}
	for name, listens := range map[string]bool{"who listens": true, "who does not": false} {
		t.Run(name, func(t *testing.T) {
			const address = "127.0.0.1:443/taken"
			taken := make(chan error)
			release := make(chan struct{})
			done := make(chan struct{})
			go func() {
				defer close(done)
				// Never unlocked: the thread ends with the goroutine, and its user with it.
				runtime.LockOSThread()
				if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); errno != 0 {
					taken <- errno
					return
				}
				fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
				if err == nil {
					err = unix.Bind(fd, &unix.SockaddrUnix{Name: "@responses_proxy_gate/" + address})
				}
				if err == nil && listens {
					err = unix.Listen(fd, 1)
				}
				taken <- err
				<-release
				_ = unix.Close(fd)
			}()
			if err := <-taken; err != nil {
				t.Fatal(err)
			}
			defer func() { close(release); <-done }()
			if _, err := net.Listen("unix", "@responses_proxy_gate/"+address); !errors.Is(err, syscall.EADDRINUSE) {
				t.Fatalf("the name is not taken: %v", err) // the control
			}
			if _, err := claimAddress(address); err != nil {
				t.Errorf("another user keeps the gate from starting: %v", err)
			}
		})
	}
}
