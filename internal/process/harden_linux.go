package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// hardenPlatform clears the dumpable flag (prctl(2), PR_SET_DUMPABLE): no core
// dumps, no ptrace and no /proc/PID/mem, environ and fd for others of the same
// user. The core limit stays at 0 even if something sets the flag again.
func hardenPlatform() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("clearing the dumpable flag: %w", err)
	}
	return dropCoreLimit()
}
