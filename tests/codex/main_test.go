//go:build unix

// Package codex puts "caddy responses-proxy" before the program that it exists
// for: the released Codex CLI, and beside the proxy that it replaces, "codex
// responses-api-proxy" of the same release. There is no account and no network
// but loopback; a fake upstream stands in for the OpenAI API.
//
// The CLI is found through CODEX_BINARY, on PATH, or in
// tests/codex/node_modules. Without it, the tests that need it are skipped,
// or fail if CI or REQUIRE_CODEX is set.
package codex

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// codexVersion is the release that the tests were written against.
const codexVersion = "0.169.0"

// caddyBinary is the Caddy under test.
var caddyBinary string

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	if role := os.Getenv(roleVariable); role != "" {
		if err := playRole(role); err != nil {
			fmt.Fprintln(os.Stderr, "codex:", err)
			return 1
		}
		return 0
	}
	dir, err := os.MkdirTemp("", "gate-codex")
	if err != nil {
		fmt.Fprintln(os.Stderr, "codex:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	// Tests that run as another user need to get at the binary.
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, "codex:", err)
		return 1
	}
	if caddyBinary, err = findCaddy(dir); err != nil {
		fmt.Fprintln(os.Stderr, "codex:", err)
		return 1
	}
	return m.Run()
}

// findCaddy takes the binary that CADDY_BINARY names, or builds cmd/caddy. It
// puts a link to it, named caddy, into dir: what auth.command finds on PATH.
func findCaddy(dir string) (string, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	link := filepath.Join(dir, "caddy")
	binary := os.Getenv("CADDY_BINARY")
	if binary == "" {
		build := exec.Command("go", "build", "-o", link, "./cmd/caddy")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
		}
		return link, nil
	}
	if !filepath.IsAbs(binary) {
		// go test runs in the package's directory; people write paths from the root.
		if fromRoot := filepath.Join(root, binary); exists(fromRoot) {
			binary = fromRoot
		} else if binary, err = filepath.Abs(binary); err != nil {
			return "", err
		}
	}
	if !exists(binary) {
		return "", fmt.Errorf("CADDY_BINARY: there is no %s", binary)
	}
	return link, os.Symlink(binary, link)
}

// codexBinary is the Codex CLI, or the end of the test.
func codexBinary(t *testing.T) string {
	t.Helper()
	binary, err := findCodex()
	if err == nil {
		return binary
	}
	if os.Getenv("CI") != "" || os.Getenv("REQUIRE_CODEX") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
	return ""
}

var findCodex = sync.OnceValues(func() (string, error) {
	const howToGet = "npm install --prefix tests/codex @openai/codex@" + codexVersion + ", or set CODEX_BINARY"
	binary := os.Getenv("CODEX_BINARY")
	if binary == "" {
		binary, _ = exec.LookPath("codex")
	}
	if binary == "" {
		binary = filepath.Join("node_modules", ".bin", "codex")
	}
	if !exists(binary) {
		return "", fmt.Errorf("the Codex CLI is not installed; run in the repository: %s", howToGet)
	}
	binary, err := filepath.Abs(binary)
	if err != nil {
		return "", err
	}
	binary = nativeCodex(binary)
	home, err := os.MkdirTemp("", "codex-version")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(home)
	version := exec.Command(binary, "--version")
	version.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "CODEX_HOME=" + home}
	out, err := version.Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", binary, err)
	}
	if want := "codex-cli " + codexVersion + "\n"; string(out) != want {
		return "", fmt.Errorf("%s is %q, not %q; run: %s", binary, out, want, howToGet)
	}
	return binary, nil
})

// nativeCodex finds the program behind npm's wrapper script. Its process id
// and CPU time are what the tests look at, not those of node.
func nativeCodex(binary string) string {
	wrapper, err := filepath.EvalSymlinks(binary)
	if err != nil || filepath.Ext(wrapper) != ".js" {
		return binary
	}
	// node_modules/@openai/codex/bin/codex.js; the other packages are beside
	// codex or below it, as npm likes.
	pkg := filepath.Dir(filepath.Dir(wrapper))
	for _, scope := range []string{filepath.Dir(pkg), filepath.Join(pkg, "node_modules", "@openai")} {
		found, _ := filepath.Glob(filepath.Join(scope, "codex-*", "vendor", "*", "bin", "codex"))
		if len(found) == 1 {
			return found[0]
		}
	}
	return binary
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
