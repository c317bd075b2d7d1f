//go:build unix

package operate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// The example, with another port, upstream and budget, and nothing else changed.
func TestOneClientsBudgetIsNotAnothers(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	dir := gatetest.TempDir(t)
	example, err := os.ReadFile(filepath.Join(gatetest.RepoRoot, "examples", "rate-limit", "Caddyfile"))
	gatetest.Must(t, err)
	config := string(example)
	for from, to := range map[string]string{
		"http://:18080 {": "http://:0 {", "https://api.openai.com": up.URL, "events 60": "events 3", "window 1m": "window 1h",
	} {
		if strings.Count(config, from) != 1 {
			t.Fatalf("the example has %q %d times", from, strings.Count(config, from))
		}
		config = strings.Replace(config, from, to, 1)
	}
	path := filepath.Join(dir, "Caddyfile")
	gatetest.WriteFile(t, path, config)
	caddy := gatetest.Start(t, gatetest.Launch{
		Program: gatetest.PluginBinary(t), Dir: dir, Args: []string{"run", "--config", path},
		Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey, "XDG_RUNTIME_DIR=" + dir},
	})
	caddy.WaitOutput(gatetest.ReadyLog, 1)
	client := gatetest.NewClient(t)
	turn := func(name string) gatetest.Answer {
		info := gatetest.ReadInfo(t, filepath.Join(dir, "gate-"+name+".json"))
		r, err := http.NewRequestWithContext(t.Context(), "POST", info.BaseURL+"/responses", strings.NewReader("{}"))
		gatetest.Must(t, err)
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+info.AuthToken)
		return gatetest.Do(t, client, r)
	}
	for i := range 3 {
		if got := turn("codex"); got.Status != 200 {
			t.Fatalf("request %d: %d %s", i, got.Status, got.Body)
		}
	}
	got := turn("codex")
	gatetest.Refused(t, got, http.StatusTooManyRequests, "rate_limited")
	if got.Header.Get("Retry-After") == "" {
		t.Error("the client is not told when to try again")
	}
	if got := turn("ci"); got.Status != 200 {
		t.Errorf("the other client: %d %s", got.Status, got.Body)
	}
	users := make(map[string]int)
	for _, line := range caddy.WaitOutput("handled request", 5) {
		var entry struct {
			UserID string `json:"user_id"`
			Status int    `json:"status"`
		}
		if err := json.Unmarshal([]byte(line[strings.Index(line, "{"):]), &entry); err != nil {
			t.Errorf("%v: %s", err, line)
		}
		users[fmt.Sprint(entry.UserID, " ", entry.Status)]++
	}
	if fmt.Sprint(users) != "map[ci 200:1 codex 200:3 codex 429:1]" {
		t.Errorf("the access log has %v", users)
	}
}
