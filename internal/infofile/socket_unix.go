//go:build !windows

package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
)

// CheckSocket refuses a unix socket in whose directories others can replace
// files, and a path at which something else is than a socket of our own. Others
// could put a socket of their own in its place, and be sent what is meant for
// Caddy; or a link, and Caddy would give the file that it leads to the socket's
// mode.
//
// Nobody but root and the user who runs this process is trusted with one of the
// directories. Only where root validates a config, the directory may belong to
// another user as well: that is who will run Caddy.
func CheckSocket(path string) error {
	if strings.HasPrefix(path, "@") {
		return nil // abstract: it is in no directory
	}
	abs, err := absolutePath(path)
	if err != nil {
		return fmt.Errorf("unix socket %s: %w", path, err)
	}
	if process.IsValidating() {
		err = checkSocketDirOfAnyone(abs)
	} else {
		err = checkSocket(abs)
	}
	// A directory that Caddy cannot use is not ours to complain about.
	if err == nil || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return nil
	}
	return fmt.Errorf("unix socket %s: %w", path, err)
}

func checkSocket(path string) error {
	dir, base := filepath.Split(path)
	parent, err := (&place{dir: dir}).walk()
	if err != nil || len(parent.missing) > 0 {
		return err
	}
	found, err := os.Lstat(parent.path + "/" + base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case found.Mode().Type() != fs.ModeSocket:
		return errors.New("something else than a socket is there; remove it, or name another path")
	case statOf(found).Uid != currentUID() && statOf(found).Uid != 0:
		return fmt.Errorf("a socket of uid %d is there; remove it, or name another path", statOf(found).Uid)
	}
	return nil
}

// checkSocketDirOfAnyone trusts the user whose directory it is.
func checkSocketDirOfAnyone(path string) error {
	dir, _ := filepath.Split(path)
	_, err := placeOfAnyone(dir).walk()
	return err
}

// placeOfAnyone trusts the user whose directory it is.
func placeOfAnyone(dir string) *place {
	p := &place{dir: dir}
	if info, err := os.Lstat(dir + "."); err == nil && statOf(info).Uid != 0 { // (root is trusted anyway)
		p.owner = fileOwner{given: true, uid: statOf(info).Uid}
	}
	return p
}

// CheckUpstreamSocket refuses a unix socket that is there for this process to
// connect to, and whose place another user could take, now or while nobody
// listens there. It may be another user's, in a directory of that user's.
func CheckUpstreamSocket(path string) error {
	if strings.HasPrefix(path, "@") {
		return fmt.Errorf("unix socket %s: an abstract socket belongs to whoever takes its name first; name a path", path)
	}
	abs, err := absolutePath(path)
	if err == nil {
		err = checkUpstreamSocket(abs, maxLinks)
	}
	if err == nil || errors.Is(err, fs.ErrPermission) { // (nor can it connect there)
		return nil
	}
	return fmt.Errorf("unix socket %s: %w", path, err)
}

func checkUpstreamSocket(path string, links int) error {
	dir, base := filepath.Split(path)
	p := placeOfAnyone(dir)
	p.lasting = !process.IsValidating() // the user who will run Caddy has places of its own
	parent, err := p.walk()
	if err == nil {
		err = refuseShared(parent)
	}
	if err != nil || len(parent.missing) > 0 {
		return err
	}
	target, isLink, err := p.followLink(parent.path + "/" + base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil || !isLink:
		return err
	case links == 0:
		return errors.New("the path leads through too many symbolic links; name another path")
	case !filepath.IsAbs(target):
		target = parent.path + "/" + target
	}
	return checkUpstreamSocket(target, links-1)
}
