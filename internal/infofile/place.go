package infofile

import (
	"errors"
	"fmt"
	"path/filepath"
)

// place is where something is that holds or names a secret: a file, a
// directory or a socket. Nobody but root, this process's user and the owner, if
// there is one, may be able to put something else there. Its errors name
// neither the option that it comes from nor its path, but the directory at fault.
type place struct {
	dir   string // absolute; it may lead through symbolic links
	owner fileOwner

	// lasting: nothing may be missing, or be another user's, in a directory in
	// which anybody can make something, such as /tmp.
	lasting bool
}

// CheckPlace refuses a path at which others than root and this process's user
// could put or change something: in each directory on the way from the root,
// those that symbolic links lead through as well, and in what is there. What
// does not exist yet is no fault.
func CheckPlace(path string) error {
	abs, err := absolutePath(path)
	if err != nil {
		return fmt.Errorf("%s: the path is relative and the working directory is unknown (%w); write an absolute path", path, err)
	}
	if err := checkPlace(abs); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// CheckWritable is CheckPlace for something that this process will make there.
// It reports whether the directory exists.
func CheckWritable(path string) (exists bool, err error) {
	if err := CheckPlace(path); err != nil {
		return false, err
	}
	abs, err := absolutePath(path)
	if err != nil {
		return false, err
	}
	dir, _ := filepath.Split(abs)
	parent, err := (&place{dir: dir}).walk()
	if err == nil {
		err = refuseUnwritable(parent.path)
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", path, err)
	}
	return len(parent.missing) == 0, nil
}

// findParent finds the file's directory, and makes sure of it.
func (f *File) findParent() (parentDir, error) {
	parent, err := (&place{dir: f.dir, owner: f.owner}).walk()
	if err == nil {
		err = refuseUnwritable(parent.path)
	}
	if err != nil {
		return parentDir{}, fmt.Errorf("server_info %s: %w", f.path, err)
	}
	return parent, nil
}

// ownersFault is a fault that the file's owner can make at any time, where that
// is another user.
type ownersFault struct{ err error }

func (e *ownersFault) Error() string { return e.err.Error() }
func (e *ownersFault) Unwrap() error { return e.err }

// IsOwnersFault reports whether the user who was given the file may have caused
// an error: by what that user made of the file, or of directories of its own. It
// must be no fault of the gate's other callers.
func IsOwnersFault(err error) bool {
	var fault *ownersFault
	return errors.As(err, &fault)
}
