//go:build unix

package codex

import (
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// Codex tries most answers six or thirty times. (Measured without the gate's
// back-off, when it answered 502: 30 upstream requests for one turn.)
func TestADeadKeyCostsOneUpstreamRequestAndEndsTheTurnAtOnce(t *testing.T) {
	gatetest.CodexBinary(t)
	for name, settings := range map[string][]string{
		"over HTTP":          {"model_provider=gate-command", overHTTP},
		"over the WebSocket": {"model_provider=gate-command"},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := newUpstream(t)
			upstream.forget(replies(http.StatusUnauthorized, "Www-Authenticate: Bearer"))
			gate := startOurs(t, upstream.responsesURL(), "--websocket")
			got := codexExec(t, codexHome(t, gate), nil, settings)
			if got.code == 0 {
				t.Errorf("the turn succeeds: %s", got.stdout)
			}
			if said := got.stdout + got.stderr; !strings.Contains(said, "The operator must renew the key") {
				t.Errorf("Codex does not say what is to be done: %s", said)
			}
			// The first wait is a second. A turn that took longer may have met
			// the next ones.
			requests, refused := len(upstream.all()), strings.Count(gate.printed(), `refused the operator's credential`)
			t.Logf("%d requests reached the upstream in %d waits", requests, refused)
			if requests != refused || requests > 2 {
				t.Errorf("%d requests reached the upstream in %d waits: %v", requests, refused, upstream.all())
			}
		})
	}
}
