//go:build !windows

package infofile

import (
	"bytes"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// catAs reads a file as another user would.
func catAs(t *testing.T, uid uint32, path string) (string, error) {
	t.Helper()
	cmd := exec.Command("cat", path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.Output()
	return string(out), err
}

func TestOwnerAndNobodyElseReadsAFileMadeByRoot(t *testing.T) {
	needRoot(t)
	line, _ := sampleInfo().line()
	for name, below := range map[string]string{
		"in a directory of root's":      "/gate.json",
		"in directories yet to be made": "/a/b/c/gate.json",
	} {
		t.Run(name, func(t *testing.T) {
			dir := openDir(t)
			path := dir + below
			f := newFile(t, path, "65534:65534")
			mustWrite(t, f, sampleInfo())
			wantMode(t, path, 0o600, nobody)
			if got, err := catAs(t, nobody, path); got != string(line) {
				t.Errorf("the owner reads %q, %v", got, err)
			}
			if got, err := catAs(t, 65533, path); err == nil || got != "" {
				t.Errorf("somebody else reads %q", got)
			}
			for parent := filepath.Dir(path); parent != dir; parent = filepath.Dir(parent) {
				wantMode(t, parent, fs.ModeDir|0o700, nobody)
			}
			// The file is the owner's, so root does not believe it, ...
			_, err := Read(path)
			wantRefusal(t, err, "sudo -u '#65534'")
			// ... but rewrites and removes it.
			before, _ := os.Stat(path)
			mustWrite(t, f, sampleInfo())
			if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
				t.Errorf("rewritten although nothing changed (%v)", err)
			}
			must(t, f.Remove(sampleInfo()))
			wantOnly(t, filepath.Dir(path))
		})
	}
}

func TestNewOwnerGetsTheFileEvenIfItsContentIsTheSame(t *testing.T) {
	needRoot(t)
	path := safeDir(t) + "/gate.json"
	mustWrite(t, newFile(t, path, ""), sampleInfo())
	mustWrite(t, newFile(t, path, "65534:65534"), sampleInfo())
	wantMode(t, path, 0o600, nobody)
}

// The owner of the directory replaces the one that root has just made for
// another one of root's, to be given that.
func TestRootsOtherDirectoryIsNotHandedOver(t *testing.T) {
	needRoot(t)
	for name, fill := range map[string]func(dir string) error{
		"because it has something in it": func(dir string) error { return os.WriteFile(dir+"/secret", nil, 0o600) },
		"because it is another user's":   func(dir string) error { return os.Chown(dir, 65533, 65533) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := safeDir(t)
			must(t, fill(dir))
			root, err := os.OpenRoot(dir)
			must(t, err)
			defer root.Close()
			if err := claimDir(root); err == nil {
				t.Error("the directory was taken for a new one")
			}
		})
	}
}

func TestOwnerIsAUserOrNumericIDs(t *testing.T) {
	needRoot(t)
	for owner, want := range map[string]fileOwner{
		"":            {},
		"root":        {given: true, uid: 0, gid: 0},
		"0":           {given: true, uid: 0, gid: 0},
		"0:65534":     {given: true, uid: 0, gid: nobody},
		"65534:1":     {given: true, uid: nobody, gid: 1},
		"root:12345":  {given: true, uid: 0, gid: 12345},
		"70123:70124": {given: true, uid: 70123, gid: 70124},
	} {
		if f, err := New("/x", owner); err != nil || f.owner != want {
			t.Errorf("%q: %v, %v", owner, f, err)
		}
	}
	for owner, reason := range map[string]string{
		":": "not an owner", ":0": "not an owner", "root:": "not an owner", "0:0:0": "not an owner",
		"no such user": "no such user", "-1": "no such user", "4294967295": "no such user", "4294967296": "no such user",
		"0:no such group": "no such group", "0:4294967295": "no such group", "70123": "write 70123:GROUP",
	} {
		_, err := New("/x", owner)
		wantRefusal(t, err, reason)
		wantRefusal(t, err, "owner")
	}
}

// TestOrdinaryUser runs itself again as nobody, who must have the same safety and
// is told early what only root can do.
func TestOrdinaryUser(t *testing.T) {
	const again = "TEST_ORDINARY_USER_DIR"
	if dir := os.Getenv(again); dir != "" {
		asOrdinaryUser(t, dir)
		return
	}
	needRoot(t)
	dir := openDir(t)
	mkdir(t, dir+"/mine", 0o700)
	must(t, os.Chown(dir+"/mine", nobody, nobody))
	mustWrite(t, newFile(t, dir+"/roots.json", ""), sampleInfo())

	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Skip("SKIPPED: needs /proc to find this program:", err)
	}
	defer self.Close()
	program, err := os.OpenFile(dir+"/test", os.O_CREATE|os.O_WRONLY, 0o755)
	must(t, err)
	_, err = io.Copy(program, self)
	must(t, err, program.Close(), os.Chmod(dir+"/test", 0o755))
	cmd := exec.Command(dir+"/test", "-test.run=^TestOrdinaryUser$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = []string{again + "=" + dir, "TMPDIR=" + dir + "/mine"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestOrdinaryUser")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func asOrdinaryUser(t *testing.T, dir string) {
	_, err := New("/x", "0:0")
	wantRefusal(t, err, "only root can give a file to another user")
	_, err = New("/x", "65534:0")
	wantRefusal(t, err, "only root can give a file to a group")
	wantRefusal(t, newFile(t, dir+"/new.json", "").Check(), "cannot make files")
	wantRefusal(t, newFile(t, dir+"/roots.json", "").Check(), "cannot make files")
	_, err = Read(dir + "/roots.json")
	wantRefusal(t, err, "belongs to uid 0, and you are uid 65534")

	defer syscall.Umask(syscall.Umask(0o777))
	path := dir + "/mine/a/b/gate.json"
	f := newFile(t, path, "65534:65534")
	mustWrite(t, f, sampleInfo())
	wantMode(t, path, 0o600, nobody)
	wantMode(t, dir+"/mine/a", fs.ModeDir|0o700, nobody)
	if got, err := Read(path); err != nil || told(got) != told(sampleInfo()) {
		t.Errorf("got %v, %v", got, err)
	}
	must(t, f.Remove(sampleInfo()))
	wantOnly(t, dir+"/mine/a/b")
}
