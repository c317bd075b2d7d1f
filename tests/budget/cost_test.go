//go:build unix

package budget

import (
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestWhatACallerHasSpentOnAModelIsInTheMetricsTheTrailAndTheVerb(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	g := gatetest.StartReloadable(t, b.Upstream, site(gatetest.TempDir(t), "per 1d {\n\tcost 20\n}\nprice gpt-5 1000 100 1000"))
	if got := ask(t, g); got.Status != http.StatusOK { // 115 tokens
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	for place, told := range map[string]struct{ says, want string }{
		"trail":   {g.WaitOutput(`"msg":"accepted"`, 1)[0], `"cost":"0.115"`},
		"metrics": {g.AdminDo(t, http.MethodGet, "/metrics", "", "").Body, `caddy_responses_budget_cost_total{budget="default",client="default",model="gpt-5"} 0.115`},
	} {
		if !strings.Contains(told.says, told.want) {
			t.Errorf("the %s has no %s", place, told.want)
		}
	}
	out, code := gatetest.Run(t, gatetest.Launch{Dir: g.Site.Dir, Args: []string{"responses-proxy", "usage", "--json", "--models", "--address", "unix/" + g.Site.AdminSocket()}})
	if code != 0 || !strings.Contains(out, `"model": "gpt-5"`) || strings.Count(out, `"cost": 0.115`) != 2 {
		t.Errorf("usage ends with %d and says %s", code, out)
	}
}
