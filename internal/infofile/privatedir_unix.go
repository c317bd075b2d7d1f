//go:build !windows

package infofile

import (
	"io/fs"
	"os"
	"syscall"
)

// isOwnedByUs reports whether a file belongs to the user who runs Caddy.
func isOwnedByUs(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid()
}
