package codex

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// nobody is a user who has nothing to do with whoever runs the tests.
const nobody = 65534

// needsRoot skips a test that needs two users.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can run programs as another user; run the tests with sudo -E as well")
	}
}

// unprivileged has cmd run as a user who is not root: nobody, if we are root.
func unprivileged(t *testing.T, cmd *exec.Cmd) *exec.Cmd {
	t.Helper()
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	cmd.Dir = unprivilegedHome(t)
	return cmd
}

// unprivilegedHome makes a directory for unprivileged. That of t.TempDir is
// below one that only we can enter.
func unprivilegedHome(t *testing.T) string {
	t.Helper()
	home, err := os.MkdirTemp("", "gate-nobody")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(home) })
	if os.Geteuid() == 0 {
		err = os.Chown(home, nobody, nobody)
	}
	if err != nil {
		t.Fatal(err)
	}
	return home
}

// roles are parts that other users play.
var roles = []gatetest.Role{{Name: "listen", Play: func(args []string) error {
	listener, err := net.Listen("tcp", args[0])
	if err != nil {
		return err
	}
	defer listener.Close()
	fmt.Fprintln(os.Stderr, "listening on", listener.Addr())
	_, err = io.Copy(io.Discard, os.Stdin) // until the test closes it
	return err
}}}

// listenAsNobody has another user listen on a port, until the test ends.
func listenAsNobody(t *testing.T, port int) *gatetest.Actor {
	t.Helper()
	p := gatetest.StartRole(t, gatetest.AsNobody(t), "listen", fmt.Sprintf("127.0.0.1:%d", port))
	p.WaitOutput("listening on", 1)
	return p
}

func TestVerbsDoNotTrustAPortThatAnotherUserTook(t *testing.T) {
	needsRoot(t)
	for name, pid := range map[string]func(taker *gatetest.Actor) int{
		"while a process of ours has the gate's id":         func(*gatetest.Actor) int { return os.Getpid() },
		"and whose process got the gate's id as well":       func(taker *gatetest.Actor) int { return taker.PID() },
		"while a process of a third user has the gate's id": func(*gatetest.Actor) int { return 1 },
	} {
		t.Run(name, func(t *testing.T) {
			gone := startOurs(t, newUpstream(t).responsesURL())
			gone.stop(t)
			taker := listenAsNobody(t, gone.port)
			path := writeInfo(t, pid(taker), gone.port)
			for _, name := range []string{"token", "status", "shutdown"} {
				if got := verb(t, name, path); got.code != 3 || got.stdout != "" {
					t.Errorf("%s: exit code %d, stdout %q, want 3 and nothing; stderr: %s", name, got.code, got.stdout, got.stderr)
				}
			}
		})
	}
}

func TestAFileOfAnotherUserIsNotBelieved(t *testing.T) {
	needsRoot(t)
	p := startOurs(t, newUpstream(t).responsesURL())
	if err := os.Chown(p.infoPath, nobody, nobody); err != nil {
		t.Fatal(err)
	}
	if got := verb(t, "token", p.infoPath); got.code != 1 || got.stdout != "" {
		t.Errorf("exit code %d, stdout %q, want 1 and nothing; stderr: %s", got.code, got.stdout, got.stderr)
	}
}

func TestTheOwnerOfTheFileGetsTheTokenOfAProxyThatRootRuns(t *testing.T) {
	needsRoot(t)
	home := unprivilegedHome(t)
	p := startOursAt(t, filepath.Join(home, "info.json"), newUpstream(t).responsesURL(), "--owner", fmt.Sprint(nobody))
	cmd := unprivileged(t, command(t, home, gatetest.CaddyBinary, "responses-proxy", "token", "--server-info", p.infoPath))
	if got := run(t, cmd); got.code != 0 || got.stdout != p.token+"\n" {
		t.Errorf("exit code %d, want 0; the token on stdout: %t; stderr: %s", got.code, got.stdout == p.token+"\n", got.stderr)
	}
}

// startUnprivileged starts the proxy as a user who is not root, from a shell that first runs setup.
func startUnprivileged(t *testing.T, setup string, env ...string) *proxy {
	t.Helper()
	home := unprivilegedHome(t)
	infoPath := filepath.Join(home, "info.json")
	cmd := unprivileged(t, command(t, home, "/bin/sh", "-c", setup+`exec "$0" responses-proxy --server-info "$1"`, gatetest.CaddyBinary, infoPath))
	cmd.Dir = home
	cmd.Env = append(cmd.Env, env...)
	p := &proxy{process: start(t, cmd), infoPath: infoPath}
	p.giveKey(t)
	p.await(t, "responses-proxy listening on 127.0.0.1:")
	p.readInfo(t)
	return p
}

func TestAProcessOfTheSameUserCannotLookIntoTheProxy(t *testing.T) {
	p := startUnprivileged(t, "")
	// What is not hardened can be looked into: else this test says nothing.
	other := start(t, unprivileged(t, exec.Command("/bin/sh", "-c", "echo ready >&2; read line")))
	other.await(t, "ready")
	for _, file := range []string{"environ", "mem", "maps", "fd", "auxv"} {
		for _, target := range []struct {
			pid   int
			fails bool
		}{{p.PID(), true}, {other.PID(), false}} {
			path := fmt.Sprintf("/proc/%d/%s", target.pid, file)
			// mem can be opened or not; reading it needs an address.
			script := `if [ -d "$0" ]; then exec ls "$0/"; else exec 3<"$0"; fi`
			got := run(t, unprivileged(t, exec.Command("/bin/sh", "-c", script, path)))
			if (got.code != 0) != target.fails {
				t.Errorf("%s: exit code %d, want a failure: %t; %s", path, got.code, target.fails, got.stderr)
			}
		}
	}
}

func TestTheProxyMayLeaveNoCore(t *testing.T) {
	p := startOurs(t, newUpstream(t).responsesURL())
	limits, err := os.Open(fmt.Sprintf("/proc/%d/limits", p.PID()))
	if err != nil {
		t.Fatal(err)
	}
	defer limits.Close()
	for lines := bufio.NewScanner(limits); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "Max core file size"); ok {
			if fields := strings.Fields(rest); len(fields) < 2 || fields[0] != "0" || fields[1] != "0" {
				t.Errorf("Max core file size%s, want 0 and 0", rest)
			}
			return
		}
	}
	t.Error("there is no limit")
}

func TestACrashOfTheProxyLeavesNoCore(t *testing.T) {
	t.Parallel() // Go takes its time to write the traces of a crash
	const unlimited = "ulimit -c unlimited; "
	// Without GOTRACEBACK=crash, Go programs exit where others dump core.
	crash := []string{"GOTRACEBACK=crash"}
	if control := run(t, unprivileged(t, exec.Command("/bin/sh", "-c", unlimited+"kill -ABRT $$"))); !control.status.CoreDump() {
		t.Skipf("no program leaves a core here: %s", control.stderr)
	}
	p := startUnprivileged(t, unlimited, crash...)
	p.signal(t, syscall.SIGABRT)
	p.Wait()
	status := p.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	if !status.Signaled() || status.CoreDump() {
		t.Errorf("the proxy ended with %v, want a signal and no core", p.Cmd.ProcessState)
	}
	if found, _ := filepath.Glob(filepath.Join(p.Cmd.Dir, "*core*")); len(found) > 0 {
		t.Errorf("there is a core: %v", found)
	}
	if printed := p.printed(); strings.Contains(printed, operatorKey) || strings.Contains(printed, p.token) {
		t.Error("the traces have a secret")
	}
}
