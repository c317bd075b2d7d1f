package surroundings

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestAProxyThatRequestsReachWithoutTheGateIsSeen(t *testing.T) {
	const (
		gate   = `{"handler": "responses_proxy_gate"}`
		proxy  = `{"handler": "reverse_proxy"}`
		auth   = `{"handler": "reverse_proxy", "handle_response": [{}]}`
		all    = `{"handle": [%s]}`
		v1     = `{"match": [{"path": ["/v1/*"]}], "handle": [%s]}`
		other  = `{"match": [{"path": ["/other"]}], "handle": [%s]}`
		nested = `{"handler": "subroute", "routes": [%s]}`
	)
	of := func(route, handlers string) string { return fmt.Sprintf(route, handlers) }
	for name, c := range map[string]struct {
		routes string
		want   Order
	}{
		"a gate before a proxy":                  {of(all, gate) + "," + of(all, proxy), Order{}},
		"both in one route":                      {of(all, gate+","+proxy), Order{}},
		"a proxy before a gate":                  {of(all, proxy) + "," + of(all, gate), Order{true, true}},
		"a proxy before a gate in one route":     {of(all, proxy+","+gate), Order{true, true}},
		"a proxy before a gate in a subroute":    {of(all, of(nested, of(all, proxy)+","+of(all, gate+","+proxy))), Order{true, true}},
		"a proxy for some before a gate":         {of(other, proxy) + "," + of(all, gate+","+proxy), Order{false, true}},
		"a gate for some before a proxy for all": {of(v1, gate) + "," + of(all, proxy), Order{false, true}},
		"a gate and a proxy for the same":        {of(v1, gate) + "," + of(v1, proxy), Order{}},
		"a gate for some, a proxy for others":    {of(v1, gate) + "," + of(other, proxy), Order{false, true}},
		"forward_auth before a gate":             {of(all, auth) + "," + of(all, gate) + "," + of(all, proxy), Order{}},
		"a proxy in a list of its own":           {of(v1, of(nested, of(all, gate)+","+of(all, proxy))) + "," + of(all, of(nested, of(all, proxy))), Order{}},
		"proxies without a gate":                 {of(all, proxy) + "," + of(all, proxy), Order{}},
	} {
		var routes any
		if err := json.Unmarshal([]byte("["+c.routes+"]"), &routes); err != nil {
			t.Fatal(err)
		}
		var got Order
		got.look(map[string]any{"routes": routes})
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
	var got Order
	got.look(map[string]any{"named_routes": map[string]any{"x": map[string]any{"handle": []any{
		map[string]any{"handler": "reverse_proxy"}, map[string]any{"handler": "responses_proxy_gate"},
	}}}})
	if !got.Unreachable {
		t.Error("a named route is not looked at")
	}
}
