package surroundings

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
)

// log_name may stand wherever handlers do.
func TestEveryLoggerThatLogNameChoosesIsFound(t *testing.T) {
	var server map[string]any
	const chosen = `[{"handle": [{"handler": "subroute", "routes": [{"handle": [{"handler": "vars", "access_logger_names": ["%s"]}]}]}]}]`
	config := fmt.Sprintf(`{"routes": `+chosen+`, "named_routes": {"up": {"handle": `+chosen+`}}, "errors": {"routes": `+chosen+`}}`, "a", "b", "c")
	if err := json.Unmarshal([]byte(config), &server); err != nil {
		t.Fatal(err)
	}
	names := chosenLoggers(server)
	slices.Sort(names)
	if fmt.Sprint(names) != "[a b c]" {
		t.Errorf("found %q", names)
	}
}

// What a request can meet beside the gate may fail, and then its headers are
// logged.
func TestAFailureBesideTheGateDoesNotLogTheToken(t *testing.T) {
	const (
		gate   = `{"handler": "responses_proxy_gate"}`
		proxy  = `{"handler": "reverse_proxy"}`
		all    = `{"handle": [%s]}`
		v1     = `{"match": [{"path": ["/v1/*"]}], "handle": [%s]}`
		nested = `{"handler": "subroute", "routes": [%s]}`
	)
	for name, c := range map[string]struct {
		routes string
		around bool
	}{
		"a gate before everything":             {fmt.Sprintf(all, gate+","+proxy), false},
		"a gate after what cannot fail":        {fmt.Sprintf(all, `{"handler": "vars"}, {"handler": "headers"},`+gate+","+proxy), false},
		"a gate in a subroute":                 {fmt.Sprintf(all, fmt.Sprintf(nested, fmt.Sprintf(all, gate+","+proxy))), false},
		"a gate in a subroute of a host":       {fmt.Sprintf(v1, fmt.Sprintf(nested, fmt.Sprintf(all, gate+","+proxy))), false},
		"a gate for some paths, then nothing":  {fmt.Sprintf(v1, gate+","+proxy), false},
		"a gate for some paths, then a proxy":  {fmt.Sprintf(v1, gate) + "," + fmt.Sprintf(all, proxy), true},
		"a gate for all paths, then a proxy":   {fmt.Sprintf(all, gate) + "," + fmt.Sprintf(all, proxy), false},
		"a proxy before the gate":              {fmt.Sprintf(all, proxy+","+gate), true},
		"a proxy for other paths":              {fmt.Sprintf(v1, proxy) + "," + fmt.Sprintf(all, gate), true},
		"a proxy beside the gate in subroutes": {fmt.Sprintf(all, fmt.Sprintf(nested, fmt.Sprintf(v1, gate)+","+fmt.Sprintf(all, proxy))), true},
		"no routes":                            {"", false},
		"an answer beside the gate":            {fmt.Sprintf(v1, `{"handler": "static_response", "status_code": 200}`) + "," + fmt.Sprintf(all, gate), false},
		"an answer with a status from outside": {fmt.Sprintf(v1, `{"handler": "static_response", "status_code": "{http.request.header.X}"}`) + "," + fmt.Sprintf(all, gate), true},
		"a gate in a group, then a proxy":      {`{"group": "g", "match": [{"path": ["/x"]}], "handle": [{"handler": "vars"}]}, {"group": "g", "handle": [` + gate + `]},` + fmt.Sprintf(all, proxy), true},
		"an expression before the gate":        {`{"match": [{"expression": {"expr": "x"}}], "handle": [{"handler": "vars"}]},` + fmt.Sprintf(all, gate), true},
		"an expression in a not":               {`{"match": [{"not": [{"expression": {"expr": "x"}}]}], "handle": [` + gate + `]}`, true},
	} {
		var routes any
		if err := json.Unmarshal([]byte("["+c.routes+"]"), &routes); err != nil {
			t.Fatal(err)
		}
		if got := goesAroundGate(routes); got != c.around {
			t.Errorf("%s: goes around the gate: %v, want %v", name, got, c.around)
		}
	}
}
