//go:build unix

package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// Caddy's own commands panic where a plugin is the main module.
func TestTheDevelopmentBuildSaysHowToGetAnotherOne(t *testing.T) {
	t.Parallel()
	// (the Caddy under test may be a build of xcaddy's)
	development := filepath.Join(gatetest.TempDir(t), "caddy")
	build := exec.Command("go", "build", "-o", development, "./cmd/caddy")
	build.Dir = gatetest.RepoRoot
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, args := range [][]string{{"upgrade"}, {"add-package", "github.com/mholt/caddy-ratelimit"}, {"remove-package", "github.com/mholt/caddy-ratelimit"}} {
		out, code := gatetest.Run(t, gatetest.Launch{Program: development, Dir: gatetest.TempDir(t), Args: args})
		if code != 1 || !strings.Contains(out, "build with xcaddy") || strings.Contains(out, "panic") {
			t.Errorf("%v: exit code %d:\n%s", args, code, out)
		}
	}
}
