//go:build unix

package codex

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// portOf is p's port as an argument.
func portOf(p *proxy) string { return strconv.Itoa(p.port) }

// verb runs "caddy responses-proxy VERB --server-info FILE".
func verb(t *testing.T, name, infoPath string) result {
	t.Helper()
	return run(t, command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy", name, "--server-info", infoPath))
}

// halfSent sends the head of c and keeps the connection open.
func halfSent(t *testing.T, p *proxy, c call) {
	t.Helper()
	conn, err := net.Dial("tcp", p.addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if _, err := conn.Write(c.head(p)); err != nil {
		t.Fatal(err)
	}
}

// writeInfo writes a server-info file as the gate would.
func writeInfo(t *testing.T, pid, port int) string {
	t.Helper()
	content, err := json.Marshal(map[string]any{
		"port": port, "pid": pid, "auth_token": "a-token-of-some-earlier-launch-of-the-gate",
		"base_url": fmt.Sprintf("http://127.0.0.1:%d/v1", port),
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "info.json")
	if err := os.WriteFile(path, append(content, '\n'), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// freePort is a port on loopback that nobody listens on.
func freePort(t *testing.T) int {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	return listener.Addr().(*net.TCPAddr).Port
}

func TestTokenPrintsTheTokenAndNothingElse(t *testing.T) {
	p := startOurs(t, newUpstream(t).responsesURL())
	got := verb(t, "token", p.infoPath)
	if got.code != 0 || got.stdout != p.token+"\n" || got.stderr != "" {
		t.Errorf("exit code %d, stderr %q, want 0 and none; the token and a newline on stdout: %t", got.code, got.stderr, got.stdout == p.token+"\n")
	}
}

func TestStatusTellsWhereTheGateIs(t *testing.T) {
	p := startOurs(t, newUpstream(t).responsesURL())
	want := fmt.Sprintf("running: pid %d, %s\n", p.PID(), p.baseURL())
	if got := verb(t, "status", p.infoPath); got.code != 0 || got.stdout != want {
		t.Errorf("exit code %d, stdout %q, want 0 and %q", got.code, got.stdout, want)
	}
}

func TestShutdownOfAProxyWithoutThatEndpointFails(t *testing.T) {
	p := startOurs(t, newUpstream(t).responsesURL())
	if got := verb(t, "shutdown", p.infoPath); got.code != 1 {
		t.Errorf("exit code %d, want 1; stderr: %s", got.code, got.stderr)
	}
	if got := verb(t, "status", p.infoPath); got.code != 0 {
		t.Errorf("the proxy is gone: status exits with %d: %s", got.code, got.stderr)
	}
}

// brokenInfo are server-info files that no verb may believe, and the exit code.
var brokenInfo = map[string]struct {
	code int
	path func(*testing.T) string
}{
	"no file": {1, func(t *testing.T) string { return filepath.Join(t.TempDir(), "none.json") }},
	"a file that others can read": {1, func(t *testing.T) string {
		p := startOurs(t, newUpstream(t).responsesURL())
		chmod(t, p.infoPath, 0o644)
		return p.infoPath
	}},
	"a file that the group can write": {1, func(t *testing.T) string {
		p := startOurs(t, newUpstream(t).responsesURL())
		chmod(t, p.infoPath, 0o620)
		return p.infoPath
	}},
	"a symbolic link": {1, func(t *testing.T) string {
		p := startOurs(t, newUpstream(t).responsesURL())
		link := filepath.Join(t.TempDir(), "link.json")
		if err := os.Symlink(p.infoPath, link); err != nil {
			t.Fatal(err)
		}
		return link
	}},
	"a file of the original's": {1, func(t *testing.T) string {
		path := filepath.Join(t.TempDir(), "info.json")
		if err := os.WriteFile(path, []byte(`{"port":18080,"pid":1}`), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}},
	"a process that was killed": {3, func(t *testing.T) string {
		p := startOurs(t, newUpstream(t).responsesURL())
		p.signal(t, syscall.SIGKILL)
		p.Wait()
		if gatetest.Missing(p.infoPath) {
			t.Fatal("the file is gone")
		}
		return p.infoPath
	}},
	"a port that nobody listens on": {3, func(t *testing.T) string { return writeInfo(t, os.Getpid(), freePort(t)) }},
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

func TestVerbsDoNotBelieveABrokenFile(t *testing.T) {
	for name, broken := range brokenInfo {
		t.Run(name, func(t *testing.T) {
			path := broken.path(t)
			for _, name := range []string{"token", "status", "shutdown"} {
				got := verb(t, name, path)
				if got.code != broken.code || got.stdout != "" || got.stderr == "" {
					t.Errorf("%s: exit code %d, stdout %q, stderr %q; want %d, nothing and a reason", name, got.code, got.stdout, got.stderr, broken.code)
				}
			}
		})
	}
}

func TestVerbsNeedToBeToldTheFile(t *testing.T) {
	for _, name := range []string{"token", "status", "shutdown"} {
		got := run(t, command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy", name))
		if got.code != 1 || got.stdout != "" || got.stderr == "" {
			t.Errorf("%s: exit code %d, stdout %q, stderr %q; want 1, nothing and a reason", name, got.code, got.stdout, got.stderr)
		}
	}
}
