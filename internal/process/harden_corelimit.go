//go:build !windows

package process

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// dropCoreLimit sets the core file limit to 0, for good (setrlimit(2)).
func dropCoreLimit() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 0, Max: 0}); err != nil {
		return fmt.Errorf("setting the core limit to 0: %w", err)
	}
	return nil
}
