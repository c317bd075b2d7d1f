package budget

import (
	"net/http"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
)

func TestCostIsToldByCallerAndModel(t *testing.T) {
	h := provision(t, t.TempDir(), &Handler{
		Name: "priced", Limits: Limits{Per: []Per{{Window: "1d", Cost: 5 * unit}}},
		Price: []Price{{"gpt-5*", unit, unit, 10 * unit}}, Fee: []Fee{{"web_search", unit / 100}},
	})
	var told any
	call(t, h, "codex", `{"model":"gpt-5","tools":[{"type":"web_search"}]}`, handlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		err := (&receives{}).ServeHTTP(w, r)
		replacer, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		told, _ = replacer.Get("http.responses_budget.cost")
		return err
	}))
	const want = "0.022" // 1000 at 1 and 100 at 10 a million, and two searches
	if told != want {
		t.Errorf("the placeholder tells %v", told)
	}
	registry := prometheus.NewPedanticRegistry()
	if err := registerMetrics(registry); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	got := make(map[string]float64)
	for _, family := range families {
		for _, m := range family.Metric {
			name := family.GetName()
			for _, label := range m.Label {
				name += " " + label.GetValue()
			}
			got[name] = m.GetGauge().GetValue() + m.GetCounter().GetValue()
		}
	}
	for name, want := range map[string]float64{
		"caddy_responses_budget_cost_total priced codex gpt-5-mini": 0.022,
		"caddy_responses_budget_spent priced codex cost 1d":         0.022,
		"caddy_responses_budget_limit priced codex cost 1d":         5,
	} {
		if got[name] != want {
			t.Errorf("%s is %v", name, got[name])
		}
	}
	for range 2 { // (a reset takes nothing from what was spent on models)
		window := h.book.usage(time.Now()).Clients[0].Windows[0]
		if window.CostLimit != "5" || len(window.Models) != 1 || window.Models[0].Model != "gpt-5-mini" || window.Models[0].Cost != want || window.Models[0].Requests != 1 {
			t.Errorf("usage tells %+v", window)
		}
		if _, err := Reset("priced", "codex", time.Now()); err != nil {
			t.Error(err)
		}
	}
	if got := h.book.usage(time.Now()).Clients; len(got) != 1 || got[0].Windows[0].Cost != "" {
		t.Errorf("after a reset, usage tells %+v", got)
	}
}
