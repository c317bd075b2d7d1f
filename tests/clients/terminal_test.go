//go:build unix

package clients

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// terminalClient runs a script that uses a client for the terminal, in a home of
// its own, under "caddy responses-proxy run". Whatever does not go to the gate
// goes to a proxy that is not there.
func terminalClient(t *testing.T, module, script string) (printed string, up *gatetest.Upstream) {
	t.Helper()
	modules := filepath.Join(installed(t), "node_modules")
	if _, err := os.Stat(filepath.Join(modules, module)); err != nil {
		if os.Getenv("CI") != "" || os.Getenv("REQUIRE_CLIENTS") != "" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	up = gatetest.NewUpstream(t, answerResponses)
	args := []string{"responses-proxy", "run", "--upstream-url", up.URL + "/v1/responses", "--", "sh", "-c", script}
	env := []string{
		"OPENAI_API_KEY=" + gatetest.OperatorKey, "MODULES=" + modules, "PATH=" + os.Getenv("PATH"), "TERM=dumb",
		// Cline's server in the background: else one port for all users of the machine.
		fmt.Sprintf("CLINE_HUB_PORT=%d", gatetest.FreePort(t)),
		"HTTP_PROXY=http://127.0.0.1:1", "HTTPS_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1", "https_proxy=http://127.0.0.1:1",
	}
	p := gatetest.Start(t, gatetest.Launch{Dir: gatetest.TempDir(t), Args: args, Env: env})
	select {
	case <-p.Done: // (they load for seconds, and longer where others do, too)
	case <-time.After(3 * time.Minute):
	}
	printed = p.Output.String()
	if strings.Contains(printed, gatetest.OperatorKey) {
		t.Errorf("the key is printed:\n%s", printed)
	}
	return printed, up
}

// wantAnswer fails the test unless the client printed the answer and all its
// requests came with the key.
func wantAnswer(t *testing.T, printed string, up *gatetest.Upstream) {
	t.Helper()
	if !strings.Contains(printed, say) || len(up.Requests()) == 0 {
		t.Errorf("no answer, after %d requests:\n%s", len(up.Requests()), printed)
	}
	for _, request := range up.Requests() {
		if got := request.Header.Get("Authorization"); got != "Bearer "+gatetest.OperatorKey || request.Method != http.MethodPost {
			t.Errorf("the upstream got %s with Authorization %q", request.Method, got)
		}
	}
}

// wantToldToSwitch fails the test unless the client, which calls chat
// completions, shows what to do.
func wantToldToSwitch(t *testing.T, printed string, up *gatetest.Upstream) {
	t.Helper()
	if !strings.Contains(printed, "switch it to the Responses API") || len(up.Requests()) > 0 {
		t.Errorf("who uses chat completions is not told to switch; %d requests reached the upstream:\n%s", len(up.Requests()), printed)
	}
}

func TestOpencodeUnderRun(t *testing.T) {
	printed, up := terminalClient(t, "opencode-linux-x64", `"$MODULES/opencode-linux-x64/bin/opencode" run --model openai/gpt-5 hi`)
	wantAnswer(t, printed, up)
	printed, up = terminalClient(t, "opencode-linux-x64", `
		printf '{"provider":{"other":{"npm":"@ai-sdk/openai-compatible","options":{"baseURL":"{env:OPENAI_BASE_URL}","apiKey":"{env:OPENAI_API_KEY}"},"models":{"gpt-5":{}}}}}' >opencode.json
		"$MODULES/opencode-linux-x64/bin/opencode" run --model other/gpt-5 hi`)
	wantToldToSwitch(t, printed, up)
}

func TestContinueUnderRun(t *testing.T) {
	script := func(model string) string {
		return `
		printf 'name: a\nversion: 0.0.1\nschema: v1\nmodels: [{name: a, provider: openai, model: ` + model + `, apiBase: "%s", apiKey: "%s"}]\n' "$OPENAI_BASE_URL" "$OPENAI_API_KEY" >config.yaml
		node "$MODULES/@continuedev/cli/dist/cn.js" --config config.yaml -p hi`
	}
	printed, up := terminalClient(t, "@continuedev/cli", script("gpt-5"))
	wantAnswer(t, printed, up)
	printed, up = terminalClient(t, "@continuedev/cli", script("gpt-4.1"))
	wantToldToSwitch(t, printed, up)
}

func TestClineUnderRun(t *testing.T) {
	script := func(provider string) string {
		return `
		cline=$MODULES/@cline/cli-linux-x64/bin/cline
		"$cline" auth -p ` + provider + ` -k "$OPENAI_API_KEY" -b "$OPENAI_BASE_URL" -m gpt-5
		"$cline" -P ` + provider + ` -m gpt-5 "say hi"
		"$cline" hub stop`
	}
	printed, up := terminalClient(t, "@cline/cli-linux-x64", script("openai-native"))
	wantAnswer(t, printed, up)
	printed, up = terminalClient(t, "@cline/cli-linux-x64", script("openai-compatible"))
	wantToldToSwitch(t, printed, up)
}
