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
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

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
	flag.Parse()
	if testing.Short() {
		fmt.Println("not with -short: these tests build Caddy and start it")
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

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
