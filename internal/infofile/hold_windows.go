package infofile

import (
	"errors"
	"io/fs"
	"os"

	"golang.org/x/sys/windows"
)

// acquire makes a file that nobody else can open or remove while we have it open,
// and that is gone when we have not. One that is there after all was left by a
// machine that lost its power.
func (f *File) acquire(root *os.Root) (*os.File, error) {
	for range 2 {
		lock, err := create(root, f.lockName(), "", windows.GENERIC_READ|windows.GENERIC_WRITE|windows.DELETE, 0,
			windows.FILE_NON_DIRECTORY_FILE|windows.FILE_DELETE_ON_CLOSE)
		if !errors.Is(err, fs.ErrExist) && !errors.Is(err, windows.ERROR_SHARING_VIOLATION) {
			return lock, err
		}
		if root.Remove(f.lockName()) != nil {
			break
		}
	}
	return nil, ErrInUse
}

func (h *Hold) removeLock(*os.Root) {}
