//go:build !windows

package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"golang.org/x/sys/unix"
)

// walk follows the path's directories one by one from the root and checks
// each, those that a symbolic link leads through as well: whoever can rename one
// of them can replace everything below. Since a directory is looked at only
// after the one above has been found safe, nobody else can replace it later.
//
// The configured owner can replace what is below a directory of its own, for a
// link to any other. There, only its own directories will do: we must not make a
// file that is the owner's in a directory where the owner could not.
func (p *place) walk() (_ parentDir, err error) {
	top, err := p.enter("/")
	if err != nil {
		return parentDir{}, err
	}
	at, names, links, ownersHands := top, pathNames(p.dir), 0, false
	defer func() {
		if err != nil && ownersHands {
			err = &ownersFault{err}
		}
	}()
	for len(names) > 0 {
		next := filepath.Join(at.path, names[0])
		target, isLink, err := p.followLink(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) && !slices.Contains(names, ".."):
			at.missing = names
			return at, nil
		case err != nil:
			return parentDir{}, err
		case isLink && links == maxLinks:
			return parentDir{}, errors.New("the path leads through too many symbolic links; name another path")
		case isLink:
			if filepath.IsAbs(target) {
				at = top
			}
			names, links = append(pathNames(target), names[1:]...), links+1
		default:
			above := at
			if at, err = p.enter(next); err != nil {
				ownersHands = ownersHands || p.isOwners(next)
				return parentDir{}, err
			}
			owners := p.owner.isOther(statOf(at.info).Uid)
			if p.lasting && owners {
				if err := refuseShared(above); err != nil {
					return parentDir{}, fmt.Errorf("directory %s belongs to uid %d, and %w", next, p.owner.uid, err)
				}
			}
			if ownersHands && !owners {
				return parentDir{}, fmt.Errorf("directory %s is below one of uid %d, and is not that user's; run chown %[2]d %[1]s or name a path elsewhere",
					next, p.owner.uid)
			}
			ownersHands = owners
			names = names[1:]
		}
	}
	return at, nil
}

// isOwners reports whether a path is the configured owner's, and that is another user.
func (p *place) isOwners(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && p.owner.isOther(statOf(info).Uid)
}

// pathNames splits a path and drops what does not move: empty names and dots.
func pathNames(path string) []string {
	return slices.DeleteFunc(strings.Split(path, "/"), func(name string) bool {
		return name == "" || name == "."
	})
}

// followLink returns where path leads if it is a symbolic link. In a directory
// like /tmp anybody can make one, so it has to be root's or ours. One of the
// configured owner's could lead to where that user cannot make files.
func (p *place) followLink(path string) (target string, isLink bool, err error) {
	info, err := os.Lstat(path)
	if err != nil {
		return "", false, err
	}
	if info.Mode()&fs.ModeSymlink == 0 {
		return "", false, nil
	}
	if uid := statOf(info).Uid; uid != 0 && uid != currentUID() {
		return "", true, fmt.Errorf("the path leads through the symbolic link %s, which belongs to uid %d; name a path that does not", path, uid)
	}
	if target, err = os.Readlink(path); err != nil {
		return "", true, err
	}
	return target, true, nil
}

// enter refuses a directory in which others can replace files. The sticky bit,
// as on /tmp, makes a writable directory safe: there only its owner and theirs
// can rename or remove what somebody has made.
func (p *place) enter(path string) (parentDir, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return parentDir{}, err
	}
	mode, uid := info.Mode(), statOf(info).Uid
	switch {
	case !mode.IsDir():
		return parentDir{}, fmt.Errorf("%s is not a directory; name another path", path)
	case uid != 0 && !p.owner.trusted(uid):
		return parentDir{}, fmt.Errorf("directory %s belongs to uid %d, who could replace the file; name a path in a directory that only root or you can change", path, uid)
	case mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0:
		return parentDir{}, fmt.Errorf("others can write to directory %s (mode %04o) and replace the file; run chmod go-w %[1]s or name a path elsewhere", path, mode.Perm())
	}
	return parentDir{path: path, info: info}, nil
}

// refuseShared refuses a directory in which others than its owner can make
// something that is not there, also one with the sticky bit.
func refuseShared(dir parentDir) error {
	if perm := dir.info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("others can write to directory %s (mode %04o) and put something of theirs there; run chmod go-w %[1]s or name a path elsewhere, such as in a directory below /run", dir.path, perm)
	}
	return nil
}

// refuseUnwritable finds out before the server starts what would keep a file
// from being made once it has.
func refuseUnwritable(dir string) error {
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("uid %d cannot make files in directory %s: %w; name a path elsewhere", currentUID(), dir, err)
	}
	return nil
}

// resolve follows a path to what it leads to, and makes sure of each directory
// and each link on the way. If nothing is there, the error is fs.ErrNotExist.
func (p *place) resolve(path string) (resolved string, found fs.FileInfo, err error) {
	for range maxLinks {
		dir, base := filepath.Split(path)
		at := &place{dir: dir, owner: p.owner}
		parent, err := at.walk()
		if err != nil {
			return "", nil, err
		}
		resolved = filepath.Join(append(append([]string{parent.path}, parent.missing...), base)...)
		target, isLink, err := at.followLink(resolved)
		if err != nil {
			return resolved, nil, err
		}
		if !isLink {
			found, err = os.Lstat(resolved)
			return resolved, found, err
		}
		if path = target; !filepath.IsAbs(target) {
			path = parent.path + "/" + target
		}
	}
	return "", nil, errors.New("the path leads through too many symbolic links; name another path")
}

// whoWillRun is whose directory it is, or the nearest above that is there, for a
// config that is only validated: where root does that, that user will run Caddy.
// Else it is ourselves.
func whoWillRun(dir string) fileOwner {
	if currentUID() != 0 {
		return fileOwner{}
	}
	for {
		if info, err := os.Stat(dir); err == nil {
			return fileOwner{given: true, us: true, uid: statOf(info).Uid}
		}
		above := filepath.Dir(filepath.Clean(dir))
		if above == dir {
			return fileOwner{}
		}
		dir = above
	}
}

func checkPlace(path string) error {
	resolved, found, err := new(place).resolve(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return refuseForeignThing(resolved, found)
}

// refuseForeignThing refuses what others have made, or can write to.
func refuseForeignThing(path string, found fs.FileInfo) error {
	uid, mode := statOf(found).Uid, found.Mode()
	switch {
	case uid != 0 && uid != currentUID():
		return fmt.Errorf("%s belongs to uid %d, who can change it at any time; run: chown %d %[1]s, once you know what is in it", path, uid, currentUID())
	case mode.Perm()&0o022 != 0 && mode&fs.ModeSticky == 0:
		return fmt.Errorf("others than its owner can write to %s (mode %04o); run: chmod go-w %[1]s", path, mode.Perm())
	}
	return nil
}

// OpenSecret opens a file that has a secret in it, and makes sure that nobody
// else could have written it, or put it there, and that not everybody can read
// it. The group may: that is how service accounts are handed secrets. Its
// errors name the path that is at fault.
func OpenSecret(path string) (*os.File, fs.FileInfo, error) {
	abs, err := absolutePath(path)
	if err != nil {
		return nil, nil, err
	}
	p := secretPlace(abs)
	resolved, found, err := p.resolve(abs)
	if err != nil {
		return nil, nil, err
	}
	if err := refuseOpenSecret(resolved, found, p); err != nil { // before it is opened: a FIFO would block
		return nil, nil, err
	}
	file, err := os.OpenFile(resolved, os.O_RDONLY|openWithoutSurprises, 0)
	if err != nil {
		return nil, nil, err
	}
	opened, err := file.Stat()
	if err == nil {
		err = refuseOpenSecret(resolved, opened, p)
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, opened, nil
}

// secretPlace trusts root and this process's user. Where root only validates a
// config, the user is trusted whose file it is: that is who will run Caddy.
func secretPlace(path string) *place {
	p := new(place)
	if info, err := os.Stat(path); err == nil && currentUID() == 0 && process.IsValidating() {
		p.owner = fileOwner{given: true, uid: statOf(info).Uid}
	}
	return p
}

// RootsInAnothersDirectory reports whether only root can write to a file, though
// its directory belongs to another user, and who that is, with the directory's group.
func RootsInAnothersDirectory(path string) (uid, gid uint32, found bool) {
	file, err := os.Lstat(path)
	dir, dirErr := os.Stat(filepath.Dir(path))
	if err != nil || dirErr != nil || statOf(file).Uid != 0 || file.Mode().Perm()&0o022 != 0 {
		return 0, 0, false
	}
	owner := statOf(dir)
	return owner.Uid, owner.Gid, owner.Uid != 0
}

// refuseOpenSecret refuses a file with a secret that others could have written,
// or that everybody can read.
func refuseOpenSecret(path string, found fs.FileInfo, p *place) error {
	if !found.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", path)
	}
	if perm := found.Mode().Perm(); perm&0o004 != 0 {
		return fmt.Errorf("every user can read it (mode %04o); run: chmod o= %s (in Kubernetes, write defaultMode: 0440 on the volume and the container's group as the pod's fsGroup)", perm, path)
	}
	if uid := statOf(found).Uid; uid != 0 && !p.owner.trusted(uid) {
		return fmt.Errorf("%s belongs to uid %d, who could replace the secret at any time; run: chown %d %[1]s", path, uid, currentUID())
	}
	if perm := found.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("others than its owner can write to it (mode %04o); run: chmod go-w %s", perm, path)
	}
	return nil
}
