//go:build unix

package budget

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// inARow is a gate with two budgets, the inner one behind the outer one.
func inARow(t *testing.T, b *bill, outer, inner string) *gatetest.Gate {
	t.Helper()
	return gatetest.StartReloadable(t, b.Upstream, site(gatetest.TempDir(t), "name outer\n"+outer+"\n}\nresponses_budget {\nname inner\n"+inner))
}

// counts are the requests and tokens that each budget has counted.
func counts(t *testing.T, g *gatetest.Gate) map[string][2]int64 {
	t.Helper()
	var found adminapi.Budgets
	gatetest.Must(t, json.Unmarshal([]byte(g.AdminDo(t, http.MethodGet, adminapi.BudgetsPath, "", "").Body), &found))
	all := make(map[string][2]int64)
	for _, budget := range found.Budgets {
		for _, client := range budget.Clients {
			all[budget.Name] = [2]int64{client.Windows[0].Requests, client.Windows[0].Tokens}
		}
	}
	return all
}

func TestOfTwoBudgetsInARowEachCountsAndTheTrailTellsOnce(t *testing.T) {
	t.Parallel()
	const priced = "per 1d {\n\tcost 20\n}\nprice gpt-5 %d %[1]d %[1]d"
	for name, c := range map[string]struct{ outer, inner, cost string }{
		"the outer one knows the cost": {fmt.Sprintf(priced, 2000), "", "0.23"},
		"the inner one knows it":       {"", fmt.Sprintf(priced, 1000), "0.115"},
		"both know it":                 {fmt.Sprintf(priced, 2000), fmt.Sprintf(priced, 1000), "0.23"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBill(t)
			g := inARow(t, b, c.outer, c.inner)
			if got := ask(t, g); got.Status != http.StatusOK || len(b.Requests()) != 1 {
				t.Fatalf("%d %s", got.Status, got.Body)
			}
			told := g.WaitOutput(`"msg":"accepted"`, 1)[0]
			for _, want := range []string{fmt.Sprintf(`"input_tokens":%d,`, input), `"output_tokens":100,`, `"cost":"` + c.cost + `"`} {
				if strings.Count(told, want) != 1 {
					t.Errorf("the trail has no %s, or two: %s", want, told)
				}
			}
			metrics := g.AdminDo(t, http.MethodGet, "/metrics", "", "").Body
			for _, budget := range []string{"outer", "inner"} {
				if got := counts(t, g)[budget]; got != [2]int64{1, cost} {
					t.Errorf("the %s one counts %v", budget, got)
				}
				want := fmt.Sprintf(`caddy_responses_budget_tokens_total{budget="%s",client="default",kind="output",model="gpt-5"} 100`, budget)
				if !strings.Contains(metrics, want) {
					t.Errorf("the metrics have no %s", want)
				}
			}
		})
	}
}

func TestWhatTheInnerOfTwoBudgetsRefusesIsARequestWithoutTokensForTheOuter(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	g := inARow(t, b, "", "per 1d {\n\ttokens 100\n}")
	ask(t, g)
	got := ask(t, g)
	if got.Status != 429 || code(got) != "" || !strings.Contains(got.Body, `"budget_exhausted"`) || got.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("it gets %d %v %s", got.Status, got.Header, got.Body)
	}
	if told := g.WaitOutput(`"msg":"refused"`, 1)[0]; !strings.Contains(told, `"code":"budget_exhausted"`) {
		t.Errorf("the trail says %s", told)
	}
	if got := counts(t, g); got["outer"] != [2]int64{2, cost} || got["inner"] != [2]int64{1, cost} {
		t.Errorf("they count %v", got)
	}
	metrics := g.AdminDo(t, http.MethodGet, "/metrics", "", "").Body
	for _, want := range []string{`{budget="outer",client="default",code="free"} 1`, `{budget="inner",client="default",code="budget_exhausted"} 1`} {
		if !strings.Contains(metrics, "caddy_responses_budget_requests_total"+want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

func TestTheInnerOfTwoBudgetsJudgesTheCeilingThatTheOuterPutIn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		inner, status int
		code          string
	}{{300, 200, ""}, {299, 400, "max_output_tokens_too_large"}} {
		t.Run(fmt.Sprint(c.inner), func(t *testing.T) {
			t.Parallel()
			b := newBill(t)
			g := inARow(t, b, "max_output_tokens 300", fmt.Sprintf("max_output_tokens %d", c.inner))
			const content = `{"model":"gpt-5"}`
			got := g.Do(t, func(r *http.Request) {
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(content)), int64(len(content))
			})
			if got.Status != c.status || !strings.Contains(got.Body, c.code) {
				t.Errorf("it gets %d %s", got.Status, got.Body)
			}
			if c.status == 200 && b.Only(t).Body != `{"max_output_tokens":300,"model":"gpt-5"}` {
				t.Errorf("the upstream got %s", b.Only(t).Body)
			}
		})
	}
}
