//go:build unix

package codex

import (
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestABareNameATildeAndTheAPIsURLWillDo(t *testing.T) {
	upstream := newUpstream(t)
	home := t.TempDir()
	cmd := command(t, home, gatetest.CaddyBinary, "responses-proxy", "--server-info", "info.json", "--upstream-url", upstream.URL+"/v1/")
	p := &proxy{process: start(t, cmd), infoPath: filepath.Join(home, "info.json")}
	p.giveKey(t)
	p.await(t, "--upstream-url "+upstream.URL+"/v1/: POST /v1/responses goes to "+upstream.responsesURL())
	p.await(t, "responses-proxy listening on ")
	p.readInfo(t)
	if got := turn().exchange(t, p, patience); got.status != http.StatusOK || upstream.all()[0].uri != "/v1/responses" {
		t.Errorf("status %d; the upstream was asked for %v", got.status, upstream.all())
	}
	for _, path := range []string{"info.json", "~/info.json"} {
		if got := run(t, command(t, home, gatetest.CaddyBinary, "responses-proxy", "token", "--server-info", path)); got.code != 0 || got.stdout != p.token+"\n" {
			t.Errorf("token --server-info %s: exit code %d: %s", path, got.code, got.stderr)
		}
	}
}

func TestTheVerbsWarnWhereTheTokenWouldGoToAProxy(t *testing.T) {
	p := startOurs(t, newUpstream(t).responsesURL())
	for _, verb := range []string{"token", "status"} {
		for environment, warns := range map[string]bool{
			"HTTP_PROXY=http://user:password@proxy.example NO_PROXY=": true,
			"HTTP_PROXY=http://proxy.example NO_PROXY=127.0.0.1":      false,
		} {
			cmd := command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy", verb, "--server-info", p.infoPath)
			cmd.Env = append(cmd.Env, strings.Fields(environment)...)
			got := run(t, cmd)
			if got.code != 0 || strings.Contains(got.stderr, "NO_PROXY=127.0.0.1,localhost,::1") != warns || strings.Contains(got.stderr, "password") {
				t.Errorf("%s with %s: exit code %d, %q; want a warning: %t", verb, environment, got.code, got.stderr, warns)
			}
			if verb == "token" && got.stdout != p.token+"\n" {
				t.Error("stdout is not the token alone")
			}
		}
	}
}

func TestHeadersWithUnderscoresAndDotsDoNotArrive(t *testing.T) {
	upstream := newUpstream(t)
	headers := []string{jsonType, "session_id: 1", "a.b: 1", "Session-Id: 1"}
	arrived := func(p *proxy) (found []string) {
		upstream.forget(nil)
		if got := (call{headers: headers, body: []byte("{}")}).exchange(t, p, patience); got.status != http.StatusOK {
			t.Fatalf("status %d", got.status)
		}
		for _, name := range []string{"Session_id", "A.b", "Session-Id"} {
			if upstream.all()[0].header[name] != nil {
				found = append(found, name)
			}
		}
		return found
	}
	if got := strings.Join(arrived(startOurs(t, upstream.responsesURL())), " "); got != "Session-Id" {
		t.Errorf("through ours arrives %s, want Session-Id alone", got)
	}
	gatetest.CodexBinary(t)
	if got := strings.Join(arrived(startOriginal(t, upstream.responsesURL())), " "); got != "Session_id A.b Session-Id" {
		t.Errorf("through the original arrives %s, want all three", got)
	}
}

// An example that prints errors at each start teaches its users not to read
// them. Codex has errors of its own (its plugins cannot be fetched here); what
// counts are those of which the gate is the cause.
func TestTheExampleForCodexPrintsNoErrors(t *testing.T) {
	for version, binary := range gatetest.CodexBinaries(t) {
		errorsOf := func(args ...string) (found []string) {
			upstream := newUpstream(t)
			gate := startOurs(t, upstream.responsesURL(), args...)
			got := run(t, command(t, codexHome(t, gate), binary, "exec", "--skip-git-repo-check", "hi"))
			wantTurn(t, upstream, got)
			for line := range strings.Lines(got.stderr) {
				if strings.Contains(line, "ERROR") && (strings.Contains(line, "url: "+gate.baseURL()) || strings.Contains(line, "WebSocket")) {
					found = append(found, strings.TrimSpace(line))
				}
			}
			return found
		}
		if found := errorsOf("--allow-route", "codex"); found != nil {
			t.Errorf("%s prints %q", version, found)
		}
		if errorsOf() == nil {
			t.Errorf("%s prints no error without --allow-route codex: this test cannot fail", version)
		}
	}
}

// readmeBlock is README's only example in a language that has a word in it, with
// the gate's own place in it.
func readmeBlock(t *testing.T, language, word string, gate *proxy) string {
	t.Helper()
	page, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, block := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(string(page), -1) {
		if strings.Contains(block[1], word) {
			found = append(found, block[1])
		}
	}
	if len(found) != 1 {
		t.Fatalf("README has %d examples in %s with %q, want one", len(found), language, word)
	}
	return strings.NewReplacer("http://127.0.0.1:18080/v1", gate.baseURL(), "~/gate.json", gate.infoPath, "./caddy ", "caddy ").Replace(found[0])
}

func TestWhatREADMETellsCallersToDoWorks(t *testing.T) {
	upstream := newUpstream(t)
	gate := startOurs(t, upstream.responsesURL(), "--allow-route", "codex")
	got := run(t, command(t, t.TempDir(), "sh", "-c", readmeBlock(t, "sh", "curl", gate)))
	if got.code != 0 || !strings.Contains(got.stdout, upstream.say) {
		t.Errorf("curl: exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	for version, binary := range gatetest.CodexBinaries(t) {
		upstream.forget(nil)
		home := t.TempDir()
		if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(readmeBlock(t, "toml", "auth", gate)), 0o600); err != nil {
			t.Fatal(err)
		}
		got := run(t, command(t, home, binary, "exec", "--skip-git-repo-check", "hi"))
		wantTurn(t, upstream, got)
		wantOperator(t, gate, upstream.all())
		if strings.Contains(got.stderr, "ERROR") {
			t.Errorf("%s prints:\n%s", version, got.stderr)
		}
	}
}

// Codex's own provider, led to the gate: docs/clients.md says what it calls.
func TestCodexsOwnProviderWorksWithTheGatesTokenAsItsKey(t *testing.T) {
	for version, binary := range gatetest.CodexBinaries(t) {
		for _, websocket := range []bool{false, true} {
			for _, way := range []string{"CODEX_API_KEY", "login"} {
				upstream := newUpstream(t)
				var flags []string
				if websocket {
					flags = []string{"--websocket"}
				}
				gate := startOurs(t, upstream.responsesURL(), flags...)
				home := t.TempDir()
				if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte("openai_base_url = \""+gate.baseURL()+"\"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
				turn := command(t, home, binary, "exec", "--skip-git-repo-check", "hi")
				if way == "login" {
					login := command(t, home, binary, "login", "--with-api-key")
					login.Stdin = strings.NewReader(gate.token)
					if got := run(t, login); got.code != 0 || len(upstream.all()) > 0 {
						t.Fatalf("%s: login: exit code %d after %d requests: %s", version, got.code, len(upstream.all()), got.stderr)
					}
				} else {
					turn.Env = append(turn.Env, "CODEX_API_KEY="+gate.token)
				}
				got := run(t, turn)
				wantTurn(t, upstream, got)
				wantOperator(t, gate, upstream.all())
				if asked := upstream.matching(http.MethodGet, "/v1/models"); len(asked) > 0 {
					t.Errorf("%s by %s asks for the list of models", version, way)
				}
				// It tries WebSocket first, and says so where that is refused.
				if tried := upstream.matching(http.MethodGet, "/v1/responses"); (len(tried) > 0) != websocket || strings.Contains(got.stderr, "ERROR") == websocket {
					t.Errorf("%s by %s with --websocket=%t: %d WebSockets reached the upstream, and it prints:\n%s", version, way, websocket, len(tried), got.stderr)
				}
				// The tool behind POST /v1/alpha/search: other providers have it on demand only.
				if !websocket && !strings.Contains(string(upstream.all()[0].body), "web.run") {
					t.Errorf("%s by %s has no search of its own", version, way)
				}
			}
		}
	}
}
