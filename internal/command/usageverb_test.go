package command

import (
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
)

func TestACallersNameDoesNothingToTheOperatorsTerminal(t *testing.T) {
	var out strings.Builder
	err := writeUsage(&out, adminapi.Budgets{Budgets: []adminapi.Budget{{Name: "default", Clients: []adminapi.Spending{
		{Name: "Ann \u00e9\x1b]0;title\a\x1b[2J\u202e\nci\t0", Windows: []adminapi.Window{{Window: "1d"}}},
	}}}}, false, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	const want = "Ann \u00e9\ufffd]0;title\ufffd\ufffd[2J\ufffd\ufffdci\ufffd0 "
	if len(lines) != 2 || !strings.Contains(lines[1], want) || strings.ContainsAny(out.String(), "\x1b\a\t\u202e") {
		t.Errorf("the terminal gets %q", out.String())
	}
}
