package responsesproxygate

import "golang.org/x/sys/unix"

// limitUnacknowledged has the kernel give a connection up on which data stays
// unacknowledged.
func limitUnacknowledged(fd uintptr) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledgedTimeout.Milliseconds()))
}
