package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
)

// OpenPrivateDir opens the directory, and makes it if it is missing. It opens
// the very directory that it has checked.
func OpenPrivateDir(path string) (*os.Root, error) {
	checked, err := CheckPrivateDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makePrivateDir(path); err != nil {
			return nil, err
		}
		checked, err = CheckPrivateDir(path)
	}
	if err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, err
	}
	opened, err := root.Stat(".")
	if err == nil && !os.SameFile(checked, opened) {
		err = fmt.Errorf("%s was replaced by another directory just now", path)
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return root, nil
}

// makePrivateDir makes the directory, and those above that are missing, where
// nobody else can replace one of them.
func makePrivateDir(path string) error {
	f := &File{path: path, dir: path + string(os.PathSeparator), base: "."}
	parent, err := (&place{dir: f.dir}).walk()
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	root, err := f.open(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	made, err := f.makeParents(root, parent)
	if errors.Is(err, fs.ErrExist) {
		return nil // another gate has made it at the same moment
	}
	if err != nil {
		return err
	}
	return made.Close()
}

// CheckPrivateDir refuses a directory in which others could read the dumps, or
// that is somewhere else than its path says.
func CheckPrivateDir(path string) (fs.FileInfo, error) {
	if runtime.GOOS == "windows" {
		// A new directory there takes its ACL over from its parent, and mode
		// bits do not show who is on it.
		return nil, errors.New("dumps are not supported on Windows, where the gate cannot tell who could read them; leave the option out")
	}
	above, _ := filepath.Split(path)
	var owner fileOwner
	if process.IsValidating() {
		owner = whoWillRun(path)
	}
	if _, err := (&place{dir: above, owner: owner}).walk(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	info, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	switch perm := info.Mode().Perm(); {
	case info.Mode().Type() == fs.ModeSymlink:
		return nil, fmt.Errorf("%s is a symlink, which may be turned to another place; write the path of the directory itself", path)
	case !info.IsDir():
		return nil, fmt.Errorf("%s is not a directory; write the path of one, or of one to make", path)
	case !isOwnedByUs(info, owner):
		return nil, fmt.Errorf("%s belongs to another user than the one who runs Caddy (uid %d), who could read the dumps; write the path of a directory of that user, or of one to make", path, os.Geteuid())
	case perm&0o077 != 0:
		return nil, fmt.Errorf("%s can be reached by others than its owner (mode %04o), and dumps have whole conversations in them; run: chmod 700 %s", path, perm, path)
	}
	return info, nil
}
