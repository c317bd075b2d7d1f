//go:build linux || darwin || freebsd

package dump

import "golang.org/x/sys/unix"

// diskSpace is how much of the file system at path is free for us, and its size.
func diskSpace(path string) (free, total uint64, known bool) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, 0, false
	}
	size := uint64(stat.Bsize)
	return uint64(stat.Bavail) * size, uint64(stat.Blocks) * size, true
}
