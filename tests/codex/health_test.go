//go:build unix

package codex

import (
	"net/http"
	"testing"
)

func TestTheCommandTellsWhoHasNoTokenHowItIs(t *testing.T) {
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL(), "--http-health", "--allow-route", "GET /v1/responses/*")
	asks := call{method: http.MethodGet, target: "/healthz", noToken: true}
	if got := asks.exchange(t, gate, patience); got.status != http.StatusOK || string(got.body) != "{\"status\":\"ok\"}\n" {
		t.Errorf("status %d %s, want 200", got.status, got.body)
	}
	asks.headers = []string{"Origin: https://attacker.example"}
	if got := asks.exchange(t, gate, patience); got.status != http.StatusForbidden {
		t.Errorf("a web page: status %d, want 403", got.status)
	}
	asks.headers = nil
	if got := (call{target: "/healthz", noToken: true, headers: []string{jsonType}, body: []byte("{}")}).exchange(t, gate, patience); got.status != http.StatusUnauthorized {
		t.Errorf("POST: status %d, want 401", got.status)
	}
	if asked := upstream.all(); len(asked) > 0 {
		t.Errorf("the upstream is asked: %v", asked)
	}
	silent := startOurs(t, upstream.responsesURL())
	if got := asks.exchange(t, silent, patience); got.status != http.StatusUnauthorized {
		t.Errorf("without --http-health: status %d, want 401", got.status)
	}
}
