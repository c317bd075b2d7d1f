//go:build unix

// Package e2e puts a real Caddy process with the gate in it through what the
// contract promises: attacks, streams, files, reloads, logs. The tests see
// only what a caller, an upstream, another user or an operator could see.
package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// caddyBinary is the Caddy under test.
var caddyBinary string

// repoRoot is where Caddyfile.example and cmd/caddy are.
var repoRoot string

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	dir, err := os.MkdirTemp("", "gate-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if repoRoot, err = filepath.Abs(filepath.Join("..", "..")); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	if caddyBinary, err = findCaddy(dir); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	// The tests mostly wait, for processes to start and to end: run more of them
	// at a time than there are processors, unless the command line says how many.
	flag.Parse()
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set("8")
	}
	return m.Run()
}

// findCaddy takes the binary that CADDY_BINARY names, or builds cmd/caddy. A
// Caddy that is not there, or has no gate, is a failure, never a skip.
func findCaddy(dir string) (string, error) {
	binary := os.Getenv("CADDY_BINARY")
	if binary != "" {
		if !filepath.IsAbs(binary) {
			// go test runs in the package's directory; people write paths from the root.
			if _, err := os.Stat(filepath.Join(repoRoot, binary)); err == nil {
				binary = filepath.Join(repoRoot, binary)
			}
		}
		absolute, err := filepath.Abs(binary)
		if err != nil {
			return "", err
		}
		binary = absolute
	} else {
		binary = filepath.Join(dir, "caddy")
		args := []string{"build", "-o", binary}
		if raceEnabled {
			args = append(args, "-race")
		}
		build := exec.Command("go", append(args, "./cmd/caddy")...)
		build.Dir = repoRoot
		if out, err := build.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	list := exec.CommandContext(ctx, binary, "list-modules")
	list.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	out, err := list.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s list-modules: %w\n%s", binary, err, out)
	}
	if !strings.Contains(string(out), "http.handlers.responses_proxy_gate") {
		return "", fmt.Errorf("%s has no module http.handlers.responses_proxy_gate", binary)
	}
	return binary, nil
}
