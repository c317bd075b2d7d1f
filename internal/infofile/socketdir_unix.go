//go:build !windows

package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// CheckSocketDir refuses a unix socket in whose directories others can
// exchange files. They could put a socket of their own in its place, and be
// sent what is meant for Caddy; or a link, and Caddy would give the file that
// it leads to the socket's mode.
//
// The user whose directory it is may: that is who runs Caddy, although it may
// be root who validates the config.
func CheckSocketDir(path string) error {
	if strings.HasPrefix(path, "@") {
		return nil // abstract: it is in no directory
	}
	file, err := New(path, "")
	if err == nil {
		if dir, err := os.Lstat(file.dir + "."); err == nil {
			file.owner = fileOwner{given: true, uid: statOf(dir).Uid}
		}
		_, err = file.findParent()
	}
	// A directory that Caddy cannot use is not ours to complain about.
	if err == nil || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return nil
	}
	return fmt.Errorf("unix socket %s", strings.TrimPrefix(err.Error(), "server_info "))
}
