package infofile

import (
	"net"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAnotherUserIsNotBelievedAtASocket(t *testing.T) {
	needRoot(t)
	dir := openDir(t)
	path := dir + "/a.sock"
	listener := make(chan net.Listener)
	failed := make(chan error)
	go func() {
		// Never unlocked: the thread ends with the goroutine, and its user with it.
		runtime.LockOSThread()
		theirs(t, dir)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), nobody, ^uintptr(0)); errno != 0 {
			failed <- errno
			return
		}
		l, err := net.Listen("unix", path)
		if err != nil {
			failed <- err
			return
		}
		listener <- l
	}()
	select {
	case err := <-failed:
		t.Fatal(err)
	case l := <-listener:
		defer l.Close()
	}
	conn, err := net.Dial("unix", path)
	must(t, err)
	defer conn.Close()
	if err := CheckPeer(conn); err == nil || !strings.Contains(err.Error(), "uid 65534 answers") || !strings.Contains(err.Error(), "sudo -u '#65534'") {
		t.Errorf("it is believed: %v", err)
	}
}

func TestWhoRunsAsAServicesOwnUserIsToldHowToBecomeIt(t *testing.T) {
	for uid, want := range map[uint32]string{61184: "runuser -u <service>", 65519: "runuser -u <service>", 1000: "sudo -u '#1000'", 65534: "sudo -u '#65534'"} {
		if got := becoming(uid); !strings.Contains(got, want) {
			t.Errorf("uid %d: %q does not say %q", uid, got, want)
		}
	}
}
