package budget

import (
	"cmp"
	"io"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage"
	"github.com/prometheus/client_golang/prometheus"
)

// provision loads a budget as Caddy does.
func provision(t *testing.T, folder string, h *Handler) *Handler {
	t.Helper()
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true},
		StorageRaw: caddyconfig.JSONModuleObject(map[string]string{"root": folder}, "module", "file_system", nil),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = h.Cleanup() })
	return h
}

func TestWhoHasSpentWhatIsListedAndForgiven(t *testing.T) {
	now := time.Now()
	h := provision(t, t.TempDir(), &Handler{
		Name: "usage", Limits: Limits{Per: []Per{{Window: "month", Requests: 9}, {Window: "1d", Tokens: 100}}},
		Client: []Client{{Name: "idle", Limits: Limits{Per: []Per{{Window: "1d", Tokens: 7}}}}},
	})
	call(t, h, "codex", "{}", costs(90, 30))
	found := Usage(now).Budgets
	if len(found) != 1 || found[0].Name != "usage" || len(found[0].Clients) != 2 {
		t.Fatalf("it tells %+v", found)
	}
	codex, idle := found[0].Clients[0], found[0].Clients[1]
	if len(codex.Windows) != 2 || codex.Windows[0].Window != "1d" || codex.Windows[0].Tokens != 120 || codex.Windows[0].TokensLimit != 100 ||
		codex.Windows[1].Requests != 1 || codex.Windows[1].RequestsLimit != 9 || codex.Windows[1].TokensLimit != 0 {
		t.Errorf("of codex, it tells %+v", codex)
	}
	if idle.Name != "idle" || idle.Windows[0].TokensLimit != 7 || idle.Windows[0].Tokens != 0 {
		t.Errorf("of idle, it tells %+v", idle)
	}
	if w := call(t, h, "codex", "{}", costs(1, 1)); code(w) != "budget_exhausted" {
		t.Errorf("it got %d", w.Code)
	}
	for _, wrong := range [][2]string{{"other", "codex"}, {"usage", "nobody"}} {
		if _, err := Reset(wrong[0], wrong[1], now); err == nil {
			t.Errorf("%v was reset", wrong)
		}
	}
	if got, err := Reset("usage", "codex", now); err != nil || got.Windows[0].Tokens != 0 || got.Windows[0].Input != 90 {
		t.Errorf("the reset tells %+v, %v", got, err)
	}
	if w := call(t, h, "codex", "{}", costs(1, 1)); w.Code != 200 {
		t.Errorf("then it got %s", code(w))
	}
}

func TestMetricsTellOfLimitsAndHaveABoundedNumberOfNames(t *testing.T) {
	h := provision(t, t.TempDir(), &Handler{Name: "gauges", Limits: Limits{Per: []Per{{Window: "1d", Tokens: 100}}}})
	call(t, h, "codex", "{}", costs(90, 30))
	registry := prometheus.NewPedanticRegistry()
	if err := registerMetrics(registry); err != nil {
		t.Fatal(err)
	}
	if err := registerMetrics(registry); err != nil {
		t.Errorf("for a second budget of a config: %v", err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, label := range m.Label {
				labels = append(labels, label.GetValue())
			}
			if name := strings.Join(labels, " "); strings.Contains(name, "gauges") {
				got[strings.TrimPrefix(family.GetName(), "caddy_responses_budget_")+" "+name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	if want := map[string]float64{
		"limit gauges codex tokens 1d": 100, "spent gauges codex tokens 1d": 120, "spent gauges codex requests 1d": 1,
		"requests_total gauges codex told": 1, "tokens_total gauges codex input gpt-5": 90, "tokens_total gauges codex output gpt-5": 30,
	}; !maps.Equal(got, want) {
		t.Errorf("the metrics are %v, want %v", got, want)
	}
	few := names{most: 2, others: "other", isOne: isModel}
	for name, want := range map[string]string{"gpt 5": "other", strings.Repeat("x", maxModelName+1): "other"} {
		if got := few.label(name); got != want {
			t.Errorf("%q is %q", name, got)
		}
	}
	for _, name := range []string{"a", "b", "c", "a"} {
		if got, want := few.label(name), strings.ReplaceAll(name, "c", "other"); got != want {
			t.Errorf("%q is %q", name, got)
		}
	}
}

func TestALogHasTheNamesOfModelsThatMetricsHaveNoRoomFor(t *testing.T) {
	h := open(t, t.TempDir(), daily)
	was := models.most
	models.most = 0
	t.Cleanup(func() { models.most = was })
	for model, want := range map[string]string{"of-a-long-name/" + strings.Repeat("x", 200): "", "no name": "other"} {
		var replacer *caddy.Replacer
		call(t, h, "codex", asking(1), handlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			replacer = r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			w.Header().Set("Content-Type", "application/json")
			_, err := io.WriteString(w, `{"model":"`+model+`","usage":{"input_tokens":1,"output_tokens":1}}`)
			return err
		}))
		if got, _ := replacer.GetString("http.responses_budget.model"); got != cmp.Or(want, model) {
			t.Errorf("of %q, a log has %q", model, got)
		}
	}
}
