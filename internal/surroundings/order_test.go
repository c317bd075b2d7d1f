package surroundings

import (
	"encoding/json"
	"fmt"
	"testing"
)

func TestAProxyThatRequestsReachWithoutTheGateIsSeen(t *testing.T) {
	const (
		gate      = `{"handler": "responses_proxy_gate"}`
		proxy     = `{"handler": "reverse_proxy"}`
		auth      = `{"handler": "reverse_proxy", "handle_response": [{}]}`
		all       = `{"handle": [%s]}`
		v1        = `{"match": [{"path": ["/v1/*"]}], "handle": [%s]}`
		other     = `{"match": [{"path": ["/other"]}], "handle": [%s]}`
		templates = `{"handler": "templates"}`
		grouped   = `{"group": "g", "handle": [%s]}`
		terminal  = `{"match": [{"host": ["a"]}], "terminal": true, "handle": [%s]}`
		nested    = `{"handler": "subroute", "routes": [%s]}`
	)
	of := func(route, handlers string) string { return fmt.Sprintf(route, handlers) }
	for name, c := range map[string]struct {
		routes string
		want   Order
	}{
		"a gate before a proxy":                  {of(all, gate) + "," + of(all, proxy), Order{}},
		"both in one route":                      {of(all, gate+","+proxy), Order{}},
		"a proxy before a gate":                  {of(all, proxy) + "," + of(all, gate), Order{Unreachable: true, Beside: true}},
		"a proxy before a gate in one route":     {of(all, proxy+","+gate), Order{Unreachable: true, Beside: true}},
		"a proxy before a gate in a subroute":    {of(all, of(nested, of(all, proxy)+","+of(all, gate+","+proxy))), Order{Unreachable: true, Beside: true}},
		"a proxy for some before a gate":         {of(other, proxy) + "," + of(all, gate+","+proxy), Order{Beside: true}},
		"a gate for some before a proxy for all": {of(v1, gate) + "," + of(all, proxy), Order{Beside: true}},
		"a gate and a proxy for the same":        {of(v1, gate) + "," + of(v1, proxy), Order{}},
		"a gate for some, a proxy for others":    {of(v1, gate) + "," + of(other, proxy), Order{Beside: true}},
		"forward_auth before a gate":             {of(all, auth) + "," + of(all, gate) + "," + of(all, proxy), Order{}},
		"a proxy in a list of its own":           {of(v1, of(nested, of(all, gate)+","+of(all, proxy))) + "," + of(all, of(nested, of(all, proxy))), Order{}},
		"templates before a gate":                {of(all, templates) + "," + of(all, gate+","+proxy), Order{Templates: true}},
		"templates behind a gate":                {of(all, gate) + "," + of(v1, templates) + "," + of(all, proxy), Order{Templates: true}},
		"templates in one route with a gate":     {of(all, gate+","+templates+","+proxy), Order{Templates: true}},
		"templates around a subroute of a gate":  {of(all, templates+","+of(nested, of(all, gate+","+proxy))), Order{Templates: true}},
		"templates in a subroute before a gate":  {of(all, of(nested, of(all, templates))+","+gate+","+proxy), Order{Templates: true}},
		"templates and a gate in a group":        {of(grouped, templates) + "," + of(grouped, gate+","+proxy), Order{}},
		"a group in a subroute":                  {of(all, of(nested, of(grouped, templates)+","+of(grouped, gate+","+proxy))), Order{}},
		"templates of another site":              {of(terminal, gate+","+proxy) + "," + of(terminal, templates), Order{}},
		"templates of a site before":             {of(terminal, templates) + "," + of(terminal, gate+","+proxy), Order{}},
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
