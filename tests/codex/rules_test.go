//go:build unix

package codex

import (
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// strictest is all that a budget can refuse and Codex does without.
var strictest = []string{
	"--refuse", "store", "--refuse", "previous_response_id", "--refuse", "item_reference", "--refuse", "conversation", "--refuse", "prompt",
	"--refuse", "service_tier", "--refuse", "hosted_tools", "--refuse", "files", "--refuse", "urls", "--allow-model", "gpt-5", "--max-output-tokens", "4321",
	"--budget", "20 cost per 24h", "--price", "gpt-5* 1.25 0.125 10",
}

func TestATurnThatIsRefusedByARuleEndsAtOnceAndSaysWhy(t *testing.T) {
	for name, binary := range gatetest.CodexBinaries(t) {
		for rule, test := range map[string]struct {
			flags []string
			says  string
		}{
			"another model":           {[]string{"--allow-model", "gpt-5-mini"}, "This caller may not use this model"},
			"a model without a price": {[]string{"--budget", "20 cost per 24h", "--price", "gpt-5-mini 0.25 0.025 2"}, "has not said what this model costs"},
			"a search at the API":     {[]string{"--refuse", "hosted_tools"}, "refuses tools that run at the API"},
			"a search without a fee":  {[]string{"--budget", "20 cost per 24h", "--price", "gpt-5 1.25 0.125 10"}, "what a call of this tool costs"},
		} {
			t.Run(name+" asks for "+rule, func(t *testing.T) {
				upstream := newUpstream(t)
				gate := startOurs(t, upstream.responsesURL(), append(test.flags, "--access-log")...)
				args := []string{"exec", "--skip-git-repo-check", "-m", "gpt-5", "-c", "model_provider=gate-command", "-c", overHTTP, "-c", "web_search=live", "hi"}
				got := run(t, command(t, codexHome(t, gate), binary, args...))
				if said := got.stdout + got.stderr; got.code == 0 || !strings.Contains(said, test.says) {
					t.Errorf("Codex ends with %d and says %s", got.code, said)
				}
				if reached := upstream.matching(http.MethodPost, "/v1/responses"); len(reached) > 0 {
					t.Errorf("it reached the upstream: %v", reached)
				}
				if asked := strings.Count(gate.printed(), `"method":"POST"`); asked != 1 {
					t.Errorf("Codex asked %d times", asked)
				}
			})
		}
	}
}

// Codex repeats 403, 413 and 415 five times.
func TestCodexRepeatsNothingThatABudgetCannotReadOrCount(t *testing.T) {
	const budget = "200000 tokens per 24h"
	for name, binary := range gatetest.CodexBinaries(t) {
		turn := func(t *testing.T, upstream *fakeUpstream, settings []string, flags ...string) (*proxy, result) {
			gate := startOurs(t, upstream.responsesURL(), append(flags, "--access-log", "--budget", budget, "--budget-dir", t.TempDir())...)
			args := []string{"exec", "--skip-git-repo-check", "-m", "gpt-5", "-c", "model_provider=gate-command"}
			for _, setting := range settings {
				args = append(args, "-c", setting)
			}
			return gate, run(t, command(t, codexHome(t, gate), binary, append(args, "hi")...))
		}
		t.Run(name+", a body that seems compressed", func(t *testing.T) {
			upstream := newUpstream(t)
			gate, got := turn(t, upstream, []string{overHTTP, `model_providers.gate-command.http_headers={"Content-Encoding"="gzip"}`})
			if said := got.stdout + got.stderr; got.code == 0 || !strings.Contains(said, "without a Content-Encoding") {
				t.Errorf("Codex ends with %d and says %s", got.code, said)
			}
			if asked := len(linesOf(gate, `"method":"POST"`)); asked != 1 || len(upstream.matching(http.MethodPost, "/v1/responses")) > 0 {
				t.Errorf("Codex asked %d times", asked)
			}
		})
		t.Run(name+", a WebSocket", func(t *testing.T) {
			upstream := newUpstream(t)
			gate, got := turn(t, upstream, []string{"model_providers.gate-command.supports_websockets=true"}, "--websocket")
			wantTurn(t, upstream, got)
			if refused := linesOf(gate, `"status":426`); len(refused) != 1 {
				t.Errorf("Codex opened a WebSocket %d times", len(refused))
			}
		})
		t.Run(name+", a search on a route of its own", func(t *testing.T) {
			upstream := newUpstream(t)
			asked := 0
			upstream.forget(func(w http.ResponseWriter, r *http.Request) {
				if asked++; r.URL.Path == "/v1/responses" && asked == 1 {
					toolCall(w, `"namespace":"web","name":"run"`, `{"search_query":[{"q":"gate"}]}`, 1)
					return
				}
				upstream.writeTurn(w)
			})
			gate, got := turn(t, upstream, []string{
				overHTTP, "model_providers.gate-command.supports_standalone_web_search=true", "features.standalone_web_search=true", "web_search=live",
			}, "--allow-route", "POST /v1/alpha/search")
			wantTurn(t, upstream, got)
			if refused := linesOf(gate, `/v1/alpha/search`); len(refused) != 1 || !strings.Contains(refused[0], `"status":400`) {
				t.Errorf("Codex searched %d times: %v", len(refused), refused)
			}
			if reached := upstream.matching(http.MethodPost, "/v1/alpha/search"); len(reached) > 0 {
				t.Errorf("it reached the upstream: %v", reached)
			}
		})
	}
}

// linesOf are the lines of a proxy's log that have text in them.
func linesOf(p *proxy, text string) []string { return gatetest.LinesWith(p.printed(), text) }

func TestCodexCompletesATurnUnderTheStrictestRules(t *testing.T) {
	for name, binary := range gatetest.CodexBinaries(t) {
		t.Run(name, func(t *testing.T) {
			upstream := newUpstream(t)
			gate := startOurs(t, upstream.responsesURL(), strictest...)
			args := []string{"exec", "--skip-git-repo-check", "-m", "gpt-5", "-c", "model_provider=gate-command", "-c", overHTTP, "-c", "web_search=disabled", "hi"}
			wantTurn(t, upstream, run(t, command(t, codexHome(t, gate), binary, args...)))
			reached := upstream.matching(http.MethodPost, "/v1/responses")
			wantOperator(t, gate, reached)
			if len(reached) != 1 || !strings.HasPrefix(string(reached[0].body), `{"max_output_tokens":4321,"model":"gpt-5",`) {
				t.Errorf("the upstream saw %v", reached)
			}
		})
	}
}
