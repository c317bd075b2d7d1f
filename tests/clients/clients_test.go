//go:build unix

// Package clients runs the clients of docs/clients.md, as npm serves them, under
// "caddy responses-proxy run". They are found in node_modules in this folder, or
// in the folder that CLIENTS names. Without them, the tests are skipped, or fail
// if CI or REQUIRE_CLIENTS is set.
package clients

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

// say is what the model says.
const say = "the upstream says hello"

// answerResponses answers as the Responses API does, in one piece or as a stream.
func answerResponses(w http.ResponseWriter, r *http.Request) {
	var asked struct {
		Stream bool `json:"stream"`
	}
	if err := json.NewDecoder(r.Body).Decode(&asked); err != nil || r.URL.Path != "/v1/responses" {
		http.Error(w, fmt.Sprintf("%s: %v", r.URL.Path, err), http.StatusNotFound)
		return
	}
	part := fmt.Sprintf(`{"type":"output_text","text":%q,"annotations":[]}`, say)
	item := `{"type":"message","id":"msg_1","status":"completed","role":"assistant","content":[` + part + `]}`
	response := func(status, output string) string {
		return `{"id":"resp_1","object":"response","created_at":1,"status":"` + status + `","model":"gpt-5","output":[` + output + `],` +
			`"error":null,"incomplete_details":null,"instructions":null,"metadata":{},"parallel_tool_calls":true,"tool_choice":"auto","tools":[],` +
			`"usage":{"input_tokens":1,"input_tokens_details":{"cached_tokens":0},"output_tokens":1,"output_tokens_details":{"reasoning_tokens":0},"total_tokens":2}}`
	}
	if !asked.Stream {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, response("completed", item))
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	for _, event := range []string{
		`{"type":"response.created","sequence_number":0,"response":` + response("in_progress", "") + `}`,
		`{"type":"response.output_item.added","sequence_number":1,"output_index":0,"item":{"type":"message","id":"msg_1","status":"in_progress","role":"assistant","content":[]}}`,
		`{"type":"response.content_part.added","sequence_number":2,"item_id":"msg_1","output_index":0,"content_index":0,"part":{"type":"output_text","text":"","annotations":[]}}`,
		fmt.Sprintf(`{"type":"response.output_text.delta","sequence_number":3,"item_id":"msg_1","output_index":0,"content_index":0,"delta":%q,"logprobs":[]}`, say),
		fmt.Sprintf(`{"type":"response.output_text.done","sequence_number":4,"item_id":"msg_1","output_index":0,"content_index":0,"text":%q,"logprobs":[]}`, say),
		`{"type":"response.output_item.done","sequence_number":5,"output_index":0,"item":` + item + `}`,
		`{"type":"response.completed","sequence_number":6,"response":` + response("completed", item) + `}`,
	} {
		kind, _, _ := strings.Cut(strings.TrimPrefix(event, `{"type":"`), `"`)
		_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, event)
	}
}

// installed is a folder with the clients and our scripts in it.
func installed(t *testing.T) string {
	t.Helper()
	dir, err := filepath.Abs(".")
	gatetest.Must(t, err)
	if other := os.Getenv("CLIENTS"); other != "" {
		dir = other
	}
	_, missing := os.Stat(filepath.Join(dir, "node_modules", "openai"))
	if _, err := exec.LookPath("node"); err != nil {
		missing = err
	}
	if missing != nil {
		gatetest.SkipOrFail(t, "REQUIRE_CLIENTS", fmt.Sprintf("the clients are not installed; run: npm install --ignore-scripts --prefix tests/clients (%v)", missing))
	}
	return dir
}

// underRun runs one of the scripts under "caddy responses-proxy run".
func underRun(t *testing.T, script string, args ...string) (printed string, up *gatetest.Upstream) {
	t.Helper()
	return underRunWith(t, nil, script, args...)
}

// underRunWith is underRun with flags for run.
func underRunWith(t *testing.T, flags []string, script string, args ...string) (printed string, up *gatetest.Upstream) {
	t.Helper()
	up = gatetest.NewUpstream(t, answerResponses)
	return underRunTo(t, up, flags, script, args...), up
}

// underRunTo is underRunWith with another upstream.
func underRunTo(t *testing.T, up *gatetest.Upstream, flags []string, script string, args ...string) (printed string) {
	t.Helper()
	modules := installed(t)
	source, err := os.ReadFile(script)
	gatetest.Must(t, err)
	// Node looks for modules from the script's folder upwards.
	dir := gatetest.TempDir(t)
	gatetest.Must(t, os.Symlink(filepath.Join(modules, "node_modules"), filepath.Join(dir, "node_modules")))
	gatetest.Must(t, os.WriteFile(filepath.Join(dir, script), source, 0o600))
	flags = append([]string{"responses-proxy", "run", "--upstream-url", up.URL + "/v1/responses"}, flags...)
	args = append(append(flags, "--", "node", script), args...)
	printed, code := gatetest.Run(t, gatetest.Launch{Dir: dir, Args: args, Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey}})
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, printed)
	}
	if strings.Contains(printed, gatetest.OperatorKey) {
		t.Errorf("the key is printed:\n%s", printed)
	}
	return printed
}

func wantLines(t *testing.T, printed string, lines ...string) {
	t.Helper()
	for _, line := range lines {
		if !strings.Contains("\n"+printed, "\n"+line) {
			t.Errorf("there is no line %q in:\n%s", line, printed)
		}
	}
}

func TestTheNodeSDKUnderRun(t *testing.T) {
	printed, up := underRun(t, "openai.mjs")
	wantLines(t, printed, "answer: "+say+"\n", "stream: "+say+"\n", "chat completions: 403 ")
	if !strings.Contains(printed, "switch it to the Responses API") {
		t.Errorf("a client on chat completions is not told what to do:\n%s", printed)
	}
	for _, request := range up.Requests() {
		if got := request.Header.Get("Authorization"); got != "Bearer "+gatetest.OperatorKey {
			t.Errorf("the upstream got Authorization %q", got)
		}
	}
}

func TestTheNodeSDKAsksOnceForWhatARuleRefuses(t *testing.T) {
	printed, up := underRunWith(t, []string{
		"--allow-model", "gpt-5", "--max-output-tokens", "500", "--refuse", "store", "--refuse", "previous_response_id",
		"--allow-route", "POST /v1/chat/completions", "--allow-route", "GET /v1/responses/*",
	}, "refused.mjs")
	wantLines(t, printed,
		"model: 400 model_not_allowed, asked 1 times.\n", "store: 400 store_refused, asked 1 times.\n", "ceiling: 400 max_output_tokens_too_large, asked 1 times.\n",
		"compressed: 400 encoding_not_readable, asked 1 times.\n", "chat: 400 route_not_counted, asked 1 times.\n",
		"stored: 400 previous_response_id_refused, asked 1 times.\n", "allowed: "+say+", asked 1 times.\n")
	if seen := up.Requests(); len(seen) != 1 {
		t.Errorf("%d requests reached the upstream", len(seen))
	}
}

// The SDK repeats a 429 up to the number of times that it is told, here five.
func TestTheNodeSDKAsksASpentBudgetOnce(t *testing.T) {
	printed, up := underRunWith(t, []string{"--budget", "1 requests per 24h", "--budget-dir", gatetest.TempDir(t), "--access-log"}, "budget.mjs")
	wantLines(t, printed, "first: "+say+"\n", "second: 429 budget_exhausted usage_limit_reached ")
	if !strings.Contains(printed, "This caller's budget of 1 requests per 1d is spent. It is new at ") {
		t.Errorf("the program does not see why, and until when:\n%s", printed)
	}
	if n := len(up.Requests()); n != 1 {
		t.Errorf("%d requests reached the upstream, want 1", n)
	}
	if n := strings.Count(printed, `"status":429`); n != 1 {
		t.Errorf("the SDK was refused %d times, want once:\n%s", n, printed)
	}
}

func TestTheAgentsSDKSendsItsTracesWithTheTokenUnlessToldNotTo(t *testing.T) {
	printed, _ := underRun(t, "agents.mjs")
	wantLines(t, printed, "answer: "+say+"\n")
	if strings.Contains(printed, "traces with the token: 0\n") {
		t.Errorf("it no longer does: correct docs/clients.md:\n%s", printed)
	}
	printed, _ = underRun(t, "agents.mjs", "off")
	wantLines(t, printed, "answer: "+say+"\n", "traces with the token: 0\n")
}

func TestTheAISDKUnderRun(t *testing.T) {
	printed, _ := underRun(t, "ai-sdk.mjs")
	wantLines(t, printed, "answer: "+say+"\n", "stream: "+say+"\n")
}

func TestLangChainUnderRun(t *testing.T) {
	printed, _ := underRun(t, "langchain.mjs")
	wantLines(t, printed, "answer: "+say+"\n", "chat completions: 403 ")
}

// The SDK tries again what another try may change. Nothing does here.
func TestADeadKeyCostsTheNodeSDKOneRequestAndItShowsWhy(t *testing.T) {
	for _, how := range []string{"whole", "stream"} {
		up := gatetest.NewUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(http.StatusUnauthorized)
			_, _ = io.WriteString(w, `{"error":{"message":"Incorrect API key provided: sk-proj-abc","type":"invalid_request_error","code":"invalid_api_key"}}`)
		})
		printed := underRunTo(t, up, nil, "deadkey.mjs", how)
		wantLines(t, printed, "dead key: 400 upstream_unauthorized 400 ")
		if !strings.Contains(printed, "renew the key") || strings.Contains(printed, "sk-proj") {
			t.Errorf("%s: it shows another text:\n%s", how, printed)
		}
		if n := len(up.Requests()); n != 1 {
			t.Errorf("%s: %d requests reached the upstream, want 1", how, n)
		}
	}
}
