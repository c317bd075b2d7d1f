package process

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"
)

// ptDenyAttach is PT_DENY_ATTACH of ptrace(2).
const ptDenyAttach = 31

// hardenPlatform denies debuggers to attach, and core dumps.
func hardenPlatform() error {
	if _, _, errno := syscall.RawSyscall(unix.SYS_PTRACE, ptDenyAttach, 0, 0); errno != 0 { //nolint:staticcheck // no libSystem wrapper in x/sys
		return fmt.Errorf("denying ptrace: %w", errno)
	}
	return dropCoreLimit()
}
