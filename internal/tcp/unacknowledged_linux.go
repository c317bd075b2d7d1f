// Package tcp sets what Go's net package has no word for.
package tcp

import (
	"time"

	"golang.org/x/sys/unix"
)

// LimitUnacknowledged has a connection end if what was sent on it stays
// unacknowledged for so long. An error changes nothing: the connection then
// has the system's own timeout.
func LimitUnacknowledged(fd uintptr, timeout time.Duration) {
	_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(timeout.Milliseconds()))
}
