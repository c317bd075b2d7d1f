//go:build linux

package examples

import (
	"fmt"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const (
	azureUpstream = "https://RESOURCE.openai.azure.com"
	azureTarget   = "/openai/responses?api-version=2025-04-01-preview"
)

// isAzures checks what Azure would look at.
func isAzures(t *testing.T, u *upstream, seen *http.Request) {
	t.Helper()
	if got := seen.Method + " " + seen.RequestURI; got != "POST "+azureTarget {
		t.Errorf("the upstream was asked for %s, want POST %s", got, azureTarget)
	}
	if want := strings.TrimPrefix(u.URL, "https://"); seen.Host != want {
		t.Errorf("the upstream was addressed as %s, want %s", seen.Host, want)
	}
	if got := seen.Header.Values("Api-Key"); len(got) != 1 || got[0] != operatorKey {
		t.Errorf("the upstream got Api-Key %q, want the bare key", got)
	}
	for _, name := range []string{"Authorization", "X-Proxy-Token"} {
		if got, ok := seen.Header[name]; ok {
			t.Errorf("the upstream got %s: %q", name, got)
		}
	}
}

// azureGate is the example for an upstream and a directory of its own.
func azureGate(t *testing.T, u *upstream) (dir, caddyfile string, port int) {
	t.Helper()
	dir, port = newDir(t), freePort(t, false)
	caddyfile = replaceAll(t, readExample(t, "azure", "Caddyfile"), azureUpstream, u.URL, "http://:18080 {", fmt.Sprintf("http://:%d {", port))
	return dir, caddyfile, port
}

func TestAzureGetsItsPathQueryAndBareKey(t *testing.T) {
	u, trust := newTLSUpstream(t)
	dir, caddyfile, port := azureGate(t, u)
	path := filepath.Join(dir, "Caddyfile")
	writeFile(t, path, caddyfile, 0, 0o644)
	env := []string{"AZURE_OPENAI_API_KEY=" + operatorKey, "XDG_RUNTIME_DIR=" + dir, "HOME=" + dir, trust}
	adaptsAndValidates(t, env, path)

	notify := newNotifySocket(t)
	gate := start(t, command(t, append(env, notify.env()), gatetest.CaddyBinary, "run", "--config", path))
	notify.await(t, gate, "READY=1")
	token := readInfo(t, filepath.Join(dir, "azure-gate.json")).Token
	if status := turn(t, port, token); status != http.StatusOK {
		t.Fatalf("status %d, want 200", status)
	}
	isAzures(t, u, u.only(t))
	gate.stop(t)
}

func TestAzureWithADebugLogOfAnotherFormatDoesNotStart(t *testing.T) {
	u, trust := newTLSUpstream(t)
	dir, caddyfile, _ := azureGate(t, u)
	path := filepath.Join(dir, "Caddyfile")
	writeFile(t, path, replaceAll(t, caddyfile, "format responses_proxy_gate", "level DEBUG"), 0, 0o644)
	env := []string{"AZURE_OPENAI_API_KEY=" + operatorKey, "XDG_RUNTIME_DIR=" + dir, "HOME=" + dir, trust}
	out, code := run(t, command(t, env, gatetest.CaddyBinary, "validate", "--config", path))
	if code == 0 || !strings.Contains(out, "would record the header X-Proxy-Token") {
		t.Errorf("exit code %d, want a refusal because of X-Proxy-Token:\n%s", code, out)
	}
}

// The comment of the Caddyfile has the command that does the same.
var azureCommand = regexp.MustCompile(`(?m)^#   (printenv [^\\\n]*(?:\\\n# [^\\\n]*)+)$`)

func TestAzureByCommandIsTheSame(t *testing.T) {
	u, trust := newTLSUpstream(t)
	found := azureCommand.FindStringSubmatch(readExample(t, "azure", "Caddyfile"))
	if found == nil {
		t.Fatal("the example has no command in its comment")
	}
	script := strings.ReplaceAll(found[1], "\n#", "\n")
	dir, port := newDir(t), freePort(t, false)
	script = replaceAll(t, script, azureUpstream, u.URL, "--port 18080", fmt.Sprintf("--port %d", port), " caddy ", " "+gatetest.CaddyBinary+" ")
	env := []string{"AZURE_OPENAI_API_KEY=" + operatorKey, "XDG_RUNTIME_DIR=" + dir, "HOME=" + dir, trust}
	shell := start(t, command(t, env, needsTool(t, "bash"), "-c", script))
	shell.WaitOutput("responses-proxy listening on 127.0.0.1:", 1)
	info := readInfo(t, filepath.Join(dir, "azure-gate.json"))
	// Whatever fails below must not leave the gate behind.
	defer func() {
		must(t, syscall.Kill(info.PID, syscall.SIGTERM))
		shell.ends(t)
	}()
	if status := turn(t, port, info.Token); status != http.StatusOK {
		t.Fatalf("status %d, want 200", status)
	}
	isAzures(t, u, u.only(t))
}

// adaptsAndValidates checks a Caddyfile, in the environment of the gate, and
// that neither step tells the key.
func adaptsAndValidates(t *testing.T, env []string, path string) {
	t.Helper()
	for _, verb := range []string{"adapt", "validate"} {
		out, code := run(t, command(t, env, gatetest.CaddyBinary, verb, "--config", path))
		if code != 0 || strings.Contains(out, operatorKey) {
			t.Fatalf("caddy %s: exit code %d\n%s", verb, code, out)
		}
	}
	if out, code := run(t, command(t, env, gatetest.CaddyBinary, "fmt", "--diff", path)); code != 0 {
		t.Errorf("the Caddyfile is not formatted:\n%s", out)
	}
}
