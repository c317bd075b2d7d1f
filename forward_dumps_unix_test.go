//go:build !windows

package responsesproxygate

import (
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// dumpsOf is all that is dumped while use uses a gate.
func dumpsOf(t *testing.T, members string, use func(h *Handler)) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dumps")
	c := newConfiguration(t)
	use(c.mustLoad(t, "dumping", `, "dump_dir": `+strconv.Quote(dir)+members))
	c.discard() // waits until all is written
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing was dumped: %v", err)
	}
	var all strings.Builder
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(content)
	}
	return all.String()
}

func TestTheOperatorsKeyIsNotInTheRequestDump(t *testing.T) {
	t.Setenv("GATE_SHORT_KEY", "k3y") // too short to be looked for, under a name that is not known
	all := dumpsOf(t, `, "upstream_header": "X-Custom", "upstream_bearer": "{env.GATE_SHORT_KEY}", "insecure_allow": ["logged_token"]`, func(h *Handler) {
		r := withToken(h, h.Name)
		serveTo(t, h, r, func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusOK)
			return nil
		})
	})
	if strings.Contains(all, "k3y") || strings.Contains(all, "X-Custom") {
		t.Errorf("the request was dumped as it went upstream:\n%s", all)
	}
}

func TestADumpHidesTheTokensOfOtherClients(t *testing.T) {
	var tokens []string
	all := dumpsOf(t, `, "client": [{"name": "codex"}, {"name": "ci"}]`, func(h *Handler) {
		r := withToken(h, "codex")
		r.Header.Set("X-Harmless", clientToken(h, "ci"))
		tokens = []string{clientToken(h, "ci"), clientToken(h, "codex")}
		r.Body = io.NopCloser(strings.NewReader(`{"a":"` + url.QueryEscape(tokens[0]) + `","b":"` + tokens[1] + `"}`))
		serveTo(t, h, r, func(w http.ResponseWriter, r *http.Request) error {
			_, err := io.Copy(w, r.Body)
			return err
		})
	})
	for _, token := range tokens {
		if strings.Contains(all, token[:20]) || strings.Contains(all, token[20:]) {
			t.Errorf("a token is in\n%s", all)
		}
	}
	if strings.Count(all, "REDACTED") < 6 {
		t.Errorf("dumped:\n%s", all)
	}
}
