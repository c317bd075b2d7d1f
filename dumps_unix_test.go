//go:build !windows

package responsesproxygate

import (
	"net/http"
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
