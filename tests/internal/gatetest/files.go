//go:build unix

package gatetest

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TempDir is a directory with a short path: unix sockets allow 100 bytes.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// WriteFile writes a file with mode 0600.
func WriteFile(t testing.TB, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// ReadFile reads a whole file.
func ReadFile(t testing.TB, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// Missing reports whether nothing is at path, not even a dangling symlink.
func Missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// Tree describes everything under dir: a refused start must not change it.
func Tree(t testing.TB, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		stat, err := os.Lstat(path)
		if err != nil {
			return err
		}
		sys := stat.Sys().(*syscall.Stat_t)
		content := ""
		switch {
		case stat.Mode().IsRegular():
			raw, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			content = string(raw)
		case stat.Mode()&fs.ModeSymlink != 0:
			content, _ = os.Readlink(path)
		}
		_, _ = fmt.Fprintf(&b, "%s %v inode %d links %d owner %d:%d modified %v %q\n",
			path, stat.Mode(), sys.Ino, sys.Nlink, sys.Uid, sys.Gid, stat.ModTime(), content)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// Must fails the test at an error.
func Must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Mkdir makes a directory with this mode, whatever the umask.
func Mkdir(t testing.TB, path string, mode os.FileMode) {
	t.Helper()
	Must(t, os.MkdirAll(path, 0o700))
	Must(t, os.Chmod(path, mode))
}
