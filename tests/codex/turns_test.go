//go:build unix

package codex

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// settleFor is how long Codex may take to fall back from what was refused:
// long enough for a busy machine, and too short for a retry of Codex's, the
// first of which comes after some seconds.
const settleFor = 2 * time.Second

// overHTTP turns off what the example says about WebSocket.
const overHTTP = "model_providers.gate-command.supports_websockets=false"

func TestEveryProviderOfTheExampleCompletesATurn(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL())
	providers := map[string][]string{ // and their environment
		"gate-env":     {"PROXY_TOKEN=" + gate.token},
		"gate-header":  {"PROXY_TOKEN=" + gate.token},
		"gate-command": nil,
	}
	for _, name := range exampleProviders(t) {
		if _, ok := providers[name]; !ok {
			t.Errorf("%s has a provider %s that no test runs", exampleConfig, name)
		}
	}
	for name, env := range providers {
		t.Run(name, func(t *testing.T) {
			if !slices.Contains(exampleProviders(t), name) {
				t.Fatalf("%s has no provider %s", exampleConfig, name)
			}
			upstream.forget(nil)
			wantTurn(t, upstream, codexExec(t, codexHome(t, gate), env, []string{"model_provider=" + name}))
			turns := upstream.matching(http.MethodPost, "/v1/responses")
			if len(turns) != 1 {
				t.Errorf("%d turns reached the upstream, want 1", len(turns))
			}
			wantOperator(t, gate, turns)
		})
	}
}

func TestCodexWithoutTheTokenIsToldWhatIsMissing(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL())
	got := codexExec(t, codexHome(t, gate), []string{"PROXY_TOKEN=of-an-older-launch"}, []string{"model_provider=gate-env"})
	if got.code == 0 {
		t.Error("codex exec ended with code 0")
	}
	if !strings.Contains(got.stderr, "Tokens change with every launch") {
		t.Errorf("Codex does not tell the gate's message, but:\n%s", got.stderr)
	}
	if requests := upstream.all(); len(requests) != 0 {
		t.Errorf("the upstream was asked: %v", &requests[0])
	}
}

func TestASessionSurvivesARestartOfTheProxyBetweenTwoTurns(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	first := startOurs(t, upstream.responsesURL())
	codex := startAppServer(t, codexHome(t, first), "model_provider=gate-command", "model=gpt-5", overHTTP)
	thread := codex.startThread(t)
	if status := codex.turn(t, thread); status != "completed" {
		t.Fatalf("the turn before the restart: %s", status)
	}
	first.stop(t)

	second := startOursAt(t, first.infoPath, upstream.responsesURL(), "--port", fmt.Sprint(first.port), "--access-log")
	if second.token == first.token {
		t.Fatal("the proxy has the same token after a restart")
	}
	upstream.forget(nil)
	if status := codex.turn(t, thread); status != "completed" {
		t.Fatalf("the turn after the restart: %s", status)
	}
	wantOperator(t, second, upstream.matching(http.MethodPost, "/v1/responses"))
	// Codex still had the old token, was refused, and asked for the new one.
	second.awaitAccess(t, http.MethodPost, http.StatusUnauthorized)
	second.awaitAccess(t, http.MethodPost, http.StatusOK)
}

func TestAResumedSessionFindsTheTokenOfTheNewLaunch(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	first := startOurs(t, upstream.responsesURL())
	home := codexHome(t, first)
	wantTurn(t, upstream, codexExec(t, home, nil, []string{overHTTP}))
	first.stop(t)

	second := startOursAt(t, first.infoPath, upstream.responsesURL(), "--port", fmt.Sprint(first.port))
	upstream.forget(nil)
	resume := command(t, home, gatetest.CodexBinary(t), "exec", "resume", "--last", "--skip-git-repo-check", "-m", "gpt-5", "-c", overHTTP, "hi again")
	wantTurn(t, upstream, run(t, resume))
	wantOperator(t, second, upstream.matching(http.MethodPost, "/v1/responses"))
}

func TestAStaleTokenIsRenewedWithinOneTurn(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL(), "--access-log")
	home := codexHome(t, gate)
	// On its first call, what Codex asks for the token has one of an older
	// launch, as after a restart of the proxy in that very moment.
	asked := filepath.Join(home, "asked")
	script := filepath.Join(home, "token.sh")
	content := fmt.Sprintf("#!/bin/sh\necho asked >> %[1]s\n[ $(wc -l < %[1]s) -gt 1 ] || { echo of-an-older-launch; exit 0; }\nexec caddy \"$@\"\n", asked)
	if err := os.WriteFile(script, []byte(content), 0o700); err != nil {
		t.Fatal(err)
	}
	wantTurn(t, upstream, codexExec(t, home, nil, []string{
		overHTTP, fmt.Sprintf("model_providers.gate-command.auth.command=%q", script),
	}))
	if got, err := os.ReadFile(asked); err != nil || strings.Count(string(got), "\n") != 2 {
		t.Errorf("Codex asked for the token %d times (%v), want 2", strings.Count(string(got), "\n"), err)
	}
	gate.awaitAccess(t, http.MethodPost, http.StatusUnauthorized)
	gate.awaitAccess(t, http.MethodPost, http.StatusOK)
	wantOperator(t, gate, upstream.matching(http.MethodPost, "/v1/responses"))
}

func TestModelsAreListedOnceTheirRouteIsAllowed(t *testing.T) {
	gatetest.CodexBinary(t)
	for name, test := range map[string]struct {
		args []string
		want int
	}{
		"refused, the turn completes all the same": {nil, 0},
		"allowed, the upstream is asked":           {[]string{"--allow-route", "GET /v1/models any_query"}, 1},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := newUpstream(t)
			gate := startOurs(t, upstream.responsesURL(), test.args...)
			wantTurn(t, upstream, codexExec(t, codexHome(t, gate), nil, []string{overHTTP}))
			asked := upstream.matching(http.MethodGet, "/v1/models")
			if len(asked) < test.want || test.want == 0 && len(asked) > 0 {
				t.Fatalf("the upstream was asked for its models %d times, want %d", len(asked), test.want)
			}
			for _, request := range asked {
				if want := "/v1/models?client_version=" + gatetest.CodexVersion; request.uri != want {
					t.Errorf("the upstream was asked %s, want %s", request.uri, want)
				}
			}
			wantOperator(t, gate, upstream.all())
		})
	}
}
