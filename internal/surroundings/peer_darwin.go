package surroundings

import (
	"net"

	"golang.org/x/sys/unix"
)

// peerPID is the process that listens at the other end of a unix socket. It
// reports whether the system tells.
func peerPID(conn net.Conn) (pid int, known bool) {
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, false
	}
	_ = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptInt(int(fd), unix.SOL_LOCAL, unix.LOCAL_PEERPID)
		pid, known = peer, err == nil
	})
	return pid, known
}
