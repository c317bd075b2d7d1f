package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/follow"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// testReloads are for key files that belong to no gate.
var testReloads = newAttempts(metrics.credentialReloads, "test")

// series are a gate's series at a registry that are not zero, such as
// "requests_total ci forwarded": the name without its prefix, and the values
// of the labels beside the gate's.
func series(t *testing.T, registry prometheus.Gatherer, gate string) map[string]float64 {
	t.Helper()
	all := allSeries(t, registry, gate)
	maps.DeleteFunc(all, func(_ string, value float64) bool { return value == 0 })
	return all
}

func allSeries(t *testing.T, registry prometheus.Gatherer, gate string) map[string]float64 {
	t.Helper()
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := make(map[string]float64)
	for _, family := range families {
		name, ours := strings.CutPrefix(family.GetName(), metricsNamespace+"_"+metricsSubsystem+"_")
		if !ours {
			continue
		}
		for _, metric := range family.GetMetric() {
			id, ofGate := name, ""
			for _, label := range []string{"gate", "client", "code", "class", "outcome"} {
				for _, pair := range metric.GetLabel() {
					switch {
					case pair.GetName() != label:
					case label == "gate":
						ofGate = pair.GetValue()
					default:
						id += " " + pair.GetValue()
					}
				}
			}
			if ofGate == gate {
				found[id] = metric.GetCounter().GetValue() + metric.GetGauge().GetValue()
			}
		}
	}
	return found
}

// counted checks a gate's series that are not zero.
func counted(t *testing.T, registry prometheus.Gatherer, gate string, want map[string]float64) {
	t.Helper()
	if got := series(t, registry, gate); !maps.Equal(got, want) {
		t.Errorf("%s: counted %v, want %v", gate, got, want)
	}
}

// withToken is a good request with a caller's token.
func withToken(h *Handler, client string) *http.Request {
	r := goodRequest()
	r.Header.Set("X-Proxy-Token", clientToken(h, client))
	return r
}

func serveTo(t *testing.T, h *Handler, r *http.Request, next caddyhttp.HandlerFunc) {
	t.Helper()
	if err := h.ServeHTTP(httptest.NewRecorder(), r, next); err != nil {
		t.Error(err)
	}
}

func TestCountsOutliveReloads(t *testing.T) {
	running := newConfiguration(t)
	running.mustLoad(t, "long-lived", "")
	for range 100 {
		next := newConfiguration(t)
		h := next.mustLoad(t, "long-lived", "")
		serveTo(t, h, withToken(h, h.Name), answerNothing)
		serveTo(t, h, goodRequest(), unreached(t))
		running.discard()
		running = next
	}
	counted(t, running.ctx.GetMetricsRegistry(), "long-lived", map[string]float64{
		"requests_total long-lived forwarded":     100,
		"requests_total  invalid_token":           100,
		"upstream_responses_total long-lived 2xx": 100,
	})
}

func TestGatesAndClientsAreCountedApart(t *testing.T) {
	c := newConfiguration(t)
	one := c.mustLoad(t, "apart-one", `, "client": [{"name": "ci"}, {"name": "dev"}]`)
	two := c.mustLoad(t, "apart-two", `, "client": [{"name": "ci"}]`)
	for client, times := range map[string]int{"ci": 3, "dev": 2} {
		for range times {
			serveTo(t, one, withToken(one, client), answerNothing)
		}
	}
	serveTo(t, two, withToken(two, "ci"), answerNothing)
	serveTo(t, two, withToken(one, "ci"), unreached(t))
	counted(t, c.ctx.GetMetricsRegistry(), "apart-one", map[string]float64{
		"requests_total ci forwarded": 3, "upstream_responses_total ci 2xx": 3,
		"requests_total dev forwarded": 2, "upstream_responses_total dev 2xx": 2,
	})
	counted(t, c.ctx.GetMetricsRegistry(), "apart-two", map[string]float64{
		"requests_total ci forwarded": 1, "upstream_responses_total ci 2xx": 1, "requests_total  invalid_token": 1,
	})
}

// A rate needs a value to start from: a series that appears with the first
// attack would hide that attack.
func TestEverySeriesIsThereFromTheStartAndGoneAtTheEnd(t *testing.T) {
	watch := prometheus.NewRegistry()
	if err := errors.Join(registerMetrics(watch), registerMetrics(watch)); err != nil {
		t.Fatal(err)
	}
	first := newConfiguration(t)
	first.mustLoad(t, "whole", `, "client": [{"name": "ci"}, {"name": "dev"}]`)
	perClient := 0
	for id, value := range allSeries(t, watch, "whole") {
		if value != 0 {
			t.Errorf("%s is %v", id, value)
		}
		if strings.Contains(id, " ci") {
			perClient++
		}
	}
	const ofGate = 2 // credential_reloads_total
	beforeToken := len(outcomesOfGate)
	if want := len(outcomesOfCallers) + len(statusClasses) + 2 + 1 + 1 + 2; perClient != want {
		t.Errorf("%d series of a client, want %d", perClient, want)
	}
	if got, want := len(allSeries(t, watch, "whole")), ofGate+beforeToken+2*perClient; got != want {
		t.Errorf("%d series, want %d", got, want)
	}

	second := newConfiguration(t)
	second.mustLoad(t, "whole", `, "client": [{"name": "dev"}]`)
	first.discard()
	if got, want := len(allSeries(t, watch, "whole")), ofGate+beforeToken+perClient; got != want {
		t.Errorf("%d series after a client is gone, want %d", got, want)
	}
	second.discard()
	if got := allSeries(t, watch, "whole"); len(got) != 0 {
		t.Errorf("the gate is gone, and its series are not: %v", got)
	}
}

func TestAFailedReloadLeavesTheCounts(t *testing.T) {
	running := newConfiguration(t)
	h := running.mustLoad(t, "kept", "")
	serveTo(t, h, withToken(h, h.Name), answerNothing)
	failed := newConfiguration(t)
	if _, err := failed.load("kept", `, "allow_origin": ["*"], "client": [{"name": "new"}]`); err == nil {
		t.Fatal("the config is good")
	}
	failed.discard()
	for id := range allSeries(t, running.ctx.GetMetricsRegistry(), "kept") {
		if strings.Contains(id, " new") {
			t.Errorf("there is a series of a client that never was: %s", id)
		}
	}
	serveTo(t, h, withToken(h, h.Name), answerNothing)
	if got := series(t, running.ctx.GetMetricsRegistry(), "kept")["requests_total kept forwarded"]; got != 2 {
		t.Errorf("%v requests, want 2", got)
	}
}

// answering is a next handler with this answer.
func answering(status int) caddyhttp.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) error {
		takeKey(r)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, "{}")
		return nil
	}
}

// breakingOff is a next handler whose answer has no end.
func breakingOff(w http.ResponseWriter, _ *http.Request) error {
	w.WriteHeader(http.StatusOK)
	panic(http.ErrAbortHandler)
}

func TestEveryRequestIsCountedOnceForWhatBecameOfIt(t *testing.T) {
	const app = "https://app.example"
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header.Set(name, value) }
	}
	to := func(method, path string) func(*http.Request) {
		return func(r *http.Request) { r.Method, r.RequestURI, r.URL.Path = method, path, path }
	}
	failing := func(status int) caddyhttp.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(status, io.EOF) }
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	leave := func(r *http.Request) { *r = *r.WithContext(gone) }
	for name, c := range map[string]struct {
		change func(*http.Request)
		next   caddyhttp.HandlerFunc
		code   string
		class  string // "": the upstream is not counted
	}{
		"a web page's":        {set("Origin", "https://attacker.example"), nil, " origin_not_allowed", ""},
		"a browser's":         {set("Sec-Fetch-Site", "cross-site"), nil, " cross_site_request", ""},
		"with a rebound name": {func(r *http.Request) { r.Host = "attacker.example" }, nil, " host_not_allowed", ""},
		"with text":           {set("Content-Type", "text/plain"), nil, " content_type_not_json", ""},
		"without a token":     {func(r *http.Request) { r.Header = http.Header{"Content-Type": {"application/json"}} }, nil, " missing_token", ""},
		"with a guess":        {set("X-Proxy-Token", "guess"), nil, " invalid_token", ""},
		"a preflight": {func(r *http.Request) {
			r.Method = "OPTIONS"
			r.Header.Set("Origin", app)
			r.Header.Set("Access-Control-Request-Method", "POST")
		}, nil, " preflight", ""},
		"to another path":     {to("POST", "/v1/files"), nil, "ci route_not_allowed", ""},
		"a client's shutdown": {to("POST", "/shutdown"), nil, "ci route_not_allowed", ""},
		"a WebSocket's": {func(r *http.Request) {
			r.Method, r.ContentLength = "GET", 0
			r.Header["Upgrade"], r.Header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
		}, nil, "ci websocket_not_enabled", ""},
		"answered with 200":         {nil, answering(200), "ci forwarded", "2xx"},
		"answered with 304":         {nil, answering(304), "ci forwarded", "3xx"},
		"answered with 429":         {nil, answering(429), "ci forwarded", "429"},
		"answered with 404":         {nil, answering(404), "ci forwarded", "4xx"},
		"answered with 500":         {nil, answering(500), "ci forwarded", "5xx"},
		"answered with 999":         {nil, answering(999), "ci forwarded", "5xx"},
		"answered with 401":         {nil, answering(401), "ci upstream_unauthorized", "4xx"},
		"answered without a header": {nil, func(w http.ResponseWriter, _ *http.Request) error { _, _ = w.Write(nil); return nil }, "ci forwarded", "2xx"},
		"not answered at all":       {nil, func(http.ResponseWriter, *http.Request) error { return nil }, "ci upstream_missing", "error"},
		"nobody could be reached":   {nil, failing(502), "ci upstream_unreachable", "error"},
		"nobody was available":      {nil, failing(503), "ci upstream_unavailable", "error"},
		"nobody answered in time":   {nil, failing(504), "ci upstream_timeout", "error"},
		"the body was too large":    {nil, failing(413), "ci request_too_large", ""},
		"the request was bad":       {nil, failing(400), "ci request_failed", ""},
		"a limit was reached":       {nil, failing(429), "ci rate_limited", ""},
		"the caller left early":     {nil, failing(499), "ci client_gone", ""},
		"the answer broke off":      {nil, breakingOff, "ci cut_off", "error"},
		"the caller left midway":    {leave, breakingOff, "ci client_gone", "2xx"},
		"its access ended midway": {nil, func(w http.ResponseWriter, r *http.Request) error {
			w.WriteHeader(http.StatusOK)
			heldKeyOf(r.Context()).access.ended.Store(true) // as the body's reader does
			return errEnded
		}, "ci client_gone", "2xx"},
		"a 401 that broke off": {nil, func(w http.ResponseWriter, r *http.Request) error {
			takeKey(r)
			w.WriteHeader(401)
			panic(http.ErrAbortHandler)
		}, "ci upstream_unauthorized", "4xx"},
		"an error after the header": {nil, func(w http.ResponseWriter, _ *http.Request) error { w.WriteHeader(200); return io.EOF }, "ci cut_off", "error"},
	} {
		t.Run(name, func(t *testing.T) {
			config := newConfiguration(t)
			h := config.mustLoad(t, "once", `, "server_info": {"path": "`+filepath.ToSlash(filepath.Join(t.TempDir(), "info.json"))+`"},
				"allow_origin": ["`+app+`"], "shutdown_endpoint": "/shutdown", "client": [{"name": "ci"}]`)
			r := withToken(h, "ci")
			if c.change != nil {
				c.change(r)
			}
			if c.next == nil {
				c.next = unreached(t)
			}
			func() {
				defer func() {
					if thrown := recover(); thrown != nil && thrown != http.ErrAbortHandler {
						panic(thrown)
					}
				}()
				serveTo(t, h, r, c.next)
			}()
			want := map[string]float64{"requests_total " + c.code: 1}
			if c.class != "" {
				want["upstream_responses_total ci "+c.class] = 1
			}
			counted(t, config.ctx.GetMetricsRegistry(), "once", want)
			config.discard()
		})
	}
}

func TestOpenStreamsAndWebSocketsAreInFlight(t *testing.T) {
	c := newConfiguration(t)
	h := c.mustLoad(t, "in-flight", `, "allow_route": [{"method": "GET", "path": "/v1/responses"}, {"method": "POST", "path": "/v1/responses"}]`)
	r := withToken(h, h.Name)
	upgrade := withToken(h, h.Name)
	upgrade.Method, upgrade.ContentLength = http.MethodGet, 0
	upgrade.Header["Upgrade"], upgrade.Header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	serveTo(t, h, r, func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		serveTo(t, h, upgrade, func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusSwitchingProtocols)
			counted(t, c.ctx.GetMetricsRegistry(), "in-flight", map[string]float64{
				"requests_in_flight in-flight": 2, "websockets_open in-flight": 1,
			})
			return nil
		})
		return nil
	})
	counted(t, c.ctx.GetMetricsRegistry(), "in-flight", map[string]float64{
		"requests_total in-flight forwarded":     2,
		"upstream_responses_total in-flight 2xx": 1,
		"upstream_responses_total in-flight 1xx": 1,
	})
}

func TestReloadsOfTheKeyRotationsAndRevocationsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		key := filepath.Join(dir, "key")
		put := func(content string) {
			t.Helper()
			if err := errors.Join(os.WriteFile(key+".new", []byte(content), 0o600), os.Rename(key+".new", key)); err != nil {
				t.Fatal(err)
			}
		}
		put("first-key")
		c := newConfiguration(t)
		c.route("turning")
		module, err := c.ctx.LoadModuleByID("http.handlers.responses_proxy_gate", []byte(fmt.Sprintf(
			`{"name": "turning", "upstream_bearer_file": %q, "server_info": {"path": %q}}`, key, filepath.Join(dir, "info.json"))))
		if err != nil {
			t.Fatal(err)
		}
		h := module.(*Handler)
		await := func() {
			time.Sleep(2 * follow.Interval)
			synctest.Wait()
		}
		put("second-key")
		await()
		put("")
		await()
		caller := h.callers[0]
		if err := caller.rotate(0); !errors.Is(err, errNotRunning) {
			t.Fatalf("a rotation before the start: %v", err)
		}
		caller.start(h.config)
		if err := h.publishTo(caller, infofile.Info{Port: 1, PID: 1}); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(caller.rotate(0), caller.rotate(time.Minute), caller.revoke()); err != nil {
			t.Fatal(err)
		}
		counted(t, c.ctx.GetMetricsRegistry(), "turning", map[string]float64{
			"credential_reloads_total ok": 1, "credential_reloads_total error": 1,
			"token_rotations_total turning ok": 2, "token_rotations_total turning error": 1,
			"token_revocations_total turning": 1,
		})
	})
}

func TestCountingAllocatesNothing(t *testing.T) {
	h, _ := testGate()
	c := h.policy.tokens.callers[0]
	if allocs := testing.AllocsPerRun(100, func() {
		h.count(nil, errInvalidToken.outcome)
		h.count(c, errRouteNotAllowed.outcome)
		c.metrics.inFlight.Inc()
		c.metrics.inFlight.Dec()
		c.metrics.answered(http.StatusOK)
	}); allocs != 0 {
		t.Errorf("counting allocates %v times", allocs)
	}
}

func TestEveryRefusalHasACodeOfItsOwnInTheMetrics(t *testing.T) {
	for refused := range allRefusals {
		if refused.code != refused.Code {
			t.Errorf("%s is counted as %s", refused.Code, refused.code)
		}
	}
	codes := outcomeCodes()
	slices.Sort(codes)
	if len(slices.Compact(codes)) != len(outcomeCodes()) {
		t.Errorf("two outcomes have one code: %v", codes)
	}
}

// outcomeCodes are the codes that metrics and the audit trail have.
func outcomeCodes() (codes []string) {
	for _, o := range slices.Concat(outcomesOfGate, outcomesOfCallers) {
		codes = append(codes, o.code)
	}
	return codes
}
