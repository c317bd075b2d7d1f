package infofile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/windows"
)

// On Windows the file, and every directory made for it, gets an access control
// list with a single entry, for the user that runs the gate, which inherits
// nothing. The list is part of the call that creates the file: one that is put
// on later leaves a moment in which others can open it.
//
// Promised: nobody but us, SYSTEM, administrators and the system's installer can
// access an accepted file or change an accepted directory. Junctions, symbolic links and other reparse points are
// refused anywhere in the path instead of being followed. Entries that deny are
// not counted in anybody's favour, so an odd but safe list may be refused.

// openWithoutSurprises is empty: there are no FIFOs in directories here, and
// reparse points are refused before.
const openWithoutSurprises = 0

const (
	fileDeleteChild windows.ACCESS_MASK = 0x40 // not in x/sys

	anyAccess windows.ACCESS_MASK = 0xffffffff

	// mayReplace is what it takes to put something else in the place of a
	// directory's content, or of the directory itself.
	mayReplace = windows.DELETE | fileDeleteChild | windows.WRITE_DAC |
		windows.WRITE_OWNER | windows.GENERIC_ALL

	// mayWrite is that, and making files. Anybody may make directories in C:\,
	// so it is asked only of the directory that has the file.
	mayWrite = mayReplace | windows.FILE_WRITE_DATA | windows.FILE_APPEND_DATA |
		windows.FILE_WRITE_EA | windows.FILE_WRITE_ATTRIBUTES | windows.GENERIC_WRITE
)

// fileOwner is always ourselves.
type fileOwner struct{}

func parseFileOwner(owner string) (fileOwner, error) {
	if owner != "" {
		return fileOwner{}, errors.New("not supported on Windows, where the file is for the user that runs the gate alone; leave the owner out and run the gate as that user")
	}
	return fileOwner{}, nil
}

func absolutePath(path string) (string, error) { return filepath.Abs(path) }

// isFileName refuses devices such as NUL and the streams behind a colon.
func isFileName(name string) bool {
	return filepath.IsLocal(name) && !strings.Contains(name, ":")
}

// openItself opens what is at path, without following a link.
func openItself(path string, access uint32) (*os.File, error) {
	name, err := windows.UTF16PtrFromString(path)
	if err != nil {
		return nil, err
	}
	h, err := windows.CreateFile(name, access,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, nil, windows.OPEN_EXISTING,
		windows.FILE_FLAG_BACKUP_SEMANTICS|windows.FILE_FLAG_OPEN_REPARSE_POINT, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(h), path), nil
}

func attributesOf(file *os.File) (attributes, links uint32, err error) {
	var info windows.ByHandleFileInformation
	if err := windows.GetFileInformationByHandle(windows.Handle(file.Fd()), &info); err != nil {
		return 0, 0, err
	}
	return info.FileAttributes, info.NumberOfLinks, nil
}

// refuseOthers refuses an object that belongs to somebody else, who could change
// its list at any time, or whose list gives somebody else a dangerous right.
func refuseOthers(file *os.File, dangerous windows.ACCESS_MASK) error {
	sd, err := windows.GetSecurityInfo(windows.Handle(file.Fd()), windows.SE_FILE_OBJECT,
		windows.OWNER_SECURITY_INFORMATION|windows.DACL_SECURITY_INFORMATION)
	if err != nil {
		return fmt.Errorf("its access control list cannot be read (%w)", err)
	}
	owner, _, err := sd.Owner()
	if err != nil || owner == nil || !isTrusted(owner) {
		return errors.New("it belongs to somebody else")
	}
	dacl, _, err := sd.DACL()
	if err != nil || dacl == nil {
		return errors.New("it has no access control list, so everybody has access")
	}
	for n := range uint32(dacl.AceCount) {
		var ace *windows.ACCESS_ALLOWED_ACE
		if err := windows.GetAce(dacl, n, &ace); err != nil {
			return fmt.Errorf("its access control list cannot be read (%w)", err)
		}
		if err := refuseEntry(ace, dangerous); err != nil {
			return err
		}
	}
	runtime.KeepAlive(sd)
	return nil
}

func refuseEntry(ace *windows.ACCESS_ALLOWED_ACE, dangerous windows.ACCESS_MASK) error {
	if ace.Header.AceType == windows.ACCESS_DENIED_ACE_TYPE || ace.Header.AceFlags&windows.INHERIT_ONLY_ACE != 0 {
		return nil
	}
	if ace.Header.AceType != windows.ACCESS_ALLOWED_ACE_TYPE {
		return errors.New("its access control list has an entry of an unusual type")
	}
	sid := (*windows.SID)(unsafe.Pointer(&ace.SidStart))
	if ace.Mask&dangerous != 0 && !isTrusted(sid) {
		return fmt.Errorf("%s has access to it", sid)
	}
	return nil
}

// isTrusted knows us, SYSTEM, Administrators, the installer that owns the
// system's directories, and the two that stand for an object's owner.
func isTrusted(sid *windows.SID) bool {
	switch sid.String() {
	case "S-1-5-18", "S-1-5-32-544", "S-1-3-0", "S-1-3-4",
		"S-1-5-80-956008885-3418522649-1831038044-1853292631-2271478464":
		return true
	}
	us, err := currentUser()
	return err == nil && sid.Equals(us)
}

func currentUser() (*windows.SID, error) {
	u, err := windows.GetCurrentProcessToken().GetTokenUser()
	if err != nil {
		return nil, err
	}
	return u.User.Sid, nil
}

// create makes a file or directory that is ours alone, below an open directory.
// os.Root cannot do that: it has no way to pass an access control list.
func create(root *os.Root, name, inherit string, access, share, options uint32) (*os.File, error) {
	us, err := currentUser()
	if err != nil {
		return nil, err
	}
	sd, err := windows.SecurityDescriptorFromString(fmt.Sprintf("O:%sD:P(A;%s;FA;;;%s)", us, inherit, us))
	if err != nil {
		return nil, err
	}
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	ntName, err := windows.NewNTUnicodeString(name)
	if err != nil {
		return nil, err
	}
	oa := &windows.OBJECT_ATTRIBUTES{RootDirectory: windows.Handle(dir.Fd()), ObjectName: ntName, SecurityDescriptor: sd}
	oa.Length = uint32(unsafe.Sizeof(*oa))
	var h windows.Handle
	var iosb windows.IO_STATUS_BLOCK
	err = windows.NtCreateFile(&h, access|windows.READ_CONTROL|windows.FILE_READ_ATTRIBUTES|windows.SYNCHRONIZE,
		oa, &iosb, nil, windows.FILE_ATTRIBUTE_NORMAL, share, windows.FILE_CREATE,
		options|windows.FILE_SYNCHRONOUS_IO_NONALERT|windows.FILE_OPEN_REPARSE_POINT, 0, 0)
	runtime.KeepAlive(dir)
	if err != nil {
		var status windows.NTStatus
		if errors.As(err, &status) {
			err = status.Errno()
		}
		return nil, &fs.PathError{Op: "create", Path: name, Err: err}
	}
	file := os.NewFile(uintptr(h), name)
	// FAT and some network drives take the list and keep nothing of it.
	if err := refuseOthers(file, anyAccess); err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", name, err), file.Close())
	}
	return file, nil
}

func (f *File) makeParents(root *os.Root, parent parentDir) (*os.Root, error) {
	at := root
	for _, name := range parent.missing {
		next, err := makeDir(at, name)
		if at != root {
			_ = at.Close()
		}
		if err != nil {
			return nil, fmt.Errorf("server_info %s: its directory could not be made: %w", f.path, err)
		}
		at = next
	}
	return at, nil
}

func makeDir(root *os.Root, name string) (*os.Root, error) {
	dir, err := create(root, name, "OICI", windows.FILE_LIST_DIRECTORY,
		windows.FILE_SHARE_READ|windows.FILE_SHARE_WRITE|windows.FILE_SHARE_DELETE, windows.FILE_DIRECTORY_FILE)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	next, err := root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	made, err := dir.Stat()
	if err == nil {
		var opened fs.FileInfo
		if opened, err = next.Stat("."); err == nil && !os.SameFile(made, opened) {
			err = errors.New(name + " was replaced while it was being made")
		}
	}
	if err != nil {
		_ = next.Close()
		return nil, err
	}
	return next, nil
}

// createTemp makes an empty file that nobody else can ever read, or open at all
// while we have it open.
func (f *File) createTemp(root *os.Root, name string) (*os.File, error) {
	return create(root, name, "", windows.GENERIC_READ|windows.GENERIC_WRITE, 0, windows.FILE_NON_DIRECTORY_FILE)
}

// isAsWeWrite has nothing to add: refuseAccess has found the file to be private.
func (f *File) isAsWeWrite(fs.FileInfo) bool { return true }

func (f *File) isOurs(root *os.Root, found fs.FileInfo) bool {
	// No dangerous right: only the owner counts.
	return f.examine(root, found, func(file *os.File) error { return refuseOthers(file, 0) }) == nil
}

func (f *File) refuseAccess(root *os.Root, found fs.FileInfo) error {
	err := f.examine(root, found, refuseShared)
	if err != nil {
		return refuse(f.path, err.Error(), removeIt)
	}
	return nil
}

// examine opens the file that was found and applies a judgement to it.
func (f *File) examine(root *os.Root, found fs.FileInfo, judge func(*os.File) error) error {
	file, err := root.OpenFile(f.base, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	opened, err := file.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(opened, found) {
		return errors.New("it was replaced while it was being checked")
	}
	return judge(file)
}

func refuseShared(file *os.File) error {
	_, links, err := attributesOf(file)
	if err != nil {
		return err
	}
	if links > 1 {
		return errors.New("it has other hard links, so others may have it under another name")
	}
	return refuseOthers(file, anyAccess)
}

func open(path string) (*os.File, error) {
	file, err := openItself(path, windows.GENERIC_READ)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("server_info %s: %w; is the gate running, and is this its server_info?", path, fs.ErrNotExist)
	}
	if err != nil {
		return nil, fmt.Errorf("server_info %s: %w", path, err)
	}
	if err := refuseForeign(path, file); err != nil {
		_ = file.Close()
		return nil, err
	}
	return file, nil
}

// refuseForeign refuses to read what others could have written or can read.
func refuseForeign(path string, file *os.File) error {
	const notAFile = "it is not a regular file"
	kind, err := windows.GetFileType(windows.Handle(file.Fd()))
	if err != nil || kind != windows.FILE_TYPE_DISK {
		return refuse(path, notAFile, namesAnother)
	}
	attributes, _, err := attributesOf(file)
	if err != nil || attributes&(windows.FILE_ATTRIBUTE_REPARSE_POINT|windows.FILE_ATTRIBUTE_DIRECTORY) != 0 {
		return refuse(path, notAFile, namesAnother)
	}
	if err := refuseShared(file); err != nil {
		return refuse(path, err.Error(), namesAnother)
	}
	sd, err := windows.GetSecurityInfo(windows.Handle(file.Fd()), windows.SE_FILE_OBJECT, windows.OWNER_SECURITY_INFORMATION)
	if err != nil {
		return refuse(path, "its owner cannot be read", namesAnother)
	}
	owner, _, ownerErr := sd.Owner()
	us, err := currentUser()
	if errors.Join(ownerErr, err) != nil || owner == nil || !owner.Equals(us) {
		return refuse(path, "it does not belong to you", "run this as the user that runs the gate")
	}
	return nil
}

// isInOwnersHands is false: the owner is always ourselves.
func (f *File) isInOwnersHands(*os.Root, fs.FileInfo) bool { return false }
