//go:build !windows

package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// acquire makes the lock file, or takes the one that a killed process left, and
// locks it. A process that gives the lock back removes the file first, so the
// lock counts only if the file still has the name afterwards.
func (f *File) acquire(root *os.Root) (*os.File, error) {
	for range maxTempTries {
		lock, err := f.openLock(root)
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed in that moment
		}
		if err != nil {
			return nil, err
		}
		err = unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(ErrInUse, lock.Close())
		case err != nil: // there are no locks here
			_ = root.Remove(f.lockName())
			return nil, lock.Close()
		case isNamed(root, f.lockName(), lock):
			return lock, nil
		}
		_ = lock.Close()
	}
	return nil, errors.New("its lock is removed again and again")
}

// openLock opens the lock file if it is one that we or root made, for nobody
// else.
func (f *File) openLock(root *os.Root) (*os.File, error) {
	lock, err := root.OpenFile(f.lockName(), os.O_WRONLY|os.O_CREATE|os.O_EXCL|openWithoutSurprises, 0o600)
	if err == nil {
		if err := errors.Join(lock.Chmod(0o600), lock.Close()); err != nil { // whatever the umask
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	found, err := root.Lstat(f.lockName())
	if err != nil {
		return nil, err
	}
	if uid := statOf(found).Uid; !found.Mode().IsRegular() || found.Mode().Perm()&0o077 != 0 || statOf(found).Nlink > 1 || uid != 0 && uid != currentUID() {
		return nil, fmt.Errorf("%s%s is not the lock of a gate; remove it", f.dir, f.lockName())
	}
	// Not for writing: a disk with such a file open cannot be made read-only.
	if lock, err = root.OpenFile(f.lockName(), os.O_RDONLY|openWithoutSurprises, 0); err != nil {
		return nil, err
	}
	if opened, err := lock.Stat(); err != nil || !os.SameFile(opened, found) {
		_ = lock.Close()
		return nil, fs.ErrNotExist
	}
	return lock, nil
}

// isNamed reports whether an open file still has a name.
func isNamed(root *os.Root, name string, file *os.File) bool {
	opened, openErr := file.Stat()
	found, err := root.Lstat(name)
	return openErr == nil && err == nil && os.SameFile(opened, found)
}

func (h *Hold) removeLock(root *os.Root) {
	if isNamed(root, h.file.lockName(), h.lock) {
		_ = root.Remove(h.file.lockName())
	}
}
