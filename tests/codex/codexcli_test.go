//go:build unix

package codex

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// exampleConfig is the file that users copy their provider from.
const exampleConfig = "../../examples/codex/config.toml"

// codexHome makes an empty CODEX_HOME with the example's config.toml, in which
// the port and the server-info file are the ones of p.
func codexHome(t *testing.T, p *proxy) string {
	t.Helper()
	content, err := os.ReadFile(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	config := string(content)
	for old, new := range map[string]string{
		"http://127.0.0.1:18080/v1":       p.baseURL(),
		"/run/responses-proxy/codex.json": p.infoPath,
	} {
		if !strings.Contains(config, old) {
			t.Fatalf("%s has no %s to replace", exampleConfig, old)
		}
		config = strings.ReplaceAll(config, old, new)
	}
	home := t.TempDir()
	if err := os.WriteFile(filepath.Join(home, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	return home
}

// exampleProviders are the names of the providers in the example.
func exampleProviders(t *testing.T) []string {
	t.Helper()
	content, err := os.ReadFile(exampleConfig)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, found := range regexp.MustCompile(`(?m)^\[model_providers\.([a-z-]+)\]$`).FindAllSubmatch(content, -1) {
		names = append(names, string(found[1]))
	}
	return names
}

// codexExec has Codex say hi, as one non-interactive turn. Settings are those
// of Codex's -c.
func codexExec(t *testing.T, home string, env, settings []string) result {
	t.Helper()
	args := []string{"exec", "--skip-git-repo-check", "-m", "gpt-5"}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := command(t, home, gatetest.CodexBinary(t), append(args, "hi")...)
	cmd.Env = append(cmd.Env, env...)
	return run(t, cmd)
}

// wantTurn fails the test if Codex did not complete the turn.
func wantTurn(t *testing.T, upstream *fakeUpstream, got result) {
	t.Helper()
	if got.code != 0 || !strings.Contains(got.stdout, upstream.say) {
		t.Fatalf("codex exec: exit code %d, stdout %q, want 0 and %q; stderr:\n%s", got.code, got.stdout, upstream.say, got.stderr)
	}
}

// wantOperator fails the test if a request reached the upstream without the
// operator's key, or with anything of the gate's.
func wantOperator(t *testing.T, p *proxy, requests []seen) {
	t.Helper()
	if len(requests) == 0 {
		t.Fatal("nothing reached the upstream")
	}
	for _, request := range requests {
		if got := request.header["Authorization"]; len(got) != 1 || got[0] != "Bearer "+operatorKey {
			t.Errorf("Authorization at the upstream = %q, want the operator's key alone", got)
		}
		if strings.Contains(request.String(), p.token) || strings.Contains(string(request.body), p.token) {
			t.Errorf("the gate token reached the upstream: %v", &request)
		}
	}
}

// appServer is a long-lived Codex, as editors run it: one session, many turns.
type appServer struct {
	*process
	out  *bufio.Reader
	next int
}

// startAppServer starts Codex as a server on its stdin and stdout.
func startAppServer(t *testing.T, home string, settings ...string) *appServer {
	t.Helper()
	args := []string{"app-server"}
	for _, setting := range settings {
		args = append(args, "-c", setting)
	}
	cmd := command(t, home, gatetest.CodexBinary(t), args...)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s := &appServer{process: start(t, cmd), out: bufio.NewReader(stdout)}
	s.call(t, "initialize", map[string]any{"clientInfo": map[string]any{"name": "test", "title": "test", "version": "1"}})
	s.send(t, map[string]any{"method": "initialized"})
	return s
}

func (s *appServer) send(t *testing.T, message map[string]any) {
	t.Helper()
	line, err := json.Marshal(message)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(s.stdin, "%s\n", line); err != nil {
		t.Fatal(err)
	}
}

// message is one line of the app server.
type message struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Result json.RawMessage `json:"result"`
	Params json.RawMessage `json:"params"`
	Error  json.RawMessage `json:"error"`
}

// await reads messages until one is wanted. The server's end, and with it the
// end of the wait, is bounded by its command's context.
func (s *appServer) await(t *testing.T, wanted func(message) bool) message {
	t.Helper()
	for {
		line, err := s.out.ReadBytes('\n')
		if err != nil {
			t.Fatalf("the app server ended: %v", err)
		}
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			t.Fatalf("the app server said %q: %v", line, err)
		}
		if wanted(m) {
			return m
		}
	}
}

// call sends a request and waits for its result.
func (s *appServer) call(t *testing.T, method string, params any) json.RawMessage {
	t.Helper()
	s.next++
	s.send(t, map[string]any{"id": s.next, "method": method, "params": params})
	m := s.await(t, func(m message) bool { return m.ID == s.next && m.Method == "" })
	if m.Error != nil {
		t.Fatalf("the app server answered %s with %s", method, m.Error)
	}
	return m.Result
}

// startThread begins a session.
func (s *appServer) startThread(t *testing.T) string {
	t.Helper()
	var started struct {
		Thread struct {
			ID string `json:"id"`
		} `json:"thread"`
	}
	if err := json.Unmarshal(s.call(t, "thread/start", map[string]any{"cwd": s.Cmd.Dir}), &started); err != nil {
		t.Fatal(err)
	}
	return started.Thread.ID
}

// turn has the session say hi, and waits until Codex is done with that.
func (s *appServer) turn(t *testing.T, thread string) (status string) {
	t.Helper()
	s.call(t, "turn/start", map[string]any{
		"threadId": thread, "input": []any{map[string]any{"type": "text", "text": "hi"}},
	})
	done := s.await(t, func(m message) bool { return m.Method == "turn/completed" })
	var completed struct {
		Turn struct {
			Status string `json:"status"`
		} `json:"turn"`
	}
	if err := json.Unmarshal(done.Params, &completed); err != nil {
		t.Fatal(err)
	}
	return completed.Turn.Status
}
