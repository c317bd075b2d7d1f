//go:build unix

package observe

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"gopkg.in/yaml.v3"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// watched is a gate that two clients use, each with a budget of its own, and a
// site with its metrics: an answer has 100 tokens, which cost 0.5. The budget is
// for POST alone: it would have no WebSocket.
func watched(t *testing.T) (g *gatetest.Gate, ci, metrics, keyFile string) {
	t.Helper()
	echo := gatetest.Echo(make(chan struct{}))
	up := gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet {
			echo(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"model":"gpt-5","usage":{"input_tokens":60,"output_tokens":40}}`)
	})
	dir := gatetest.TempDir(t)
	keyFile, metrics = filepath.Join(dir, "key"), fmt.Sprintf("127.0.0.1:%d", gatetest.FreePort(t))
	gatetest.WriteFile(t, keyFile, gatetest.OperatorKey)
	s := gatetest.Site{
		Dir: dir, Admin: "unix", Key: "upstream_bearer_file " + keyFile,
		Gate: "allow_route POST /v1/responses\nallow_route GET /v1/responses\nclient ci {\nserver_info " + dir + "/ci.json\n}\nclient gone {\nserver_info " + dir + "/gone.json\n}",
		Before: `@post method POST
			responses_budget @post {
				per 1d {
					tokens 1000000
					cost 1
				}
				price gpt-5 5000 500 5000
				client ci {
					per 1d {
						cost 0.6
					}
				}
			}`,
	}.With(t, up)
	launch := s.Launch(t)
	gatetest.WriteFile(t, s.ConfigPath(), s.Caddyfile()+"http://"+metrics+" {\nbind 127.0.0.1\nmetrics /metrics\n}\n")
	g = &gatetest.Gate{Site: s, Up: up, HTTP: gatetest.NewClient(t), Process: gatetest.Start(t, launch)}
	g.WaitOutput(gatetest.ReadyLog, 1)
	g.ReadInfo()
	return g, gatetest.ReadInfo(t, dir+"/ci.json").AuthToken, metrics, keyFile
}

// prometheus is a running server, and knows what it can be asked.
type prometheus struct {
	*gatetest.Process
	address string
}

// startPrometheus has one scrape a target, with the alerts that are shipped.
func startPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	program := prometheusTool(t, "prometheus")
	dir := gatetest.TempDir(t)
	config, err := yaml.Marshal(map[string]any{
		"global":         map[string]string{"scrape_interval": "1s", "evaluation_interval": "1s"},
		"rule_files":     []string{monitoring("alerts.yml")},
		"scrape_configs": []any{map[string]any{"job_name": "gate", "static_configs": []any{map[string][]string{"targets": {target}}}}},
	})
	gatetest.Must(t, err)
	gatetest.WriteFile(t, filepath.Join(dir, "prometheus.yml"), string(config))
	p := &prometheus{address: fmt.Sprintf("127.0.0.1:%d", gatetest.FreePort(t))}
	p.Process = gatetest.Start(t, gatetest.Launch{Program: program, Dir: dir, Args: []string{
		"--config.file=" + filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path=" + filepath.Join(dir, "tsdb"), "--web.listen-address=" + p.address,
	}})
	p.WaitOutput("Server is ready to receive web requests", 1)
	return p
}

// get asks the HTTP API.
func (p *prometheus) get(t *testing.T, path string, query url.Values, into any) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+p.address+"/api/v1/"+path+"?"+query.Encode(), nil)
	gatetest.Must(t, err)
	got := gatetest.Do(t, http.DefaultClient, r)
	answer := struct {
		Status string
		Data   any
	}{Data: into}
	if err := json.Unmarshal([]byte(got.Body), &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s %v: %d %s: %v", path, query, got.Status, got.Body, err)
	}
}

// ask is an instant query: values by their labels.
func (p *prometheus) ask(t *testing.T, expr string) map[string]float64 {
	t.Helper()
	var data struct {
		Result []struct {
			Metric map[string]string
			Value  [2]any
		}
	}
	p.get(t, "query", url.Values{"query": {expr}}, &data)
	found := make(map[string]float64)
	for _, series := range data.Result {
		text, _ := series.Value[1].(string)
		value, err := strconv.ParseFloat(text, 64)
		gatetest.Must(t, err)
		found[fmt.Sprint(series.Metric)] = value
	}
	return found
}

// awaits asks until the answer is as it must be.
func awaits[T any](t *testing.T, what string, ask func() T, is func(T) bool) T {
	t.Helper()
	var got T
	defer func() { t.Logf("%s: it is %v", what, got) }()
	gatetest.Until(t, what, func() bool {
		got = ask()
		return is(got)
	})
	return got
}

// variables are what Grafana puts in place of the dashboard's: it asks Prometheus.
func (p *prometheus) variables(t *testing.T, target string) *strings.Replacer {
	t.Helper()
	fill := []string{"$__rate_interval", "1m"}
	for name, want := range map[string]string{"instance": target, "gate": "default"} {
		awaits(t, "the variable "+name, func() (values []string) {
			p.get(t, "label/"+name+"/values", url.Values{"match[]": {"caddy_responses_proxy_gate_requests_total"}}, &values)
			return values
		}, func(values []string) bool { return len(values) == 1 && values[0] == want })
		fill = append(fill, "$"+name, strings.ReplaceAll(regexp.QuoteMeta(want), `\`, `\\`))
	}
	return strings.NewReplacer(fill...)
}

func TestPrometheusAnswersEveryPanelAndFiresTheBudgetsAlerts(t *testing.T) {
	t.Parallel()
	prometheusTool(t, "prometheus")
	g, ci, metrics, keyFile := watched(t)
	p := startPrometheus(t, metrics)
	fill := p.variables(t, metrics)
	post := func(status int, edits ...func(*http.Request)) {
		t.Helper()
		const body = `{"model":"gpt-5","input":"hi","max_output_tokens":100}`
		edits = append([]func(*http.Request){func(r *http.Request) {
			r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		}}, edits...)
		if got := g.Do(t, edits...); got.Status != status {
			t.Fatalf("%d %s, want %d", got.Status, got.Body, status)
		}
	}

	// An increase is seen of what was scraped before.
	post(http.StatusOK)
	awaits(t, "the first request", func() map[string]float64 { return p.ask(t, "caddy_responses_budget_cost_total") },
		func(series map[string]float64) bool { return len(series) > 0 })
	post(http.StatusOK)
	post(http.StatusTooManyRequests) // spent: 1 of 1
	post(http.StatusOK, gatetest.SetHeader("X-Proxy-Token", ci))
	post(http.StatusForbidden, gatetest.SetHeader("Origin", "https://attacker.example"))
	post(http.StatusUnauthorized, gatetest.SetHeader("X-Proxy-Token", "wrong"))
	for _, path := range []string{"clients/gone/rotate", "clients/gone/revoke"} {
		if got := g.AdminDo(t, http.MethodPost, "/responses_proxy_gate/gates/default/"+path, "", ""); got.Status != http.StatusOK {
			t.Fatalf("%s: %d %s", path, got.Status, got.Body)
		}
	}
	gatetest.WriteFile(t, keyFile, gatetest.OperatorKey+"2")
	socket, _, err := websocket.Dial(t.Context(), g.URL("/v1/responses"), &websocket.DialOptions{HTTPClient: g.HTTP, HTTPHeader: http.Header{"X-Proxy-Token": {ci}}})
	gatetest.Must(t, err)
	defer socket.CloseNow()

	for _, panel := range panels(t) {
		if strings.HasPrefix(panel.Title, "Workload identity") {
			continue // this gate has a key: TestTheDashboardTellsHowAWorkloadsIdentityIs
		}
		for _, target := range panel.Targets {
			expr := fill.Replace(target.Expr)
			if strings.Contains(expr, "$") {
				t.Errorf("%s has a variable that the dashboard has not: %s", panel.Title, expr)
			}
			found := awaits(t, panel.Title+": "+expr, func() map[string]float64 { return p.ask(t, expr) }, func(series map[string]float64) bool {
				for _, value := range series {
					if value > 0 {
						return true
					}
				}
				return false
			})
			t.Logf("%s: %v", panel.Title, found)
			if panel.Title == "Share of budget left" {
				left := func(client, unit string) float64 {
					return found[fmt.Sprint(map[string]string{"budget": "default", "client": client, "window": "1d", "unit": unit})]
				}
				if left("default", "cost") != 0 || left("default", "tokens") != 1-200/1e6 || fmt.Sprintf("%.3f", left("ci", "cost")) != "0.167" {
					t.Errorf("what is left is %v", found)
				}
			}
		}
	}
	p.loadedAllRules(t)
	awaits(t, "the alerts", func() []string { return p.firing(t) }, func(firing []string) bool {
		return strings.Join(firing, "\n") == "BudgetNearlySpent of ci: cost\nBudgetSpent of default: cost"
	})
}

// firing are the alerts that fire about budgets, with whom they are about.
func (p *prometheus) firing(t *testing.T) (firing []string) {
	t.Helper()
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	p.get(t, "alerts", nil, &data)
	for _, a := range data.Alerts {
		if a.State == "firing" && strings.HasPrefix(a.Labels["alertname"], "Budget") {
			firing = append(firing, a.Labels["alertname"]+" of "+a.Labels["client"]+": "+a.Labels["unit"])
		}
	}
	slices.Sort(firing)
	return firing
}

// loadedAllRules wants every alert that is shipped loaded and evaluated without an error.
func (p *prometheus) loadedAllRules(t *testing.T) {
	t.Helper()
	var shipped rules
	gatetest.Must(t, yaml.Unmarshal([]byte(gatetest.ReadFile(t, monitoring("alerts.yml"))), &shipped))
	type loaded struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	awaits(t, "the rules", func() (l loaded) { p.get(t, "rules", nil, &l); return l }, func(l loaded) bool {
		if len(l.Groups) != len(shipped.Groups) {
			return false
		}
		for i, group := range l.Groups {
			for j, rule := range group.Rules {
				if rule.Health != "ok" || len(group.Rules) != len(shipped.Groups[i].Rules) || rule.Name != shipped.Groups[i].Rules[j].Alert {
					return false
				}
			}
		}
		return true
	})
}
