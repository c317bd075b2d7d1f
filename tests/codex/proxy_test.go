//go:build unix

package codex

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// operatorKey is what no caller may ever see.
const operatorKey = "sk-operator-0123456789-do-not-tell"

// proxy is a running "caddy responses-proxy", or the original.
type proxy struct {
	*process
	port     int
	infoPath string
	token    string // none for the original
}

// addr is where the proxy listens.
func (p *proxy) addr() string { return fmt.Sprintf("127.0.0.1:%d", p.port) }

// baseURL is what Codex calls base_url.
func (p *proxy) baseURL() string { return "http://" + p.addr() + "/v1" }

// startOurs starts "caddy responses-proxy" and waits until it is ready. What
// it prints must never have the key in it, nor the token.
func startOurs(t *testing.T, upstreamURL string, args ...string) *proxy {
	t.Helper()
	return startOursAt(t, filepath.Join(t.TempDir(), "info.json"), upstreamURL, args...)
}

// startOursAt is startOurs with a server-info file of the caller's choice.
func startOursAt(t *testing.T, infoPath, upstreamURL string, args ...string) *proxy {
	t.Helper()
	args = append([]string{"responses-proxy", "--server-info", infoPath, "--upstream-url", upstreamURL}, args...)
	p := &proxy{process: start(t, command(t, t.TempDir(), gatetest.CaddyBinary, args...)), infoPath: infoPath}
	p.giveKey(t)
	p.await(t, "responses-proxy listening on 127.0.0.1:")
	p.readInfo(t)
	t.Cleanup(func() {
		for name, secret := range map[string]string{"key": operatorKey, "token": p.token} {
			if strings.Contains(p.printed(), secret) {
				t.Errorf("the %s is on stderr", name)
			}
		}
	})
	return p
}

// startOriginal starts "codex responses-api-proxy" and waits until it is ready.
func startOriginal(t *testing.T, upstreamURL string, args ...string) *proxy {
	t.Helper()
	home := t.TempDir()
	infoPath := filepath.Join(home, "info.json")
	args = append([]string{"responses-api-proxy", "--server-info", infoPath, "--upstream-url", upstreamURL}, args...)
	p := &proxy{process: start(t, command(t, home, gatetest.CodexBinary(t), args...)), infoPath: infoPath}
	p.giveKey(t)
	p.await(t, "responses-api-proxy listening on 127.0.0.1:")
	p.readInfo(t)
	return p
}

func (p *proxy) giveKey(t *testing.T) {
	t.Helper()
	if _, err := fmt.Fprintln(p.stdin, operatorKey); err != nil {
		t.Fatal(err)
	}
	if err := p.stdin.Close(); err != nil {
		t.Fatal(err)
	}
}

// readInfo reads the server-info file as any client would.
func (p *proxy) readInfo(t *testing.T) {
	t.Helper()
	content, err := os.ReadFile(p.infoPath)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Port      int    `json:"port"`
		AuthToken string `json:"auth_token"`
	}
	if err := json.Unmarshal(content, &info); err != nil {
		t.Fatal(err)
	}
	p.port, p.token = info.Port, info.AuthToken
}

// stop ends the proxy as a service manager would.
func (p *proxy) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if code := p.Wait(); code != 0 {
		t.Fatalf("exit code %d after SIGTERM, want 0", code)
	}
}

// awaitAccess waits until the access log, which must be on, has a request for
// /v1/responses with this method and status.
func (p *proxy) awaitAccess(t *testing.T, method string, status int) {
	t.Helper()
	for n := 1; ; n++ {
		var entry struct {
			Request struct {
				Method string `json:"method"`
				URI    string `json:"uri"`
			} `json:"request"`
			Status int `json:"status"`
		}
		line := p.WaitOutput(fmt.Sprintf(`"status":%d`, status), n)[n-1]
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("the access log has %q: %v", line, err)
		}
		if entry.Request.Method == method && entry.Request.URI == "/v1/responses" && entry.Status == status {
			return
		}
	}
}
