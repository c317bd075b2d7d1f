package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/windows"
)

// walk checks each directory of the path, as far as they exist.
func (p *place) walk() (parentDir, error) {
	volume := filepath.VolumeName(p.dir)
	at := parentDir{path: volume + `\`}
	names := strings.FieldsFunc(p.dir[len(volume):], func(r rune) bool { return r == '\\' || r == '/' })
	for i := 0; ; i++ {
		dangerous := windows.ACCESS_MASK(mayReplace)
		if i == len(names) {
			dangerous = mayWrite
		}
		info, err := p.enter(at.path, dangerous)
		if i > 0 && errors.Is(err, fs.ErrNotExist) {
			at.path, at.missing = filepath.Dir(at.path), names[i-1:]
			return at, nil
		}
		if err != nil {
			return parentDir{}, err
		}
		at.info = info
		if i == len(names) {
			return at, nil
		}
		at.path = filepath.Join(at.path, names[i])
	}
}

// enter refuses a directory to which others have a dangerous right.
func (p *place) enter(path string, dangerous windows.ACCESS_MASK) (fs.FileInfo, error) {
	dir, err := openItself(path, windows.READ_CONTROL|windows.FILE_READ_ATTRIBUTES)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return nil, err
	}
	attributes, _, err := attributesOf(dir)
	if err != nil {
		return nil, err
	}
	if attributes&windows.FILE_ATTRIBUTE_REPARSE_POINT != 0 {
		return nil, fmt.Errorf("%s is a symbolic link, junction or other reparse point; write the path of the directory that it leads to", path)
	}
	if !info.IsDir() {
		return nil, fmt.Errorf("%s is not a directory; name another path", path)
	}
	if err := refuseOthers(dir, dangerous); err != nil {
		return nil, fmt.Errorf("directory %s: %w; name a path that others cannot change, for example in your profile", path, err)
	}
	return info, nil
}

// refuseUnwritable finds nothing out here.
func refuseUnwritable(string) error { return nil }

// whoWillRun is always ourselves.
func whoWillRun(string) fileOwner { return fileOwner{} }

func checkPlace(path string) error {
	dir, _ := filepath.Split(path)
	_, err := (&place{dir: dir}).walk()
	return err
}

// OpenSecret opens a file that has a secret in it. The access control list of
// the directory decides who may read and replace it. That list is not checked:
// a safe list has too many forms.
func OpenSecret(path string) (*os.File, fs.FileInfo, error) {
	info, err := os.Stat(path) // before it is opened: a pipe would block
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("%s is not a regular file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	info, err = file.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

// RootsInAnothersDirectory finds nothing: there is no root.
func RootsInAnothersDirectory(string) (uid, gid uint32, found bool) { return 0, 0, false }
