//go:build unix

package codex

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// overWebSocket has Codex try WebSocket, which the example does not.
var overWebSocket = []string{"model_providers.gate-command.supports_websockets=true"}

func TestATurnCompletesOverWebSocket(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL(), "--websocket")
	wantTurn(t, upstream, codexExec(t, codexHome(t, gate), nil, overWebSocket))

	if posts := upstream.matching(http.MethodPost, "/v1/responses"); len(posts) != 0 {
		t.Errorf("%d requests came over HTTP, want none", len(posts))
	}
	upgrades := upstream.matching(http.MethodGet, "/v1/responses")
	wantOperator(t, gate, upgrades)
	frames := 0
	for _, upgrade := range upgrades {
		if got := upgrade.header.Get("Upgrade"); got != "websocket" {
			t.Errorf("Upgrade at the upstream = %q, want websocket", got)
		}
		frames += len(upgrade.frames)
	}
	if frames == 0 {
		t.Error("no frame reached the upstream")
	}
}

func TestWhereWebSocketIsRefusedCodexGoesOverHTTPAtOnce(t *testing.T) {
	gatetest.CodexBinary(t)
	accepting := newUpstream(t)
	unhindered := codexExec(t, codexHome(t, startOurs(t, accepting.responsesURL(), "--websocket")), nil, overWebSocket)
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL(), "--access-log")
	got := codexExec(t, codexHome(t, gate), nil, overWebSocket)
	wantTurn(t, upstream, got)
	gate.awaitAccess(t, http.MethodGet, http.StatusUpgradeRequired)
	gate.awaitAccess(t, http.MethodPost, http.StatusOK)
	// Codex's retries, which 426 spares, take it 6 seconds. The turn over
	// WebSocket tells how fast this machine is at the moment.
	if extra := got.took - unhindered.took; extra > settleFor {
		t.Errorf("the turn took %v, %v longer than over WebSocket; want %v at most", got.took, extra, settleFor)
	}
	t.Logf("the turn took %v, over WebSocket %v", got.took, unhindered.took)
	if upgrades := upstream.matching(http.MethodGet, "/v1/responses"); len(upgrades) != 0 {
		t.Errorf("%d upgrades reached the upstream, want none", len(upgrades))
	}
	wantOperator(t, gate, upstream.matching(http.MethodPost, "/v1/responses"))
}

func TestASessionOverWebSocketSurvivesARestartOfTheProxy(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	first := startOurs(t, upstream.responsesURL(), "--websocket")
	codex := startAppServer(t, codexHome(t, first), "model_provider=gate-command", "model=gpt-5", overWebSocket[0])
	thread := codex.startThread(t)
	if status := codex.turn(t, thread); status != "completed" {
		t.Fatalf("the turn before the restart: %s", status)
	}
	first.stop(t) // although the WebSocket is open

	second := startOursAt(t, first.infoPath, upstream.responsesURL(), "--port", fmt.Sprint(first.port), "--websocket", "--access-log")
	upstream.forget(nil)
	if status := codex.turn(t, thread); status != "completed" {
		t.Fatalf("the turn after the restart: %s", status)
	}
	second.awaitAccess(t, http.MethodGet, http.StatusUnauthorized)
	wantOperator(t, second, upstream.all())
	for _, request := range upstream.all() {
		t.Logf("after the restart: %s %s", request.method, request.uri)
	}
}
