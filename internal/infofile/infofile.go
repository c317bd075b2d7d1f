// Package infofile publishes the server-info file, and makes sure that nobody
// else can read or replace it: neither the file, nor a directory, nor a socket
// of the gate's. It knows nothing of the gate's requests.
package infofile

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	strictjson "github.com/go-json-experiment/json"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// maxServerInfoSize is far above any real server-info file (some 150 bytes)
// and keeps a wrong path from filling the memory.
const maxServerInfoSize = 64 << 10

// Info tells a local program where the gate listens and which token it wants.
type Info struct {
	Port   int    // 0: it listens on a socket
	Socket string // its path; "": it listens on a port
	PID    int
	Token  secret.Secret

	// BaseURL is what a program puts before the paths of the API.
	BaseURL string
}

// wire is Info as the file has it: one line of JSON, with the token.
type wire struct {
	Port      int    `json:"port,omitempty"`
	Socket    string `json:"socket,omitempty"`
	PID       int    `json:"pid"`
	AuthToken string `json:"auth_token"`
	BaseURL   string `json:"base_url"`
}

// line is the content of the file.
func (i Info) line() ([]byte, error) {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	// The file is no HTML: a token with an ampersand stays readable for
	// programs that take it out with simpler means than a JSON parser.
	enc.SetEscapeHTML(false)
	err := enc.Encode(wire{Port: i.Port, Socket: i.Socket, PID: i.PID, AuthToken: i.Token.Reveal(), BaseURL: i.BaseURL})
	return b.Bytes(), err
}

// Parse reads the content of a server-info file. Its errors never
// wrap those of JSON or net/url, which quote their input, and the
// input may be a token.
func Parse(content []byte) (Info, error) {
	var w wire
	if strictjson.Unmarshal(content, &w, strictjson.RejectUnknownMembers(true)) != nil {
		return Info{}, errors.New("it does not hold the JSON object that the gate writes, or something beside it")
	}
	if err := w.validate(); err != nil {
		return Info{}, err
	}
	return Info{Port: w.Port, Socket: w.Socket, PID: w.PID, Token: secret.New(w.AuthToken), BaseURL: w.BaseURL}, nil
}

func (w wire) validate() error {
	switch {
	case (w.Port == 0) == (w.Socket == ""):
		return errors.New("it must hold either port or socket")
	case w.Port < 0 || w.Port > 65535:
		return errors.New("its port is not between 1 and 65535")
	case strings.ContainsRune(w.Socket, 0):
		return errors.New("its socket is not a path")
	case w.PID <= 0:
		return errors.New("its pid is not a positive number")
	case w.AuthToken == "":
		return errors.New("its auth_token is empty")
	case strings.ContainsFunc(w.AuthToken, func(r rune) bool { return r <= ' ' || r > '~' }):
		return errors.New("its auth_token holds something other than visible ASCII characters")
	case !isSafeURL(w.BaseURL):
		return errors.New("its base_url is neither https nor an http address on this host")
	}
	return nil
}

// isSafeURL reports whether a token may be sent to raw: TLS, or no network. User names, queries
// and fragments have no place in a base address and are how one host is made to
// look like another.
func isSafeURL(raw string) bool {
	u, err := url.Parse(raw)
	if err != nil || u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return false
	}
	if u.Scheme == "https" || u.Scheme == "http" && u.Hostname() == "localhost" {
		return u.Hostname() != ""
	}
	if u.Scheme != "http" {
		return false
	}
	ip, err := netip.ParseAddr(u.Hostname())
	return err == nil && ip.Zone() == "" && ip.IsLoopback()
}

// File is the place where the gate publishes its Info. The file
// tells its reader a secret, and its owner where to send one, so neither reading
// nor planting it may be possible for other users.
type File struct {
	path  string // absolute; its directory may still lead through symbolic links
	dir   string
	base  string
	owner fileOwner

	// former is who owned the file before a reload changed the owner option.
	former fileOwner

	sweep *Sweep // of leftovers
}

// Path is where the file is, as an absolute path.
func (f *File) Path() string { return f.path }

// TakeOver lets the file replace the one that a caller was told through so
// far, whose owner may have been another.
func (f *File) TakeOver(from *File) {
	if from != nil {
		f.former = from.owner
	}
}

// New takes the server_info option and its owner as written by the
// operator. It looks the owner up and leaves the path alone: see check.
func New(path, owner string) (*File, error) { return new(Sweep).New(path, owner) }

// New is the function New for one of the files of a config.
func (s *Sweep) New(path, owner string) (*File, error) {
	if err := checkPathSyntax(path); err != nil {
		return nil, err
	}
	abs, err := absolutePath(path)
	if err != nil {
		return nil, fmt.Errorf("server_info %s: the path is relative and the working directory is unknown (%w); write an absolute path", path, err)
	}
	o, err := parseFileOwner(owner)
	if err != nil {
		return nil, fmt.Errorf("server_info %s: owner %q: %w", path, owner, err)
	}
	// Not filepath.Clean: it turns link/../x into x, which is another file
	// than the one that a reader of the same path opens.
	dir, base := filepath.Split(abs)
	if owner == "" && s.isValidating() {
		o = whoWillRun(dir)
	}
	return &File{path: abs, dir: dir, base: base, owner: o, sweep: s}, nil
}

func checkPathSyntax(path string) error {
	const example = "write the path of a file, for example /run/responses-proxy-gate/server-info.json"
	switch {
	case path == "":
		return errors.New("server_info: the path is empty; " + example)
	case strings.ContainsRune(path, 0):
		return errors.New("server_info: the path has a NUL character in it; " + example)
	case os.IsPathSeparator(path[len(path)-1]):
		return fmt.Errorf("server_info %s: the path ends in a slash; %s", path, example)
	}
	if _, name := filepath.Split(path); name == "." || name == ".." || !isFileName(name) {
		return fmt.Errorf("server_info %s: the path does not end in the name of a file; %s", path, example)
	}
	return nil
}

// refuse is an error about path: what is wrong and what to do about it.
func refuse(path, wrong, remedy string) error {
	return fmt.Errorf("server_info %s: %s; %s", path, wrong, remedy)
}

// Resolved is the one spelling of the path, without symbolic links.
func (f *File) Resolved() string {
	parent, err := f.findParent()
	if err != nil {
		return f.path // check and write refuse it
	}
	return filepath.Join(append(append([]string{parent.path}, parent.missing...), f.base)...)
}

// Check reports every reason for which write would refuse the path. It changes
// nothing, so that it can run while a configuration is only being validated.
func (f *File) Check() error {
	parent, err := f.findParent()
	if err != nil {
		return err
	}
	root, err := f.open(parent)
	if err != nil {
		return err
	}
	defer root.Close()
	if len(parent.missing) > 0 {
		return nil
	}
	_, err = f.inspect(root)
	return err
}

// Write publishes info. A reader sees the old content or the new, never a part.
// If the file already says the same, it stays as it is.
func (f *File) Write(info Info) error {
	content, err := info.line()
	if err != nil {
		return refuse(f.path, "the server info cannot be written as JSON", "this is a bug, please report it")
	}
	return f.write(content)
}

// WriteText is Write for a secret of another kind.
func (f *File) WriteText(text string) error { return f.write([]byte(text)) }

func (f *File) write(content []byte) error {
	root, err := f.openOrMakeDir()
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	old, err := f.inspect(root)
	if err != nil {
		return err
	}
	if old != nil && f.isAsWeWrite(old) && f.holds(root, old, content) {
		return nil
	}
	if f.sweep.begin(f) {
		f.removeLeftovers(root) // first: the disk may be full
	}
	return f.replace(root, content)
}

// Remove takes the file away at exit if it is still ours: a regular file of ours
// or of the configured owner that says exactly what we wrote. Anything else that
// is there now was put there by somebody else and stays, without an error.
//
// Neither the directory's nor the file's mode matters here. Only we and the
// owner know the token, so the content alone tells that the file is ours, and a
// file that was made readable since is one more reason to remove it.
func (f *File) Remove(info Info) error {
	content, err := info.line()
	if err != nil {
		return nil // never written
	}
	root, err := os.OpenRoot(f.dir + ".")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("server_info %s: the file could not be removed: %w", f.path, err)
	}
	defer root.Close()
	found, err := root.Lstat(f.base)
	if err != nil || !found.Mode().IsRegular() || !f.isOurs(root, found) || !f.holds(root, found, content) {
		return nil
	}
	// Between the comparison and this line only somebody who may write to the
	// directory can put another file here, which is us, root or the owner.
	if err := root.Remove(f.base); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("server_info %s: the file could not be removed: %w; remove it by hand, it names a server that is gone", f.path, err)
	}
	return nil
}

// Read is for programs that use the gate. It believes only what the
// current user alone could have written.
//
// That holds for root as well, although root can read every file: what another
// user wrote is that user's word on where root's requests go, and in /tmp
// anybody can leave such a word once the gate is gone. Root reads a file that it
// gave to somebody else as that user, with sudo -u.
//
// The directories are not checked. Somebody who controls one can at most put
// another file in place that this user made for nobody else.
func Read(path string) (Info, error) {
	if err := checkPathSyntax(path); err != nil {
		return Info{}, err
	}
	file, err := open(path)
	if err != nil {
		return Info{}, err
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, maxServerInfoSize+1))
	if err != nil {
		return Info{}, fmt.Errorf("server_info %s: %w", path, err)
	}
	if len(content) > maxServerInfoSize {
		return Info{}, refuse(path, "it is larger than 64 KiB", namesAnother)
	}
	info, err := Parse(content)
	if err != nil {
		return Info{}, refuse(path, err.Error(), namesAnother)
	}
	return info, nil
}

const (
	namesAnother = "name the file that the gate wrote (its server_info option)"
	removeIt     = "remove it or name another path"
)

// parentDir is the directory of a File as far as it exists.
type parentDir struct {
	path    string      // without symbolic links
	info    fs.FileInfo // of path, at the time that it was checked
	missing []string    // names of the directories still to be made below path
}

// open holds the directory that was checked. From here on every access goes
// through the handle, so replacing the directory or one above it leads nowhere.
func (f *File) open(parent parentDir) (*os.Root, error) {
	// The dot at the end makes the kernel refuse anything but a directory; a
	// FIFO would block.
	root, err := os.OpenRoot(parent.path + string(os.PathSeparator) + ".")
	if err != nil {
		return nil, fmt.Errorf("server_info %s: directory %s cannot be opened: %w", f.path, parent.path, err)
	}
	opened, err := root.Stat(".")
	if err != nil || !os.SameFile(opened, parent.info) {
		_ = root.Close()
		return nil, refuse(f.path, "directory "+parent.path+" was replaced while it was being checked", "find out who does that, then try again")
	}
	return root, nil
}

// inspect refuses what must not be replaced. It returns nil if nothing is there.
func (f *File) inspect(root *os.Root) (fs.FileInfo, error) {
	found, err := root.Lstat(f.base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("server_info %s: %w", f.path, err)
	}
	if err = refuseKind(f.path, found.Mode()); err == nil {
		err = f.refuseAccess(root, found)
	}
	if err != nil && f.isInOwnersHands(root, found) {
		err = &ownersFault{err}
	}
	return found, err
}

// refuseKind refuses everything but regular files.
func refuseKind(path string, mode fs.FileMode) error {
	kind := "not a regular file"
	switch {
	case mode.IsRegular():
		return nil
	case mode&fs.ModeSymlink != 0:
		kind = "a symbolic link"
	case mode.IsDir():
		kind = "a directory"
	case mode&fs.ModeNamedPipe != 0:
		kind = "a named pipe (FIFO)"
	case mode&fs.ModeSocket != 0:
		kind = "a socket"
	case mode&fs.ModeDevice != 0:
		kind = "a device"
	}
	return refuse(path, "it is "+kind, removeIt)
}

// holds reports whether the file found is still there and has exactly this
// content. A file that cannot be read does not.
func (f *File) holds(root *os.Root, found fs.FileInfo, content []byte) bool {
	file, err := root.OpenFile(f.base, os.O_RDONLY|openWithoutSurprises, 0)
	if err != nil {
		return false
	}
	defer file.Close()
	// OpenFile follows symbolic links that stay in the directory, whatever the
	// flags say. Comparing with what Lstat saw makes up for that.
	opened, err := file.Stat()
	if err != nil || !os.SameFile(opened, found) {
		return false
	}
	have, err := io.ReadAll(io.LimitReader(file, int64(len(content))+1))
	return err == nil && bytes.Equal(have, content)
}

// A temporary file's name is not to be guessed and does not depend on the length
// of ours.
const tempPrefix, tempSuffix = ".responses-proxy-gate-", ".tmp"

func tempName() string { return tempPrefix + rand.Text() + tempSuffix }

// maxTempTries is far more than the gates that start in one directory at the
// same moment.
const maxTempTries = 100

// replace puts content into a new file and moves that over the old one.
func (f *File) replace(root *os.Root, content []byte) error {
	var err error
	for range maxTempTries {
		// If it is gone, another gate took it for a leftover: it may, in the
		// moment before it is locked. Each gate does so once, when it starts.
		if err = f.replaceOnce(root, content); !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("server_info %s: the file could not be written: %w", f.path, err)
	}
	return nil
}

func (f *File) replaceOnce(root *os.Root, content []byte) error {
	temp := tempName()
	file, err := f.createTemp(root, temp)
	if err == nil {
		defer keepLocked(file)()
		_, err = file.Write(content)
		if err == nil {
			err = file.Sync()
		}
		err = errors.Join(err, file.Close())
	}
	if err == nil {
		err = root.Rename(temp, f.base)
	}
	if err != nil {
		_ = root.Remove(temp)
	}
	return err
}
