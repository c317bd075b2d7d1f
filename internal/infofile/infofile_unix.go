//go:build !windows

package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A word on access control lists. A POSIX ACL shows in the group bits of the
// mode, which are its mask: setting 0600 masks every entry that a default ACL of
// the directory has put on the file, and a directory to which an entry lets
// somebody write appears as group-writable. ACLs of the NFSv4 kind (macOS,
// FreeBSD's ZFS) do not show in the mode and are not looked at. Only the owner
// of a directory can set one, and that is root, us or the configured owner.

// openWithoutSurprises keeps open from following a symbolic link and from
// waiting for the other end of a FIFO.
const openWithoutSurprises = unix.O_NOFOLLOW | unix.O_NONBLOCK

// maxLinks is how many symbolic links a path may lead through, as in Linux.
const maxLinks = 40

// fileOwner is the user for whom the file is made. The zero value is ourselves.
type fileOwner struct {
	given    bool
	uid, gid uint32
	us       bool // it is who will run Caddy, where root only validates a config
}

func isFileName(string) bool { return true }

func absolutePath(path string) (string, error) {
	if filepath.IsAbs(path) {
		return path, nil
	}
	wd, err := os.Getwd()
	return wd + "/" + path, err
}

// parseFileOwner reads the owner option: user, user:group, or numeric ids.
func parseFileOwner(owner string) (fileOwner, error) {
	if owner == "" {
		return fileOwner{}, nil
	}
	const forms = "write user, user:group or numeric ids such as 1000:1000"
	name, group, hasGroup := strings.Cut(owner, ":")
	if name == "" || hasGroup && group == "" || strings.Contains(group, ":") {
		return fileOwner{}, errors.New("this is not an owner; " + forms)
	}
	uid, primary, ok := lookupUser(name)
	if !ok {
		return fileOwner{}, errors.New("there is no such user; " + forms)
	}
	if !hasGroup {
		group = primary
	}
	if group == "" {
		return fileOwner{}, fmt.Errorf("user %s is not known here, so neither is its group; write %s:GROUP", name, name)
	}
	gid, ok := lookupGroup(group)
	if !ok {
		return fileOwner{}, errors.New("there is no such group; " + forms)
	}
	o := fileOwner{given: true, uid: uid, gid: gid}
	return o, o.permitted()
}

// lookupUser resolves a name, or else a number, as chown does. The group is
// empty for a number without a user.
func lookupUser(name string) (uid uint32, group string, ok bool) {
	u, err := user.Lookup(name)
	if err != nil {
		if uid, ok = parseID(name); !ok {
			return 0, "", false
		}
		if u, err = user.LookupId(name); err != nil {
			return uid, "", true
		}
	}
	uid, ok = parseID(u.Uid)
	return uid, u.Gid, ok
}

func lookupGroup(name string) (gid uint32, ok bool) {
	if g, err := user.LookupGroup(name); err == nil {
		return parseID(g.Gid)
	}
	return parseID(name)
}

// parseID refuses the highest number: to chown it means "leave as it is".
func parseID(s string) (uint32, bool) {
	id, err := strconv.ParseUint(s, 10, 32)
	return uint32(id), err == nil && id != math.MaxUint32
}

// permitted reports whether the system will let us give a file to o.
func (o fileOwner) permitted() error {
	if os.Geteuid() == 0 {
		return nil
	}
	if o.uid != currentUID() {
		return errors.New("only root can give a file to another user; run the gate as root or as that user, or leave the owner out")
	}
	groups, err := os.Getgroups()
	if err != nil {
		return err
	}
	if int(o.gid) != os.Getegid() && !slices.Contains(groups, int(o.gid)) {
		return errors.New("only root can give a file to a group that it is not in; leave the group out")
	}
	return nil
}

func currentUID() uint32 { return uint32(os.Geteuid()) }

// isOther reports whether uid is the configured owner, and not us.
func (o fileOwner) isOther(uid uint32) bool {
	return o.given && uid == o.uid && uid != currentUID() && !o.us
}

// trusted reports whether uid may own the file.
func (o fileOwner) trusted(uid uint32) bool {
	return uid == currentUID() || o.given && uid == o.uid
}

// makeParents makes the missing directories below root and returns the last. They
// are for the owner alone, with mode 0700: the owner can then reach the file and
// nobody else can. They are handed over last to first and only after all exist,
// so that while we work in one of them nobody but us can.
func (f *File) makeParents(root *os.Root, parent parentDir) (*os.Root, error) {
	var made []*os.Root
	var err error
	for _, name := range parent.missing {
		var next *os.Root
		if next, err = makeDir(root, name); err != nil {
			break
		}
		made = append(made, next)
		root = next
	}
	for i := len(made) - 1; i >= 0 && err == nil && f.owner.given; i-- {
		err = made[i].Chown(".", int(f.owner.uid), int(f.owner.gid))
	}
	if err == nil {
		last := len(made) - 1
		closeAll(made[:last])
		return made[last], nil
	}
	closeAll(made)
	return nil, fmt.Errorf("server_info %s: its directory could not be made: %w", f.path, err)
}

func closeAll(roots []*os.Root) {
	for _, r := range roots {
		_ = r.Close()
	}
}

func makeDir(root *os.Root, name string) (*os.Root, error) {
	if err := root.Mkdir(name, 0o700); err != nil {
		return nil, err
	}
	made, err := root.OpenRoot(name)
	if errors.Is(err, fs.ErrPermission) {
		// A umask that takes our own rights away. It does not stop root, so
		// root never changes a mode by name.
		_ = root.Chmod(name, 0o700)
		made, err = root.OpenRoot(name)
	}
	if err != nil {
		return nil, err
	}
	if err := claimDir(made); err != nil {
		_ = made.Close()
		return nil, err
	}
	return made, nil
}

// claimDir makes sure that dir is the directory just made, for it may be handed
// over: if the directory above belongs to the configured owner, that user can put
// another of root's directories in its place and would be given that one. A
// directory of ours with nothing in it is as good as the one we made.
func claimDir(dir *os.Root) error {
	d, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	info, err := d.Stat()
	if err != nil {
		return err
	}
	if names, _ := d.Readdirnames(1); len(names) > 0 || statOf(info).Uid != currentUID() {
		return errors.New(d.Name() + " was replaced while it was being made")
	}
	if err := d.Chmod(0o700); err != nil {
		return err
	}
	if info, err = d.Stat(); err == nil && info.Mode().Perm() != 0o700 {
		err = errors.New("the file system does not keep file modes")
	}
	return err
}

// createTemp makes an empty file that nobody but the owner can ever read. The
// umask takes rights away from the mode given to open; chmod brings it to 0600.
func (f *File) createTemp(root *os.Root, name string) (*os.File, error) {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|openWithoutSurprises, 0o600)
	if err != nil {
		return nil, err
	}
	lock(file)
	if err := f.secure(file); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// secure works on the open file, never on its name. It looks at the outcome as
// well, because some file systems accept both calls and keep neither.
func (f *File) secure(file *os.File) error {
	if err := file.Chmod(0o600); err != nil {
		return err
	}
	if f.owner.given {
		if err := file.Chown(int(f.owner.uid), int(f.owner.gid)); err != nil {
			return err
		}
	}
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !f.isAsWeWrite(info) {
		return errors.New("the file system does not keep the file's owner and mode; name a path on one that does")
	}
	return nil
}

// isAsWeWrite reports whether the file has the owner and mode that write gives.
func (f *File) isAsWeWrite(info fs.FileInfo) bool {
	st := statOf(info)
	if info.Mode() != 0o600 {
		return false
	}
	if !f.owner.given {
		return st.Uid == currentUID()
	}
	return st.Uid == f.owner.uid && st.Gid == f.owner.gid
}

func (f *File) isOurs(_ *os.Root, found fs.FileInfo) bool {
	return f.owner.trusted(statOf(found).Uid)
}

// refuseAccess refuses an existing file that somebody else has, or could have,
// a hand on.
func (f *File) refuseAccess(_ *os.Root, found fs.FileInfo) error {
	if uid := statOf(found).Uid; !f.owner.trusted(uid) && !f.former.trusted(uid) {
		return refuse(f.path, fmt.Sprintf("it belongs to uid %d", uid), removeIt)
	}
	return refuseLoose(f.path, found)
}

func refuseLoose(path string, info fs.FileInfo) error {
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return refuse(path, fmt.Sprintf("its mode %04o lets its group or others access it", perm), removeIt)
	}
	if statOf(info).Nlink > 1 {
		return refuse(path, "it has other hard links, so others may have it under another name", removeIt)
	}
	return nil
}

// open opens the file for reading. A first look gives a good error, and keeps
// devices from being opened at all. Only the second look counts: it is at the
// file that is open.
func open(path string) (*os.File, error) {
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("server_info %s: %w; is the gate running, and is this its server_info?", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("server_info %s: %w", path, err)
	}
	if err := refuseForeign(path, info); err != nil {
		return nil, err
	}
	file, err := os.OpenFile(path, os.O_RDONLY|openWithoutSurprises, 0)
	if err != nil {
		return nil, fmt.Errorf("server_info %s: %w", path, err)
	}
	if info, err = file.Stat(); err == nil {
		err = refuseForeign(path, info)
	}
	if err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// refuseForeign refuses to read what others could have written or can read.
func refuseForeign(path string, info fs.FileInfo) error {
	if err := refuseKind(path, info.Mode()); err != nil {
		return err
	}
	if uid := statOf(info).Uid; uid != currentUID() {
		return refuse(path, fmt.Sprintf("it belongs to uid %d, and you are uid %d", uid, currentUID()),
			fmt.Sprintf("if that user is the gate's owner option, run this as that user (sudo -u '#%d' ...)", uid))
	}
	return refuseLoose(path, info)
}

func statOf(info fs.FileInfo) *syscall.Stat_t { return info.Sys().(*syscall.Stat_t) }

// isInOwnersHands reports whether the configured owner is another user, and has
// the file or its directory.
func (f *File) isInOwnersHands(root *os.Root, found fs.FileInfo) bool {
	if f.owner.isOther(statOf(found).Uid) {
		return true
	}
	dir, err := root.Stat(".")
	return err == nil && f.owner.isOther(statOf(dir).Uid)
}
