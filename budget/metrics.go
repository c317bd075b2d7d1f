package budget

import (
	"encoding/json"
	"errors"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the collectors. There is one set per process, which every config
// registers with the registry of its own: so counts outlive reloads. Labels
// are the config's names, callers' ids and, of models, a bounded number.
var metrics = struct {
	requests, tokens, cost *prometheus.CounterVec
}{
	requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "responses_budget", Name: "requests_total",
		Help: "Requests that have ended, by what became of them: told (the answer said what it cost), estimated, free, or the code of a refusal.",
	}, []string{"budget", "client", "code"}),
	tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "responses_budget", Name: "tokens_total",
		Help: "Tokens by kind: input, cached_input (of these), output, reasoning (of these), and estimated (of input and output). The first 50 models and 500 callers have their names.",
	}, []string{"budget", "client", "model", "kind"}),
	cost: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "responses_budget", Name: "cost_total",
		Help: "Cost where it is limited, in the unit of the operator's prices, fees of tools included.",
	}, []string{"budget", "client", "model"}),
}

// registerMetrics shows the metrics at the config's metrics endpoints. Another
// budget of the config may have done so before.
func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{metrics.requests, metrics.tokens, metrics.cost, standings} {
		err := registry.Register(collector)
		if already := (prometheus.AlreadyRegisteredError{}); errors.As(err, &already) && already.ExistingCollector == collector {
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// standings are the gauges: they are read when somebody asks for them.
var standings = &standing{
	spent: prometheus.NewDesc("caddy_responses_budget_spent", "What a caller has spent in the present window, at all replicas as far as it is known here.", standingLabels, nil),
	limit: prometheus.NewDesc("caddy_responses_budget_limit", "What a caller may spend in a window.", standingLabels, nil),
}

var standingLabels = []string{"budget", "client", "window", "unit"}

type standing struct{ spent, limit *prometheus.Desc }

// Describe implements prometheus.Collector.
func (s *standing) Describe(to chan<- *prometheus.Desc) { to <- s.spent; to <- s.limit }

// Collect implements prometheus.Collector.
func (s *standing) Collect(to chan<- prometheus.Metric) {
	tell := func(desc *prometheus.Desc, n float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, n, labels...)
	}
	told := make(map[string]bool)
	for _, b := range Usage(time.Now()).Budgets {
		for _, c := range b.Clients {
			// (two storages may have a budget of one name)
			if client := callers.label(c.Name); client != c.Name || told[b.Name+"\x00"+client] {
				continue
			}
			told[b.Name+"\x00"+c.Name] = true
			for _, w := range c.Windows {
				for _, unit := range []struct {
					name         string
					spent, limit float64
				}{
					{"requests", float64(w.Requests), float64(w.RequestsLimit)},
					{"tokens", float64(w.Tokens), float64(w.TokensLimit)},
					{"cost", float(w.Cost), float(w.CostLimit)},
				} {
					if unit.name == "cost" && w.CostLimit == "" {
						continue
					}
					tell(s.spent, unit.spent, b.Name, c.Name, w.Window, unit.name)
					if unit.limit > 0 {
						tell(s.limit, unit.limit, b.Name, c.Name, w.Window, unit.name)
					}
				}
			}
		}
	}
}

// float is a number for Prometheus, which has no others.
func float(n json.Number) float64 {
	f, _ := n.Float64()
	return f
}

// count counts a request that has ended.
func count(budget, user, code string) {
	metrics.requests.WithLabelValues(budget, callers.label(user), code).Inc()
}

// spent counts what a request has cost.
func (h *Handler) spent(e *exchange, model string) {
	code, cost, client := "told", &e.cost, callers.label(e.user)
	if cost.Estimated > 0 {
		code = "estimated"
	}
	metrics.requests.WithLabelValues(h.Name, client, code).Inc()
	for _, kind := range [...]struct {
		name string
		n    int64
	}{
		{"input", cost.Input}, {"cached_input", cost.Cached}, {"output", cost.Output}, {"reasoning", cost.Reasoning}, {"estimated", cost.Estimated},
	} {
		if kind.n > 0 {
			metrics.tokens.WithLabelValues(h.Name, client, model, kind.name).Add(float64(kind.n))
		}
	}
	if e.request.price != nil {
		metrics.cost.WithLabelValues(h.Name, client, model).Add(float64(cost.Cost) / float64(unit))
	}
}

// models are the models, and callers the callers, that have series of their
// own. An upstream could make up models without end.
var (
	models  = names{most: 50, others: "other", isOne: isModel}
	callers = names{most: 500, others: "(others)", isOne: func(string) bool { return true }}
)

// names are the first names that came, as labels.
type names struct {
	most   int
	others string // the label of the rest
	isOne  func(name string) bool

	mu    sync.Mutex
	known map[string]bool
}

// label is a name, or that of the rest once there are enough of them.
func (n *names) label(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.known == nil {
		n.known = make(map[string]bool)
	}
	if !n.known[name] {
		if len(n.known) >= n.most || !n.isOne(name) {
			return n.others
		}
		n.known[name] = true
	}
	return name
}

// isModel reports whether text looks like a model's name.
func isModel(text string) bool {
	if len(text) > maxModelName {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':' || c == '/') {
			return false
		}
	}
	return true
}
