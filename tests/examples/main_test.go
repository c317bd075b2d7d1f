//go:build linux

// Package examples runs what stands in examples/ as far as one machine with
// neither systemd in charge, GitHub's runner nor a container engine can:
// with other paths, ports and upstreams, and nothing else changed.
//
// A test whose tool is missing is skipped, or fails if CI or REQUIRE_EXAMPLES
// is set.
package examples

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// examplesDir is where the examples are.
var examplesDir = filepath.Join("..", "..", "examples")

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

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
	gatetest.SkipOrFail(t, "REQUIRE_EXAMPLES", what)
}
