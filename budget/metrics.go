package budget

import (
	"errors"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the collectors. There is one set per process, which every config
// registers with the registry of its own: so counts outlive reloads. Labels
// are the config's names, callers' ids and, of models, a bounded number.
var metrics = struct {
	requests, tokens *prometheus.CounterVec
}{
	requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "responses_budget", Name: "requests_total",
		Help: "Requests that have ended, by what became of them: told (the answer said what it cost), estimated, free, or the code of a refusal.",
	}, []string{"budget", "client", "code"}),
	tokens: prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: "caddy", Subsystem: "responses_budget", Name: "tokens_total",
		Help: "Tokens by kind: input, cached_input (of these), output, reasoning (of these), and estimated (of input and output). Of models, the first 50 have their names.",
	}, []string{"budget", "client", "model", "kind"}),
}

// registerMetrics shows the metrics at the config's metrics endpoints. Another
// budget of the config may have done so before.
func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range []prometheus.Collector{metrics.requests, metrics.tokens} {
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

// count counts a request that has ended.
func count(budget, user, code string) { metrics.requests.WithLabelValues(budget, user, code).Inc() }

// ended counts an admitted request.
func (h *Handler) ended(e *exchange) {
	if !e.booked {
		count(h.Name, e.user, "free")
	}
}

// spent counts and tells what a request has cost.
func (h *Handler) spent(e *exchange, model string, cost Spent) {
	code := "told"
	if cost.Estimated > 0 {
		code = "estimated"
	}
	count(h.Name, e.user, code)
	model = models.label(model)
	for kind, n := range map[string]int64{
		"input": cost.Input, "cached_input": cost.Cached, "output": cost.Output, "reasoning": cost.Reasoning, "estimated": cost.Estimated,
	} {
		if n > 0 {
			metrics.tokens.WithLabelValues(h.Name, e.user, model, kind).Add(float64(n))
		}
	}
	tell(e.http, "model", model)
	tell(e.http, "input_tokens", cost.Input)
	tell(e.http, "output_tokens", cost.Output)
}

// models are the models whose names are labels.
var models modelNames

// maxModels bounds the labels: an upstream could make up names without end.
const maxModels = 50

type modelNames struct {
	mu    sync.Mutex
	known map[string]bool
}

// label is a model's name, or "other" once there are enough of them.
func (m *modelNames) label(model string) string {
	if model == "" {
		return "unknown"
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.known == nil {
		m.known = make(map[string]bool)
	}
	if !m.known[model] {
		if len(m.known) >= maxModels || len(model) > 64 || !isModel(model) {
			return "other"
		}
		m.known[model] = true
	}
	return model
}

// isModel reports whether text looks like a model's name.
func isModel(text string) bool {
	for i := range len(text) {
		c := text[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_' || c == '.' || c == ':' || c == '/') {
			return false
		}
	}
	return true
}
