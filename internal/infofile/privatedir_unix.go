//go:build !windows

package infofile

import (
	"io/fs"
	"syscall"
)

// isOwnedByUs reports whether a file belongs to the user who runs Caddy, or will.
func isOwnedByUs(info fs.FileInfo, owner fileOwner) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && owner.trusted(stat.Uid)
}
