//go:build unix

package codex

import (
	"fmt"
	"net/http"
	"slices"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// What Codex sends differs from version to version, so it is looked at: once
// straight at the upstream, once through the gate.
func TestTheGateLosesNothingThatCodexSends(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL())
	turn := func(settings ...string) seen {
		t.Helper()
		upstream.forget(nil)
		settings = append(settings, "model_provider=gate-env")
		wantTurn(t, upstream, codexExec(t, codexHome(t, gate), []string{"PROXY_TOKEN=" + gate.token}, settings))
		turns := upstream.matching(http.MethodPost, "/v1/responses")
		if len(turns) != 1 {
			t.Fatalf("%d turns reached the upstream, want 1", len(turns))
		}
		return turns[0]
	}
	direct := turn(fmt.Sprintf("model_providers.gate-env.base_url=%q", upstream.URL+"/v1"))
	through := turn()
	if got := direct.header.Get("Authorization"); got != "Bearer "+gate.token {
		t.Fatalf("the control did not go straight to the upstream: Authorization %q", got)
	}
	aboutTheConnection := []string{"Connection", "Te", "Keep-Alive"}
	for name := range direct.header {
		if through.header[name] == nil && !slices.Contains(aboutTheConnection, name) {
			t.Errorf("%s is lost", name)
		}
	}
}
