//go:build !windows

package process

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// KeepDescriptors keeps the files that this process was started with, but for
// stdin, stdout and stderr, from the programs that it starts: a shell that has
// opened the key's file, say, hands that on to whatever it runs.
func KeepDescriptors() error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return fmt.Errorf("the open files of this process cannot be listed: %w; mount /proc, or /dev/fd", err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}
