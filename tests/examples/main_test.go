//go:build linux

// Package examples runs what stands in examples/ as far as one machine with
// neither systemd in charge, GitHub's runner nor a container engine can:
// with other paths, ports and upstreams, and nothing else changed.
//
// A test whose tool is missing is skipped, or fails if CI or REQUIRE_EXAMPLES
// is set.
package examples

import (
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// examplesDir is where the examples are.
var examplesDir = filepath.Join("..", "..", "examples")

// caddyBinary is the Caddy under test, in a directory that every user can enter.
var caddyBinary string

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	flag.Parse()
	if testing.Short() {
		fmt.Println("not with -short: these tests build Caddy and start it")
		return 0
	}
	dir, err := os.MkdirTemp("", "gate-examples")
	if err == nil {
		defer os.RemoveAll(dir)
		err = os.Chmod(dir, 0o755)
	}
	if err == nil {
		caddyBinary, err = findCaddy(dir)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "examples:", err)
		return 1
	}
	return m.Run()
}

// findCaddy takes the binary that CADDY_BINARY names, or builds cmd/caddy.
func findCaddy(dir string) (string, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return "", err
	}
	caddy := filepath.Join(dir, "caddy")
	binary := os.Getenv("CADDY_BINARY")
	if binary == "" {
		build := exec.Command("go", "build", "-o", caddy, "./cmd/caddy")
		build.Dir = root
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
		}
		return caddy, nil
	}
	if !filepath.IsAbs(binary) {
		// go test runs in the package's directory; people write paths from the root.
		binary = filepath.Join(root, binary)
	}
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("CADDY_BINARY: %w", err)
	}
	return caddy, os.Symlink(binary, caddy)
}

// needsTool is the path of a program, or the end of the test.
func needsTool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name+" is not installed")
	}
	return path
}

// needsRoot ends a test that needs two users, if there is but one.
func needsRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		missing(t, "only root can run programs as another user; run the tests with sudo -E as well")
	}
}

func missing(t *testing.T, what string) {
	t.Helper()
	if os.Getenv("CI") != "" || os.Getenv("REQUIRE_EXAMPLES") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}
