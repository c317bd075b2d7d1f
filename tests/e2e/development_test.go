//go:build unix

package e2e

import (
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// Caddy's own commands panic where a plugin is the main module.
func TestTheDevelopmentBuildSaysHowToGetAnotherOne(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"upgrade"}, {"add-package", "github.com/mholt/caddy-ratelimit"}, {"remove-package", "github.com/mholt/caddy-ratelimit"}} {
		out, code := gatetest.Run(t, gatetest.Launch{Dir: gatetest.TempDir(t), Args: args})
		if code != 1 || !strings.Contains(out, "build with xcaddy") || strings.Contains(out, "panic") {
			t.Errorf("%v: exit code %d:\n%s", args, code, out)
		}
	}
}
