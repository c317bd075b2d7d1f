//go:build unix

package timing

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/responses-proxy-gate/caddy-responses-proxy-gate"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func init() { caddy.RegisterModule(tap{}) }

// tap is a handler in front of the gate that lets the test call the gate
// without a network between.
type tap struct{}

// tapped is what the last request through the tap met, and the request.
var tapped atomic.Pointer[struct {
	gate    caddyhttp.Handler
	request *http.Request
}]

// CaddyModule returns the Caddy module information.
func (tap) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.timing_tap", New: func() caddy.Module { return tap{} }}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (tap) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	tapped.Store(&struct {
		gate    caddyhttp.Handler
		request *http.Request
	}{next, r})
	return next.ServeHTTP(w, r)
}

// Without a network and its noise: more than any attacker sees.
func TestWrongTokensCannotBeToldApartInProcess(t *testing.T) {
	dir := gatetest.TempDir(t)
	t.Setenv("OPENAI_API_KEY", gatetest.OperatorKey)
	t.Setenv("XDG_CONFIG_HOME", dir)
	t.Setenv("XDG_DATA_HOME", dir)
	infoPath := filepath.Join(dir, "info.json")
	config := fmt.Sprintf(`{"admin": {"disabled": true, "config": {"persist": false}}, "logging": {"logs": {"default": {"level": "ERROR"}}},
		"apps": {"http": {"servers": {"s": {"listen": ["127.0.0.1:0"], "automatic_https": {"disable": true}, "routes": [{"handle": [
			{"handler": "timing_tap"},
			{"handler": "responses_proxy_gate", "upstream_bearer": "{env.OPENAI_API_KEY}", "insecure_allow": ["logged_token"], "server_info": {"path": %q}},
			{"handler": "static_response", "body": "passed"},
			{"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:1"}]}]}]}}}}}`, infoPath)
	if !json.Valid([]byte(config)) {
		t.Fatal(config)
	}
	gatetest.Must(t, caddy.Load([]byte(config), true))
	defer func() { gatetest.Must(t, caddy.Stop()) }()
	info := gatetest.ReadInfo(t, infoPath)

	// One request through the network, for Caddy's own context of a request.
	request, err := http.NewRequest(http.MethodPost, info.BaseURL+"/responses", nil)
	gatetest.Must(t, err)
	request.Header.Set("X-Proxy-Token", info.AuthToken)
	response, err := http.DefaultClient.Do(request)
	gatetest.Must(t, err)
	if body, _ := io.ReadAll(response.Body); string(body) != "passed" {
		t.Fatalf("with the token: %d %s", response.StatusCode, body)
	}
	_ = response.Body.Close()

	refuse := func(leaky bool) func(string) time.Duration {
		gate, r := tapped.Load().gate, tapped.Load().request
		// Every guess stands in the same place: where it is in memory takes
		// more time, or less, than what a comparison could tell.
		place := make([]byte, tokenLength)
		presented := unsafe.String(&place[0], len(place))
		r.Header = http.Header{"X-Proxy-Token": {presented}}
		return func(guess string) time.Duration {
			copy(place, guess)
			w := httptest.NewRecorder()
			began := time.Now()
			if leaky && leaks(presented, info.AuthToken, 2) {
				return 0
			}
			_ = gate.ServeHTTP(w, r)
			took := time.Since(began)
			if w.Code != http.StatusUnauthorized {
				t.Fatalf("a wrong token got %d", w.Code)
			}
			return took
		}
	}
	report(t, "gate, in process", false, func() []sample { return measure(t, info.AuthToken, refuse(false)) })
	report(t, "control, in process", true, func() []sample { return measure(t, info.AuthToken, refuse(true)) })
}
