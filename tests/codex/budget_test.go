//go:build unix

package codex

import (
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// Codex tries most answers six or thirty times.
func TestASpentBudgetEndsTheTurnAtOnceAndCodexSaysWhenToTryAgain(t *testing.T) {
	for version, binary := range gatetest.CodexBinaries(t) {
		t.Run(version, func(t *testing.T) {
			upstream := newUpstream(t)
			gate := startOurs(t, upstream.responsesURL(), "--access-log", "--budget", "1 requests per 1d", "--budget-dir", t.TempDir())
			home := codexHome(t, gate)
			turn := func() result {
				return run(t, command(t, home, binary, "exec", "--skip-git-repo-check", "-m", "gpt-5", "-c", "model_provider=gate-command", "-c", overHTTP, "hi"))
			}
			wantTurn(t, upstream, turn())
			got := turn()
			if got.code == 0 {
				t.Errorf("the second turn succeeds: %s", got.stdout)
			}
			said := got.stdout + got.stderr
			if !strings.Contains(said, "usage limit") || !strings.Contains(strings.ToLower(said), "try again at") {
				t.Errorf("Codex does not say when to try again: %s", said)
			}
			if n := strings.Count(gate.printed(), `"status":429`); n != 1 {
				t.Errorf("Codex was refused %d times, want once:\n%s", n, gate.printed())
			}
			if n := len(upstream.matching(http.MethodPost, "/v1/responses")); n != 1 {
				t.Errorf("%d requests reached the upstream", n)
			}
		})
	}
}
