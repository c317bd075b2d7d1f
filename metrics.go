package responsesproxygate

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/identity"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/recent"
)

// metrics are the gate's collectors. There is one set per process, which every
// config registers with the registry of its own: so counts outlive reloads.
//
// Labels are names from the config, or of shared clients, and codes from fixed lists, and never
// anything that a caller sends.
var metrics = struct {
	requests, upstreamResponses, credentialReloads, tokenRotations, tokenRevocations, fileFaults *prometheus.CounterVec
	identityExchanges                                                                            *prometheus.CounterVec
	inFlight, webSockets, identityEnd                                                            *prometheus.GaugeVec
}{
	requests: newCounter("requests_total",
		"Requests that have ended, by what became of them: forwarded, or the code of the gate's own answer. The client is empty where the token was not known to be anybody's.",
		"gate", "client", "code"),
	upstreamResponses: newCounter("upstream_responses_total",
		"Answers from behind the gate, by the class of their status, and 429 by itself; error is none, or one that broke off.",
		"gate", "client", "class"),
	credentialReloads: newCounter("credential_reloads_total",
		"Times that the operator's key was read again because its file had changed or could not be read.",
		"gate", "outcome"),
	tokenRotations: newCounter("token_rotations_total",
		"Rotations of a caller's token, planned, on demand and by its file.",
		"gate", "client", "outcome"),
	tokenRevocations: newCounter("token_revocations_total",
		"Times that a caller's tokens were revoked.",
		"gate", "client"),
	fileFaults: newCounter("server_info_faults_total",
		"Times that a caller's server-info file could not be written because of what the user who owns it has made of it.",
		"gate", "client"),
	identityExchanges: newCounter("identity_exchanges_total",
		"Times that the workload's identity was exchanged for a token of the upstream's, or could not be, by outcome.",
		"gate", "outcome"),
	identityEnd: newGauge("identity_token_end_timestamp_seconds",
		"When the token ends for which the workload's identity was last exchanged, as a Unix time.",
		"gate"),
	inFlight: newGauge("requests_in_flight",
		"Requests that have passed the gate and not ended yet, streams and WebSockets included.",
		"gate", "client"),
	webSockets: newGauge("websockets_open",
		"WebSockets that have passed the gate and not ended yet.",
		"gate", "client"),
}

const metricsNamespace, metricsSubsystem = "caddy", "responses_proxy_gate"

func newCounter(name, help string, labels ...string) *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, labels)
}

func newGauge(name, help string, labels ...string) *prometheus.GaugeVec {
	return prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Namespace: metricsNamespace, Subsystem: metricsSubsystem, Name: name, Help: help,
	}, labels)
}

// collectors are the metrics, for what is done to each of them.
func collectors() []interface {
	prometheus.Collector
	DeletePartialMatch(prometheus.Labels) int
} {
	return []interface {
		prometheus.Collector
		DeletePartialMatch(prometheus.Labels) int
	}{
		metrics.requests, metrics.upstreamResponses, metrics.credentialReloads, metrics.tokenRotations,
		metrics.tokenRevocations, metrics.fileFaults, metrics.inFlight, metrics.webSockets,
		metrics.identityExchanges, metrics.identityEnd,
	}
}

// registerMetrics shows the metrics at the config's metrics endpoints. Another
// gate of the config may have done so before.
func registerMetrics(registry *prometheus.Registry) error {
	for _, collector := range collectors() {
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

// forgetGate deletes the series of a gate that is in no config any more. Requests
// that are still under way are counted in series that nobody sees.
func forgetGate(gate string) {
	for _, collector := range collectors() {
		collector.DeletePartialMatch(prometheus.Labels{"gate": gate})
	}
	countedCallers.mu.Lock()
	defer countedCallers.mu.Unlock()
	delete(countedCallers.names, gate)
}

// forgetCaller deletes the series of a caller that is in no config any more.
// It names each series: a search would go through those of all callers.
func forgetCaller(gate, client string) {
	if !countedCallers.drop(gate, client) {
		return
	}
	for _, o := range outcomesOfCallers {
		metrics.requests.DeleteLabelValues(gate, client, o.code)
	}
	for _, class := range statusClasses {
		metrics.upstreamResponses.DeleteLabelValues(gate, client, class)
	}
	for _, outcome := range []string{attemptOK, attemptFailed} {
		metrics.tokenRotations.DeleteLabelValues(gate, client, outcome)
	}
	metrics.tokenRevocations.DeleteLabelValues(gate, client)
	metrics.fileFaults.DeleteLabelValues(gate, client)
	metrics.inFlight.DeleteLabelValues(gate, client)
	metrics.webSockets.DeleteLabelValues(gate, client)
}

const (
	// maxCounted is how many callers of one gate have series of their own:
	// some 2.4 kB of each scrape for each. The others are counted together.
	maxCounted = 500

	// otherCallers is who is counted together. It cannot be a client's name.
	otherCallers = "(others)"
)

// countedCallers are the callers that have series of their own, by gate.
var countedCallers = callerNames{names: make(map[string]map[string]bool)}

type callerNames struct {
	mu    sync.Mutex
	names map[string]map[string]bool
}

// label is what a caller's series say for its name.
func (n *callerNames) label(gate, client string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.names[gate] == nil {
		n.names[gate] = make(map[string]bool)
	}
	if !n.names[gate][client] && len(n.names[gate]) >= maxCounted {
		return otherCallers
	}
	n.names[gate][client] = true
	return client
}

// drop makes room for another caller. It reports whether this one had series.
func (n *callerNames) drop(gate, client string) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	had := n.names[gate][client]
	delete(n.names[gate], client)
	return had
}

// gateMetrics are what is counted of a gate, and of requests of nobody known.
// They are bound once, so that a request looks nothing up.
type gateMetrics struct {
	name     string
	requests []prometheus.Counter // by the number of the outcome
	refused  flood
	reloads  attempts
	running  atomic.Pointer[tokenSet]           // that of the config which was started last; nil: there is none
	identity atomic.Pointer[identity.Exchanger] // likewise; nil: it has a key
	recent   recent.Entries[adminapi.Refusal]
}

// gates holds the metrics of gates, by their names, for as long as a config
// has them: *gateMetrics.
var gates = caddy.NewUsagePool()

// openGateMetrics begins to count for a gate, or goes on. Each call needs one
// gates.Delete.
func openGateMetrics(gate string) *gateMetrics {
	value, _, _ := gates.LoadOrNew(gate, func() (caddy.Destructor, error) { return newGateMetrics(gate), nil })
	return value.(*gateMetrics)
}

// refusalsOf are the last refusals of a gate.
func refusalsOf(gate string) (found []adminapi.Refusal) {
	gates.Range(func(name, value any) bool {
		if name == gate {
			found = value.(*gateMetrics).recent.All()
		}
		return found == nil
	})
	return found
}

func newGateMetrics(gate string) *gateMetrics {
	return &gateMetrics{
		name:     gate,
		requests: countersOf(outcomesOfGate, gate, ""),
		refused:  make(flood, len(outcomesOfGate)),
		reloads:  newAttempts(metrics.credentialReloads, gate),
	}
}

// countersOf are the counters of a gate or caller, by the number of the outcome.
func countersOf(outcomes []*outcome, gate, client string) []prometheus.Counter {
	counters := make([]prometheus.Counter, len(outcomes))
	for i, o := range outcomes {
		counters[i] = metrics.requests.WithLabelValues(gate, client, o.code)
	}
	return counters
}

// Destruct implements caddy.Destructor: no config has the gate any more.
func (m *gateMetrics) Destruct() error {
	forgetGate(m.name)
	return nil
}

// callerMetrics are what is counted of a caller, bound once.
type callerMetrics struct {
	requests             []prometheus.Counter // by the number of the outcome
	refused              flood
	upstream             [len(statusClasses)]prometheus.Counter
	inFlight, webSockets prometheus.Gauge
	rotations            attempts
	revocations          prometheus.Counter
	fileFaults           prometheus.Counter
}

func newCallerMetrics(id callerID) *callerMetrics {
	gate, client := id.gate, countedCallers.label(id.gate, id.name())
	m := &callerMetrics{
		requests:    countersOf(outcomesOfCallers, gate, client),
		refused:     make(flood, len(outcomesOfCallers)),
		inFlight:    metrics.inFlight.WithLabelValues(gate, client),
		webSockets:  metrics.webSockets.WithLabelValues(gate, client),
		rotations:   newAttempts(metrics.tokenRotations, gate, client),
		revocations: metrics.tokenRevocations.WithLabelValues(gate, client),
		fileFaults:  metrics.fileFaults.WithLabelValues(gate, client),
	}
	for i, class := range statusClasses {
		m.upstream[i] = metrics.upstreamResponses.WithLabelValues(gate, client, class)
	}
	return m
}

// statusClasses are the classes of upstream answers, by the first digit of
// their status. The only final 1xx is 101, a WebSocket's. A 429 stands by itself:
// it is about how much is asked for, the rest of 4xx about what.
var statusClasses = [...]string{"error", "1xx", "2xx", "3xx", "4xx", "5xx", "429"}

// answered counts an answer from behind the gate; with status 0, the lack of one.
func (m *callerMetrics) answered(status int) {
	class := min(status/100, 5)
	if status == http.StatusTooManyRequests {
		class = len(statusClasses) - 1
	}
	m.upstream[class].Inc()
}

// count counts a request that has ended. The caller is nil if it is not known.
func (h *Handler) count(caller *configuredCaller, o *outcome) {
	if o.stage == stageUnknown {
		h.metrics.requests[o.number].Inc()
		return
	}
	caller.metrics.requests[o.number].Inc()
}

// attempts counts how often something succeeded, and how often it failed.
type attempts struct {
	ok, failed prometheus.Counter
}

func newAttempts(vec *prometheus.CounterVec, labels ...string) attempts {
	with := func(outcome string) prometheus.Counter {
		return vec.WithLabelValues(append(labels[:len(labels):len(labels)], outcome)...)
	}
	return attempts{ok: with(attemptOK), failed: with(attemptFailed)}
}

const attemptOK, attemptFailed = "ok", "error"

func (a attempts) count(err error) {
	if err != nil {
		a.failed.Inc()
		return
	}
	a.ok.Inc()
}

// openWebSocket begins a session; done must be called at its end.
func (c *caller) openWebSocket(parent context.Context) (ctx context.Context, done func()) {
	ctx, end := c.sessions.begin(parent)
	c.metrics.webSockets.Inc()
	return ctx, func() {
		c.metrics.webSockets.Dec()
		end()
	}
}

// Interface guard
var _ caddy.Destructor = (*gateMetrics)(nil)
