package infofile

import (
	"errors"
	"fmt"
	"os"
)

// ErrInUse says that another process publishes a file.
var ErrInUse = errors.New("a gate that runs publishes it; end that gate and wait until its process is gone, or give each gate its own")

// Hold is a process's claim on a place for a server-info file, from before it
// writes it until it ends, however it ends. A lock says that: a process id says
// nothing in another container. It is on an empty file beside the published one,
// which is replaced again and again.
type Hold struct {
	file *File
	lock *os.File // nil: the file system has no locks
}

// Hold claims the file's place, and makes its directories if they are missing.
// The error is ErrInUse if a process that lives has claimed it. Only we and root
// can: others cannot open the lock.
func (f *File) Hold() (*Hold, error) {
	root, err := f.openOrMakeDir()
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }()
	lock, err := f.acquire(root)
	if err != nil {
		return nil, fmt.Errorf("server_info %s: %w", f.path, err)
	}
	return &Hold{file: f, lock: lock}, nil
}

// Destruct gives the place back. It implements caddy.Destructor.
func (h *Hold) Destruct() error {
	if h.lock == nil {
		return nil
	}
	root, err := os.OpenRoot(h.file.dir + ".")
	if err == nil {
		h.removeLock(root)
		_ = root.Close()
	}
	return h.lock.Close()
}

// lockName is the name of the lock for a file.
func (f *File) lockName() string { return "." + f.base + ".lock" }

// openOrMakeDir opens the directory of the file, and makes what is missing of it.
func (f *File) openOrMakeDir() (*os.Root, error) {
	parent, err := f.findParent()
	if err != nil {
		return nil, err
	}
	root, err := f.open(parent)
	if err != nil || len(parent.missing) == 0 {
		return root, err
	}
	defer func() { _ = root.Close() }()
	return f.makeParents(root, parent)
}

// Tells reports whether the file is still there and says exactly what was written.
func (f *File) Tells(info Info) bool {
	content, err := info.line()
	if err != nil {
		return false
	}
	root, err := os.OpenRoot(f.dir + ".")
	if err != nil {
		return false
	}
	defer root.Close()
	found, err := root.Lstat(f.base)
	return err == nil && found.Mode().IsRegular() && f.holds(root, found, content)
}
