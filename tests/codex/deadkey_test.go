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
	for name, test := range map[string]struct{ method, settings string }{
		"over HTTP":          {http.MethodPost, overHTTP},
		"over the WebSocket": {http.MethodGet, overWebSocket[0]},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := newUpstream(t)
			gate := startOurs(t, upstream.responsesURL(), "--websocket")
			home, settings := codexHome(t, gate), []string{"model_provider=gate-command", test.settings}
			// With a key that lives, the turn goes the way that is meant.
			wantTurn(t, upstream, codexExec(t, home, nil, settings))
			websockets := 0
			for _, request := range upstream.all() {
				if len(request.frames) > 0 {
					websockets++
				}
			}
			if opens := test.method == http.MethodGet; opens != (websockets > 0) || len(upstream.matching(test.method, "/v1/responses")) == 0 {
				t.Fatalf("the turn of before opened %d WebSockets: %v", websockets, upstream.all())
			}
			upstream.forget(replies(http.StatusUnauthorized, "Www-Authenticate: Bearer"))
			got := codexExec(t, home, nil, settings)
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
			if tried := len(upstream.matching(test.method, "/v1/responses")); tried == 0 || requests != refused || requests > 2 {
				t.Errorf("%d requests reached the upstream in %d waits: %v", requests, refused, upstream.all())
			}
		})
	}
}
