//go:build unix

package codex

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// toolTurns answers each turn with calls of Codex's shell until it has the
// output of all of them, and says in each answer what that has cost.
type toolTurns struct {
	calls int // in a turn
	say   string

	mu       sync.Mutex
	said     map[string]int // tokens by kind, of all answers
	answered int
	problem  string
}

// marker is what a call's command prints, in pieces: the whole stands in no request.
func marker(call int) string { return fmt.Sprintf("ran-number-%d", call) }

// shellCall is an item that has Codex run a command, by the tool that it offers.
func shellCall(asked []byte, call int) (map[string]any, error) {
	var request struct {
		Tools []struct{ Type, Name string } `json:"tools"`
	}
	if err := json.Unmarshal(asked, &request); err != nil {
		return nil, err
	}
	command := fmt.Sprintf("printf ran-%%s-%d number", call)
	id := fmt.Sprintf("call_%d", call)
	for _, tool := range request.Tools {
		var arguments any
		switch tool.Name {
		case "exec_command":
			arguments = map[string]any{"cmd": command}
		case "shell_command":
			arguments = map[string]any{"command": command}
		case "shell":
			arguments = map[string]any{"command": []string{"sh", "-c", command}}
		default:
			continue
		}
		text, err := json.Marshal(arguments)
		return map[string]any{"type": "function_call", "id": "fc_" + id, "call_id": id, "name": tool.Name, "arguments": string(text)}, err
	}
	return nil, fmt.Errorf("Codex offers no shell, but %v", request.Tools)
}

func (u *toolTurns) serve(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	if r.Method != http.MethodPost {
		http.NotFound(w, r)
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	n := u.answered
	u.answered++
	item := map[string]any{
		"type": "message", "role": "assistant", "id": "msg_1",
		"content": []any{map[string]any{"type": "output_text", "text": u.say}},
	}
	if n%(u.calls+1) < u.calls {
		call, err := shellCall(body, n)
		if err != nil {
			u.problem = err.Error()
		}
		item = call
	}
	if n%(u.calls+1) > 0 && !strings.Contains(string(body), marker(n-1)) {
		u.problem = fmt.Sprintf("request %d does not have the output of call %d", n, n-1)
	}
	cost := map[string]int{"input": 1000 + 7*n, "cached_input": 500 + 3*n, "output": 40 + n, "reasoning": 11 + n}
	for kind, tokens := range cost {
		u.said[kind] += tokens
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, fields := range []map[string]any{
		{"type": "response.created", "response": map[string]any{"id": fmt.Sprintf("resp_%d", n), "model": "gpt-5", "usage": nil}},
		{"type": "response.output_item.added", "output_index": 0, "item": item},
		{"type": "response.output_item.done", "output_index": 0, "item": item},
		{"type": "response.completed", "response": map[string]any{
			"id": fmt.Sprintf("resp_%d", n), "model": "gpt-5", "output": []any{item},
			"usage": map[string]any{
				"input_tokens": cost["input"], "input_tokens_details": map[string]any{"cached_tokens": cost["cached_input"]},
				"output_tokens": cost["output"], "output_tokens_details": map[string]any{"reasoning_tokens": cost["reasoning"]},
				"total_tokens": cost["input"] + cost["output"],
			},
		}},
	} {
		data, _ := json.Marshal(fields)
		_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", fields["type"], data)
		_ = http.NewResponseController(w).Flush()
	}
}

func TestWhatIsCountedOfTurnsWithToolsIsWhatTheUpstreamSaid(t *testing.T) {
	for version, binary := range gatetest.CodexBinaries(t) {
		t.Run(version, func(t *testing.T) {
			const turns, calls = 2, 2
			model := &toolTurns{calls: calls, say: "both commands have run", said: make(map[string]int)}
			upstream := newUpstream(t)
			upstream.forget(model.serve)
			socket := adminSocket(t)
			gate := startOurs(t, upstream.responsesURL(), "--budget", "1000000 tokens per 24h", "--budget-dir", t.TempDir(), "--admin-socket", socket)
			home := codexHome(t, gate)
			for range turns {
				got := run(t, command(t, home, binary, "exec", "--skip-git-repo-check", "-m", "gpt-5", "-c", "model_provider=gate-command", "-c", overHTTP,
					"-c", `approval_policy="never"`, "-c", `sandbox_mode="danger-full-access"`, "run two commands"))
				if got.code != 0 || !strings.Contains(got.stdout, model.say) || model.problem != "" {
					t.Fatalf("the turn: %s; exit code %d, %s\n%s", model.problem, got.code, got.stdout, got.stderr)
				}
			}
			model.mu.Lock()
			defer model.mu.Unlock()
			if model.answered != turns*(calls+1) {
				t.Errorf("the upstream answered %d requests, want %d", model.answered, turns*(calls+1))
			}
			wantCounted(t, socket, model)
		})
	}
}

// adminSocket is a path for the operator's socket: short, and nobody else's.
func adminSocket(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "s")
}

// wantCounted compares what the verb and the metrics tell with what the upstream said.
func wantCounted(t *testing.T, socket string, model *toolTurns) {
	t.Helper()
	verb := run(t, command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy", "usage", "--json", "--address", "unix/"+socket))
	var told adminapi.Budgets
	if err := json.Unmarshal([]byte(verb.stdout), &told); err != nil || len(told.Budgets) != 1 || len(told.Budgets[0].Clients) != 1 {
		t.Fatalf("usage --json: %v, exit code %d\n%s%s", err, verb.code, verb.stdout, verb.stderr)
	}
	window := told.Budgets[0].Clients[0].Windows[0]
	want := fmt.Sprintf("%d requests, %d tokens: %d input, %d cached, %d output, %d reasoning, 0 estimated", model.answered,
		model.said["input"]+model.said["output"], model.said["input"], model.said["cached_input"], model.said["output"], model.said["reasoning"])
	if got := fmt.Sprintf("%d requests, %d tokens: %d input, %d cached, %d output, %d reasoning, %d estimated", window.Requests,
		window.Tokens, window.Input, window.Cached, window.Output, window.Reasoning, window.Estimated); got != want {
		t.Errorf("usage --json: %s; the upstream said %s", got, want)
	}
	metrics := metricsAt(t, socket)
	counted := regexp.MustCompile(`(?m)^caddy_responses_budget_tokens_total\{.*kind="(\w+)",model="gpt-5"\} (\S+)$`)
	found := make(map[string]int)
	for _, line := range counted.FindAllStringSubmatch(metrics, -1) {
		tokens, err := strconv.ParseFloat(line[2], 64)
		if err != nil {
			t.Error(err)
		}
		found[line[1]] = int(tokens)
	}
	if fmt.Sprint(found) != fmt.Sprint(model.said) {
		t.Errorf("the metrics have %v, the upstream said %v", found, model.said)
	}
}

// metricsAt asks the admin endpoint for the metrics.
func metricsAt(t *testing.T, socket string) string {
	t.Helper()
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	answer, err := client.Get("http://localhost/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		t.Fatalf("metrics: %s, %v", answer.Status, err)
	}
	return string(text)
}
