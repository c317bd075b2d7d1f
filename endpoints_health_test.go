package responsesproxygate

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
)

func healthGate() (*Handler, *http.Request) {
	h, _ := testGate()
	h.HealthEndpoint = defaultHealthPath
	return h, healthRequest(http.MethodGet)
}

// healthRequest is what a load balancer sends.
func healthRequest(method string, edits ...func(*http.Request)) *http.Request {
	r := httptest.NewRequest(method, defaultHealthPath, nil)
	r.Host = "127.0.0.1:18080"
	for _, edit := range edits {
		edit(r)
	}
	return r
}

// wantHealth asks how the gate is, and expects a whole answer.
func wantHealth(t *testing.T, h *Handler, r *http.Request, status int, answer string) {
	t.Helper()
	w := answerTo(t, h, r, unreached(t))
	if w.Code != status || w.Body.String() != answer {
		t.Errorf("answered %d %q, want %d %q", w.Code, w.Body, status, answer)
	}
	w.Header().Del("Connection") // in a test there is none that could be kept
	if got := w.Header(); len(got) != len(refusals.Own) || got.Get("Cache-Control") != "no-store" {
		t.Errorf("the header tells %v", got)
	}
}

const healthOK, healthNotOK = "{\"status\":\"ok\"}\n", "{\"status\":\"unavailable\"}\n"

func TestALoadBalancerNeedsNoTokenToAskHowTheGateIs(t *testing.T) {
	h, r := healthGate()
	wantHealth(t, h, r, http.StatusOK, healthOK)
	wantHealth(t, h, healthRequest(http.MethodHead), http.StatusOK, healthOK) // (a server leaves the body out)
}

// A replica that is left out because of its key would never find out that the
// key is good again, so it has to be let in for the next try.
func TestAGateWhoseKeyIsRefusedIsNotHealthyUntilTheNextTryIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, r := healthGate()
		d := &deadKey{Handler: h, good: "skNew"}
		d.asks(t, http.StatusBadRequest, 1, nil)
		wantHealth(t, h, r, http.StatusServiceUnavailable, healthNotOK)
		d.saw(t, 1)
		time.Sleep(1 * time.Second)
		wantHealth(t, h, r, http.StatusOK, healthOK)
		wantHealth(t, h, r, http.StatusOK, healthOK) // asking is no try
		d.asks(t, http.StatusBadRequest, 1, nil)
		wantHealth(t, h, r, http.StatusServiceUnavailable, healthNotOK)
		d.good = testKey
		time.Sleep(2 * time.Second)
		d.asks(t, http.StatusOK, 1, nil)
		wantHealth(t, h, r, http.StatusOK, healthOK)
		h.trail.close()
	})
}

func TestAGateThatStopsOrKnowsNobodyIsNotHealthy(t *testing.T) {
	h, r := healthGate()
	replacer := caddy.NewEmptyReplacer()
	replacer.Set("http.shutting_down", true)
	stopping := context.WithValue(r.Context(), caddy.ReplacerCtxKey, replacer)
	wantHealth(t, h, r.WithContext(stopping), http.StatusServiceUnavailable, healthNotOK)
	h.roster = new(roster)
	wantHealth(t, h, r, http.StatusServiceUnavailable, healthNotOK)
	h.roster.known.Store(new(sharedList))
	wantHealth(t, h, r, http.StatusOK, healthOK)
}

// What a page gets is the same whatever the answer would be.
func TestNoWebPageLearnsHowTheGateIs(t *testing.T) {
	for code, edit := range map[string]func(*http.Request){
		"origin_not_allowed": func(r *http.Request) { r.Header.Set("Origin", "https://attacker.example") },
		"cross_site_request": func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") },
		"host_not_allowed":   func(r *http.Request) { r.Host = "attacker.example" },
	} {
		h, _ := healthGate()
		if w := answerTo(t, h, healthRequest(http.MethodGet, edit), unreached(t)); w.Header().Get(codeHeaderName) != code {
			t.Errorf("%s: answered %d %s", code, w.Code, w.Body)
		}
	}
	h, _ := healthGate()
	h.policy.origins = []string{testOrigin}
	w := answerTo(t, h, healthRequest(http.MethodGet, func(r *http.Request) { r.Header.Set("Origin", testOrigin) }), unreached(t))
	if w.Header().Get("Access-Control-Allow-Origin") != "" {
		t.Errorf("a page may read the answer: %v", w.Header())
	}
}

func TestOnlyTheHealthEndpointItselfNeedsNoToken(t *testing.T) {
	for name, target := range map[string]string{
		"a query": "/healthz?x", "a longer path": "/healthz/", "an escape": "/%68ealthz", "capitals": "/Healthz", "two slashes": "//healthz",
	} {
		h, _ := healthGate()
		r := healthRequest(http.MethodGet)
		r.RequestURI, r.URL = target, httptest.NewRequest(http.MethodGet, "http://127.0.0.1"+target, nil).URL
		if w := answerTo(t, h, r, unreached(t)); w.Code != http.StatusUnauthorized {
			t.Errorf("%s: answered %d %s", name, w.Code, w.Body)
		}
	}
	h, _ := healthGate()
	if w := answerTo(t, h, healthRequest(http.MethodPost), unreached(t)); w.Code != http.StatusUnauthorized {
		t.Errorf("POST: answered %d %s", w.Code, w.Body)
	}
	h.HealthEndpoint = ""
	if w := answerTo(t, h, healthRequest(http.MethodGet), unreached(t)); w.Code != http.StatusUnauthorized {
		t.Errorf("without the option: answered %d %s", w.Code, w.Body)
	}
}

func TestAHealthEndpointStandsInNobodysWay(t *testing.T) {
	c := newConfiguration(t)
	for members, says := range map[string]string{
		`, "health_endpoint": "/healthz"`:                                                            "",
		`, "health_endpoint": "healthz"`:                                                             "health_endpoint healthz: a path begins with /",
		`, "health_endpoint": "/v1/responses"`:                                                       "this is the path of an allow_route",
		`, "health_endpoint": "/x", "shutdown_endpoint": "/x"`:                                       "this is the shutdown_endpoint",
		`, "health_endpoint": "/v1/models", "allow_route": [{"method":"GET", "path": "/v1/models"}]`: "this is the path of an allow_route",
		// What a * stands for is the route's, too: a caller's request must not be answered without a token.
		`, "health_endpoint": "/v1/responses/healthz", "allow_route": [{"method":"GET", "path": "/v1/responses/*"}]`:    "this is the path of an allow_route",
		`, "health_endpoint": "/v1/responses/healthz", "allow_route": [{"method":"GET", "path": "/v1/responses/*/up"}]`: "",
	} {
		h, err := c.load(strings.ReplaceAll(t.Name(), "/", "."), members)
		refusedWith(t, err, says)
		if err == nil {
			if err := h.Cleanup(); err != nil {
				t.Error(err)
			}
		}
	}
}
