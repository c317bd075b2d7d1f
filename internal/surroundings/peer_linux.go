package surroundings

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerPID is the process that listens at the other end of a unix socket; 0 if it
// is in another container. It reports whether the system tells.
func peerPID(conn net.Conn) (pid int, known bool) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, false
	}
	_ = raw.Control(func(fd uintptr) {
		if peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid, known = int(peer.Pid), true
		}
	})
	return pid, known
}
