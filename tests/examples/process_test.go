//go:build linux

package examples

import (
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const (
	// operatorKey is what no caller may ever see.
	operatorKey = "sk-operator-0123456789-do-not-tell"

	// gateToken is the token of the examples that have a fixed one.
	gateToken = "a-token-of-more-than-thirty-two-characters"

	// nobody is a user and a group with nothing to do with whoever runs the tests.
	nobody = 65534

	// patience bounds everything that a test waits for. Nothing takes that long
	// unless it hangs.
	patience = 60 * time.Second
)

// newDir makes a directory that every user can enter. (That of t.TempDir is
// below one that only we can.)
func newDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate-example")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	must(t, os.Chmod(dir, 0o755))
	return dir
}

// writeFile makes a file with the given owner, if we are root, and mode.
func writeFile(t *testing.T, path, content string, owner int, mode fs.FileMode) {
	t.Helper()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte(content), 0o600))
	give(t, path, owner, mode)
}

// makeDir makes a directory with the given owner, if we are root, and mode.
func makeDir(t *testing.T, path string, owner int, mode fs.FileMode) {
	t.Helper()
	must(t, os.Mkdir(path, 0o700))
	give(t, path, owner, mode)
}

func give(t *testing.T, path string, owner int, mode fs.FileMode) {
	t.Helper()
	must(t, os.Chmod(path, mode))
	if os.Geteuid() == 0 {
		must(t, os.Chown(path, owner, owner))
	}
}

// readExample is the text of a file in examples/.
func readExample(t *testing.T, name ...string) string {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(append([]string{examplesDir}, name...)...))
	must(t, err)
	return string(content)
}

// replaceAll replaces what an example must have.
func replaceAll(t *testing.T, text string, oldNew ...string) string {
	t.Helper()
	for i := 0; i < len(oldNew); i += 2 {
		if !strings.Contains(text, oldNew[i]) {
			t.Fatalf("the example has no %q", oldNew[i])
		}
		text = strings.ReplaceAll(text, oldNew[i], oldNew[i+1])
	}
	return text
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// freePort finds a port that nobody listens on: a privileged one, if asked for
// and we are root.
func freePort(t *testing.T, privileged bool) int {
	t.Helper()
	if privileged && os.Geteuid() == 0 {
		for port := 1023; port > 600; port-- {
			if l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
				must(t, l.Close())
				return port
			}
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, l.Close())
	return l.Addr().(*net.TCPAddr).Port
}

// command prepares a program that has only the environment it is given.
func command(t *testing.T, env []string, program string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH")}, env...)
	cmd.WaitDelay = patience
	return cmd
}

// as has cmd run as another user, if we are root.
func as(cmd *exec.Cmd, uid uint32) *exec.Cmd {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	return cmd
}

// run runs cmd to its end, and tells its output and exit code.
func run(t *testing.T, cmd *exec.Cmd) (string, int) {
	t.Helper()
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatalf("%q: %v", cmd.Args, err)
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// process is a program under test that runs.
type process struct{ *gatetest.Process }

// start starts cmd and sees to its end when the test ends.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{gatetest.StartCmd(t, cmd)}
	t.Cleanup(func() {
		for _, secret := range []string{operatorKey, gateToken} {
			if strings.Contains(p.Output.String(), secret) {
				t.Error("the output has a secret")
			}
		}
	})
	return p
}

// serverInfo is what a server-info file tells.
type serverInfo struct {
	Port  int    `json:"port"`
	PID   int    `json:"pid"`
	Token string `json:"auth_token"`
}

func readInfo(t *testing.T, path string) serverInfo {
	t.Helper()
	content, err := os.ReadFile(path)
	must(t, err)
	var info serverInfo
	must(t, json.Unmarshal(content, &info))
	return info
}

// ownedBy checks that a file is its owner's alone.
func ownedBy(t *testing.T, path string, owner uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	if got := info.Sys().(*syscall.Stat_t).Uid; info.Mode() != 0o600 || got != owner {
		t.Errorf("%s has mode %v and owner %d, want 0600 and %d", path, info.Mode(), got, owner)
	}
}

// stop ends the process as service managers do.
func (p *process) stop(t *testing.T) {
	t.Helper()
	must(t, p.Cmd.Process.Signal(syscall.SIGTERM))
	p.ends(t)
}

// ends waits for the process's end, which must be a good one.
func (p *process) ends(t *testing.T) {
	t.Helper()
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0\n%s", code, p.Output)
	}
}

// complainsOfNothing ends the gate and looks at what it printed.
func (p *process) complainsOfNothing(t *testing.T) {
	t.Helper()
	if strings.Contains(p.Output.String(), `"level":"warn"`) { // (Caddy says good-bye at that level)
		t.Errorf("a healthy start has a warning:\n%s", p.Output)
	}
	p.stop(t)
	for _, complaint := range []string{`"level":"error"`, "read-only", "permission denied", "not permitted"} {
		if strings.Contains(p.Output.String(), complaint) {
			t.Errorf("the gate complains (%s):\n%s", complaint, p.Output)
		}
	}
}

// notifySocket is what systemd gives to services of Type=notify.
type notifySocket struct {
	*net.UnixConn
	path string
}

func newNotifySocket(t *testing.T) *notifySocket {
	t.Helper()
	path := filepath.Join(newDir(t), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	must(t, err)
	t.Cleanup(func() { conn.Close() })
	must(t, os.Chmod(path, 0o666))
	return &notifySocket{conn, path}
}

// env tells a service of the socket.
func (n *notifySocket) env() string { return "NOTIFY_SOCKET=" + n.path }

// await waits until p has said something, READY=1 for example.
func (n *notifySocket) await(t *testing.T, p *process, said string) {
	t.Helper()
	go func() { // end the wait if p does; until the socket is closed
		<-p.Done
		_ = n.SetReadDeadline(time.Now())
	}()
	must(t, n.SetReadDeadline(time.Now().Add(patience)))
	for buffer := make([]byte, 4096); ; {
		read, err := n.Read(buffer)
		if err != nil {
			t.Fatalf("%q never said %s (%v):\n%s", p.Cmd.Args, said, err, p.Output)
		}
		if strings.Contains(string(buffer[:read]), said) {
			return
		}
	}
}
