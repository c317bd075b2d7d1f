//go:build unix

package observe

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// prometheusTool is one of Prometheus' programs (Debian: package prometheus, which
// has both): prometheus, found through PROMETHEUS or on PATH, or promtool,
// through PROMTOOL. Without it, the test is skipped, or fails if CI or
// REQUIRE_PROMETHEUS is set.
func prometheusTool(t *testing.T, name string) string {
	t.Helper()
	if program := os.Getenv(strings.ToUpper(name)); program != "" {
		return program
	}
	program, err := exec.LookPath(name)
	if err != nil {
		gatetest.SkipOrFail(t, "REQUIRE_PROMETHEUS", fmt.Sprintf("install Prometheus, or set %s: %v", strings.ToUpper(name), err))
	}
	return program
}

// promtool runs Prometheus' own checker of rules.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(prometheusTool(t, "promtool"), args...).CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

func monitoring(name string) string {
	return filepath.Join(gatetest.RepoRoot, "examples", "monitoring", name)
}

// rules is what this test reads of a file of rules.
type rules struct {
	Groups []struct {
		Name  string `yaml:"name"`
		Rules []rule `yaml:"rules"`
	} `yaml:"groups"`
}

type rule struct {
	Alert       string            `yaml:"alert,omitempty"`
	Record      string            `yaml:"record,omitempty"`
	Expr        string            `yaml:"expr"`
	For         string            `yaml:"for,omitempty"`
	Labels      map[string]string `yaml:"labels,omitempty"`
	Annotations map[string]string `yaml:"annotations,omitempty"`
}

func TestTheAlertsFireWhenTheyShouldAndOnlyThen(t *testing.T) {
	t.Parallel()
	promtool(t, "check", "rules", monitoring("alerts.yml"))
	promtool(t, "test", "rules", monitoring("alerts_test.yml"))
}

func TestEveryAlertSaysWhatToDoIsTestedAndIsInTheDocs(t *testing.T) {
	t.Parallel()
	var shipped rules
	decoder := yaml.NewDecoder(strings.NewReader(gatetest.ReadFile(t, monitoring("alerts.yml"))))
	decoder.KnownFields(true)
	gatetest.Must(t, decoder.Decode(&shipped))
	tests := gatetest.ReadFile(t, monitoring("alerts_test.yml"))
	docs := gatetest.ReadFile(t, filepath.Join(gatetest.RepoRoot, "docs", "observability.md"))
	count := 0
	for _, group := range shipped.Groups {
		for _, alert := range group.Rules {
			count++
			if alert.Alert == "" || alert.Annotations["summary"] == "" || alert.Labels["severity"] == "" {
				t.Errorf("%+v", alert)
			}
			quiet := "alertname: " + alert.Alert + ", exp_alerts: []}"
			fires := "alertname: " + alert.Alert + "\n        exp_alerts:\n          - "
			if !strings.Contains(tests, quiet) || !strings.Contains(tests, fires) {
				t.Errorf("it is not tested both when %s fires and when it does not", alert.Alert)
			}
			if !strings.Contains(docs, "| `"+alert.Alert+"` |") {
				t.Errorf("the docs do not have %s", alert.Alert)
			}
		}
	}
	if count < 5 {
		t.Errorf("%d alerts", count)
	}
}

// panel is what these tests read of a panel of the dashboard.
type panel struct {
	ID      int
	Title   string
	Targets []struct{ Expr, LegendFormat string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	var dashboard struct {
		Title  string
		Panels []panel
	}
	gatetest.Must(t, json.Unmarshal([]byte(gatetest.ReadFile(t, monitoring("dashboard.json"))), &dashboard))
	if dashboard.Title == "" || len(dashboard.Panels) < 5 {
		t.Errorf("%+v", dashboard)
	}
	return dashboard.Panels
}

func TestTheDashboardAsksForWhatGatesAndBudgetsCount(t *testing.T) {
	t.Parallel()
	ids := make(map[int]bool)
	for _, panel := range panels(t) {
		if ids[panel.ID] || panel.Title == "" || len(panel.Targets) == 0 {
			t.Errorf("%+v", panel)
		}
		ids[panel.ID] = true
		for _, target := range panel.Targets {
			if !strings.Contains(target.Expr, "caddy_responses_") {
				t.Errorf("%s asks for nothing of the gate's: %s", panel.Title, target.Expr)
			}
		}
	}
}

func TestTheDashboardTellsHowAWorkloadsIdentityIs(t *testing.T) {
	t.Parallel()
	asks(t, map[string][]map[string]any{
		"Workload identity: exchanges":               {{"labels": `{gate="default", outcome="refused"}`, "value": 10}},
		"Workload identity: time to the token's end": {{"labels": `{gate="default"}`, "value": 3000}}, // at 10m
	}, []any{
		map[string]string{"series": `caddy_responses_proxy_gate_identity_exchanges_total{instance="h", gate="default", outcome="refused"}`, "values": "0+1x20"},
		map[string]string{"series": `caddy_responses_proxy_gate_identity_token_end_timestamp_seconds{instance="h", gate="default"}`, "values": "3600x20"},
	})
}

func TestTheDashboardTellsWhatBudgetsAreSpent(t *testing.T) {
	t.Parallel()
	want := map[string][]map[string]any{
		"Tokens by client and model": {{"labels": `{client="ci", model="gpt-5"}`, "value": 1000}},
		"Cost by client and model":   {{"labels": `{client="ci", model="gpt-5"}`, "value": 5}},
		"Share of budget left":       {{"labels": `{budget="default", client="ci", window="1d", unit="cost"}`, "value": 0.75}},
	}
	series := func(name, labels, values string) map[string]string {
		return map[string]string{"series": "caddy_responses_budget_" + name + `{instance="h", budget="default", client="ci", ` + labels + "}", "values": values}
	}
	asks(t, want, []any{
		series("tokens_total", `model="gpt-5", kind="input"`, "0+60x20"), series("tokens_total", `model="gpt-5", kind="output"`, "0+40x20"),
		series("tokens_total", `model="gpt-5", kind="reasoning"`, "0+30x20"), series("cost_total", `model="gpt-5"`, "0+0.5x20"),
		series("spent", `window="1d", unit="cost"`, "5x20"), series("limit", `window="1d", unit="cost"`, "20x20"),
		series("spent", `window="1d", unit="requests"`, "5x20"), // without a limit
	})
}

// asks has Prometheus answer the first question of each of some panels, ten
// minutes into the series.
func asks(t *testing.T, want map[string][]map[string]any, series []any) {
	t.Helper()
	fill := strings.NewReplacer("$__rate_interval", "10m", "$instance", ".*", "$gate", ".*")
	var queries []map[string]any
	for _, panel := range panels(t) {
		if samples := want[panel.Title]; samples != nil {
			queries = append(queries, map[string]any{"expr": fill.Replace(panel.Targets[0].Expr), "eval_time": "10m", "exp_samples": samples})
		}
	}
	if len(queries) != len(want) {
		t.Fatalf("the dashboard has %d of %d panels", len(queries), len(want))
	}
	encoded, err := yaml.Marshal(map[string]any{"tests": []any{map[string]any{"interval": "1m", "input_series": series, "promql_expr_test": queries}}})
	gatetest.Must(t, err)
	path := filepath.Join(t.TempDir(), "panels.yml")
	gatetest.WriteFile(t, path, string(encoded))
	promtool(t, "test", "rules", path)
}
