//go:build unix

// Package admin tests, from the outside, what an operator does with a running
// gate: list its clients, rotate their tokens, revoke their access, through
// Caddy's admin endpoint and the command line.
package admin

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

// routes allow HTTP and WebSocket.
const routes = "allow_route POST /v1/responses\nallow_route GET /v1/responses\n"

// twoClients are a gate's options: its own token, and clients codex and ci.
func twoClients(dir string) string {
	return routes + client("codex", dir) + client("ci", dir)
}

func client(name, dir string) string {
	return "client " + name + " {\nserver_info " + clientFile(dir, name) + "\n}\n"
}

func clientFile(dir, name string) string { return filepath.Join(dir, name+".json") }

// start starts a gate with an admin socket.
func start(t *testing.T, up *gatetest.Upstream, options func(dir string) string) *gatetest.Gate {
	t.Helper()
	dir := gatetest.TempDir(t)
	return gatetest.StartReloadable(t, up, gatetest.Site{Dir: dir, Gate: options(dir)})
}

// tokenOf is what a client is told.
func tokenOf(t *testing.T, g *gatetest.Gate, name string) string {
	t.Helper()
	return gatetest.ReadInfo(t, clientFile(g.Site.Dir, name)).AuthToken
}

// statusWith is what a request with a token gets.
func statusWith(t *testing.T, g *gatetest.Gate, token string) int {
	t.Helper()
	return g.Do(t, gatetest.SetHeader("Authorization", "Bearer "+token)).Status
}

// post has the admin endpoint do something.
func post(t *testing.T, g *gatetest.Gate, path, body string) string {
	t.Helper()
	contentType := ""
	if body != "" {
		contentType = "application/json"
	}
	got := g.AdminDo(t, http.MethodPost, "/responses_proxy_gate/gates/default/"+path, contentType, body)
	if got.Status != http.StatusOK {
		t.Fatalf("%s: %d %s", path, got.Status, got.Body)
	}
	return got.Body
}

// clientState is a part of what the admin endpoint tells of a client.
type clientState struct {
	Name     string `json:"name"`
	Kind     string `json:"kind"`
	State    string `json:"state"`
	Tokens   int    `json:"accepted_tokens"`
	Requests int    `json:"accepted_requests"`
	Sockets  int    `json:"open_websockets"`
	LastUsed string `json:"last_used"`
}

// list is what the admin endpoint tells of the default gate's clients, by name.
func list(t *testing.T, g *gatetest.Gate) map[string]clientState {
	t.Helper()
	got := g.AdminDo(t, http.MethodGet, "/responses_proxy_gate/gates", "", "")
	var answer struct {
		Gates []struct {
			Name    string        `json:"name"`
			Clients []clientState `json:"clients"`
		} `json:"gates"`
	}
	if err := json.Unmarshal([]byte(got.Body), &answer); err != nil || got.Status != 200 || len(answer.Gates) != 1 {
		t.Fatalf("%d %s: %v", got.Status, got.Body, err)
	}
	clients := make(map[string]clientState)
	for _, c := range answer.Gates[0].Clients {
		clients[c.Name] = c
	}
	return clients
}

// run runs "caddy responses-proxy" with a verb.
func run(t *testing.T, args ...string) (out string, code int) {
	t.Helper()
	dir := gatetest.TempDir(t)
	return gatetest.Run(t, gatetest.Launch{Dir: dir, Args: append([]string{"responses-proxy"}, args...)})
}

// atSocket are the flags that name a gate's admin endpoint.
func atSocket(g *gatetest.Gate, args ...string) []string {
	return append(args, "--address", "unix/"+g.Site.AdminSocket())
}

// wantNone fails the test if text has any of these.
func wantNone(t *testing.T, what, text string, secrets ...string) {
	t.Helper()
	for _, secret := range secrets {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("%s has a token:\n%s", what, text)
		}
	}
}
