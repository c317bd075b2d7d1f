//go:build unix

package codex

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// toolCall is an event stream in which the model calls one of Codex's tools.
func toolCall(w http.ResponseWriter, tool, arguments string, tokens int) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, data := range []string{
		`{"type":"response.created","response":{"id":"resp_0"}}`,
		fmt.Sprintf(`{"type":"response.output_item.done","output_index":0,"item":{"type":"function_call","id":"fc_1","call_id":"call_1",%s,"arguments":%q}}`, tool, arguments),
		fmt.Sprintf(`{"type":"response.completed","response":{"id":"resp_0","usage":{"input_tokens":%d,"input_tokens_details":null,"output_tokens":1,"output_tokens_details":null,"total_tokens":%d}}}`, tokens, tokens+1),
	} {
		kind, _, _ := strings.Cut(strings.TrimPrefix(data, `{"type":"`), `"`)
		_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, data)
	}
}

func TestTheRoutesOfThePresetAreThoseThatCodexCalls(t *testing.T) {
	for version, binary := range gatetest.CodexBinaries(t) {
		t.Run(version, func(t *testing.T) {
			upstream := newUpstream(t)
			searched := false
			upstream.forget(func(w http.ResponseWriter, r *http.Request) {
				switch {
				case r.URL.Path == "/v1/models":
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, `{"models":[]}`)
				case r.URL.Path == "/v1/alpha/search":
					searched = true
					w.Header().Set("Content-Type", "application/json")
					_, _ = io.WriteString(w, `{"output":[],"results":[]}`)
				case !searched:
					toolCall(w, `"namespace":"web","name":"run"`, `{"search_query":[{"q":"gate"}]}`, 1)
				default:
					upstream.writeTurn(w)
				}
			})
			gate := startOurs(t, upstream.responsesURL(), "--allow-route", "codex")
			args := []string{"exec", "--skip-git-repo-check", "-m", "gpt-5"}
			for _, setting := range []string{
				overHTTP, "model_providers.gate-command.supports_standalone_web_search=true",
				"features.standalone_web_search=true", "web_search=live",
			} {
				args = append(args, "-c", setting)
			}
			wantTurn(t, upstream, run(t, command(t, codexHome(t, gate), binary, append(args, "hi")...)))
			for _, route := range []string{"POST /v1/responses", "GET /v1/models", "POST /v1/alpha/search"} {
				method, path, _ := strings.Cut(route, " ")
				wantOperator(t, gate, upstream.matching(method, path))
			}
			if asked := upstream.matching(http.MethodGet, "/v1/models"); asked[0].uri != "/v1/models?client_version="+version {
				t.Errorf("Codex asked for %s", asked[0].uri)
			}
		})
	}
}

func TestCodexHasTheAPICompactAConversation(t *testing.T) {
	upstream := newUpstream(t)
	calls := 0
	upstream.forget(func(w http.ResponseWriter, r *http.Request) {
		calls++
		switch {
		case r.URL.Path == "/v1/responses/compact":
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"output":[]}`)
		case calls == 1: // in the middle of a turn, more is used than Codex was told to keep
			toolCall(w, `"name":"update_plan"`, `{"plan":[]}`, 500_000)
		default:
			upstream.writeTurn(w)
		}
	})
	gate := startOurs(t, upstream.responsesURL(), "--allow-route", "codex")
	args := []string{"exec", "--skip-git-repo-check", "-m", "gpt-5"}
	for _, setting := range []string{
		`model_provider="gate-env"`, `model_providers.gate-env.name="OpenAI"`, "features.remote_compaction_v2=false", "model_auto_compact_token_limit=1",
	} {
		args = append(args, "-c", setting)
	}
	cmd := command(t, codexHome(t, gate), gatetest.OldCodexBinary(t), append(args, "hi")...)
	cmd.Env = append(cmd.Env, "PROXY_TOKEN="+gate.token)
	wantTurn(t, upstream, run(t, cmd))
	wantOperator(t, gate, upstream.matching(http.MethodPost, "/v1/responses/compact"))
}

func TestThePresetsOtherRoutesAndThoseWithAnIDReachTheUpstream(t *testing.T) {
	// Elsewhere than at the API's usual paths, too.
	for _, base := range []string{"/v1", "/some/where"} {
		upstream := newUpstream(t)
		gate := startOurs(t, upstream.URL+base+"/responses", "--allow-route", "codex", "--allow-route", "GET /v1/responses/* any_query",
			"--allow-route", "POST /v1/responses/*/cancel", "--allow-route", "GET /v1/responses/*/input_items", "--allow-route", "POST /v1/files multipart")
		for route, want := range map[string]int{
			"POST /v1/responses/compact":           200,
			"POST /v1/images/generations":          200,
			"POST /v1/images/edits":                200,
			"GET /v1/responses/resp_1":             200,
			"GET /v1/responses/resp_1?stream=1":    200,
			"POST /v1/responses/resp_1/cancel":     200,
			"GET /v1/responses/resp_1/input_items": 200,
			"POST /v1/files":                       200,
			"GET /v1/responses/resp_1/other":       403,
			"DELETE /v1/responses/resp_1":          403,
			"GET /v1/responses/..":                 403,
		} {
			upstream.forget(nil)
			method, target, _ := strings.Cut(route, " ")
			got := call{method: method, target: target, headers: []string{"Content-Type: application/json"}}.exchange(t, gate, patience)
			if got.status != want {
				t.Errorf("%s: status %d, want %d", route, got.status, want)
			}
			if want == http.StatusOK {
				if requests := upstream.all(); len(requests) != 1 || requests[0].uri != base+strings.TrimPrefix(target, "/v1") {
					t.Errorf("%s: the upstream at %s got %v", route, base, requests)
				}
			}
		}
		form := call{method: http.MethodPost, target: "/v1/files", headers: []string{"Content-Type: multipart/form-data; boundary=x"}, body: []byte("--x\r\n\r\nfile\r\n--x--\r\n")}
		upstream.forget(nil)
		if got := form.exchange(t, gate, patience); got.status != http.StatusOK || string(upstream.all()[0].body) != string(form.body) {
			t.Errorf("an upload: status %d", got.status)
		}
		form.target = "/v1/responses"
		if got := form.exchange(t, gate, patience); got.status != http.StatusUnsupportedMediaType {
			t.Errorf("an upload elsewhere: status %d, want 415", got.status)
		}
	}
}

func TestAHostOfTheOperatorsChoiceIsAnswered(t *testing.T) {
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL(), "--allow-host", "host.docker.internal")
	for host, want := range map[string]int{"host.docker.internal": 200, "host.docker.internal:18080": 200, "gateway.docker.internal": 403} {
		if got := (call{method: http.MethodPost, target: "/v1/responses", host: host, headers: []string{"Content-Type: application/json"}, body: []byte("{}")}).exchange(t, gate, patience); got.status != want {
			t.Errorf("Host %s: status %d, want %d", host, got.status, want)
		}
	}
}
