//go:build !windows

package infofile

import (
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// lock keeps a temporary file from being taken for a leftover. The kernel unlocks
// it when the process ends, however it ends. Where a file system has no locks,
// nothing is taken for a leftover.
func lock(file *os.File) { _ = unix.Flock(int(file.Fd()), unix.LOCK_EX) }

// keepLocked keeps it locked when it is closed, until unlock is called.
func keepLocked(file *os.File) (unlock func()) {
	again, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return func() {}
	}
	return func() { _ = unix.Close(again) }
}

// removeLeftovers removes the temporary files in the directory that gates left
// when they were killed: each has the token of a launch that is over.
func (f *File) removeLeftovers(root *os.Root) {
	dir, err := root.Open(".")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if isTempName(name) {
			f.removeLeftover(root, name)
		}
	}
}

var tempNameLength = len(tempName())

// isTempName reports whether tempName could have made a name.
func isTempName(name string) bool {
	return len(name) == tempNameLength && strings.HasPrefix(name, tempPrefix) && strings.HasSuffix(name, tempSuffix)
}

// removeLeftover removes one, unless its writer still lives, or it is something
// else than what a writer leaves.
func (f *File) removeLeftover(root *os.Root, name string) {
	found, err := root.Lstat(name)
	if err != nil || !f.couldBeLeft(found) {
		return
	}
	file, err := root.OpenFile(name, os.O_RDONLY|openWithoutSurprises, 0)
	if err != nil {
		return
	}
	defer file.Close()
	opened, err := file.Stat()
	if err != nil || !os.SameFile(opened, found) || unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) != nil {
		return
	}
	_ = root.Remove(name)
}

// couldBeLeft reports whether a file is as a writer may leave it: ours or the
// owner's, for nobody else, under this name only.
func (f *File) couldBeLeft(found fs.FileInfo) bool {
	st := statOf(found)
	return found.Mode().IsRegular() && found.Mode().Perm()&^0o600 == 0 && st.Nlink == 1 && f.owner.trusted(st.Uid)
}
