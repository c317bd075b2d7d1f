package responsesproxygate

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap/zapcore"
)

func init() {
	caddy.RegisterModule(otherCore{})
}

// otherCore is a log core that gets every entry before it is filtered.
type otherCore struct{ zapcore.Core }

func (otherCore) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.cores.gate_test",
		New: func() caddy.Module { return &otherCore{zapcore.NewNopCore()} },
	}
}

// The cases of logs: what records X-Proxy-Token, or the key, is refused.
func TestNoLogRecordsATokenOrTheKey(t *testing.T) {
	const (
		access  = `"logs": {},`
		named   = `"logs": {"default_logger_name": "mine"},`
		token   = "would record the header X-Proxy-Token"
		key     = "would record the header Api-Key"
		filter  = `"encoder": {"format": "filter", "fields": {"%s": {"filter": "%s"}}}`
		azure   = `, "upstream_header": "api-key"`
		mine    = `{"logs": {"default": {"exclude": ["http.log.access.mine"]}, "mine": {"include": ["http.log.access.mine"] %s}}}`
		nesting = `{"logs": {"default": {"encoder": %s}}}`
	)
	defaultLog := func(members string) string { return `{"logs": {"default": {` + members + `}}}` }
	deleting := fmt.Sprintf(filter, "request>headers>X-Proxy-Token", "delete")
	const deletingEncoder = `{"format": "filter", "fields": {"request>headers>X-Proxy-Token": {"filter": "delete"}}}`
	for name, c := range map[string]struct {
		server, logging, gate string
		says                  string
	}{
		"no access log":                                 {"", `{}`, "", ""},
		"an access log":                                 {access, `{}`, "", token},
		"an access log with a remedy":                   {access, `{}`, "", "format filter { request>headers>X-Proxy-Token delete }"},
		"an access log, knowingly":                      {access, `{}`, fmt.Sprintf(allowing, riskLoggedToken), ""},
		"an access log, for another risk":               {access, `{}`, fmt.Sprintf(allowing, riskTCPAdmin), token},
		"an access log without the token":               {access, defaultLog(deleting), "", ""},
		"an access log with the token replaced":         {access, defaultLog(`"encoder": {"format": "filter", "fields": {"request>headers>X-Proxy-Token": {"filter": "replace", "value": "x"}}}`), "", ""},
		"an access log with the token's hash":           {access, defaultLog(fmt.Sprintf(filter, "request>headers>X-Proxy-Token", "hash")), "", token},
		"an access log without headers":                 {access, defaultLog(fmt.Sprintf(filter, "request>headers", "delete")), "", ""},
		"an access log without requests":                {access, defaultLog(fmt.Sprintf(filter, "request", "delete")), "", ""},
		"an access log without another header":          {access, defaultLog(fmt.Sprintf(filter, "request>headers>X-Other", "delete")), "", token},
		"an access log without URIs":                    {access, defaultLog(fmt.Sprintf(filter, "request>uri", "delete")), "", token},
		"an access log without the token in lower case": {access, defaultLog(fmt.Sprintf(filter, "request>headers>x-proxy-token", "delete")), "", token},
		"an access log without the answer's token":      {access, defaultLog(fmt.Sprintf(filter, "resp_headers>X-Proxy-Token", "delete")), "", token},

		"a filter around console":        {access, fmt.Sprintf(nesting, `{"format": "filter", "wrap": {"format": "console"}, "fields": {"request>headers>X-Proxy-Token": {"filter": "delete"}}}`), "", ""},
		"a filter in append":             {access, fmt.Sprintf(nesting, `{"format": "append", "fields": {"a": "b"}, "wrap": `+deletingEncoder+`}`), "", ""},
		"a filter around append":         {access, fmt.Sprintf(nesting, `{"format": "filter", "wrap": {"format": "append", "fields": {"a": "b"}}, "fields": {"request>headers>X-Proxy-Token": {"filter": "delete"}}}`), "", ""},
		"a filter behind a renaming one": {access, fmt.Sprintf(nesting, `{"format": "filter", "fields": {"request>headers>X-Proxy-Token": {"filter": "rename", "name": "foo"}}, "wrap": `+deletingEncoder+`}`), "", token},
		"a filter of a renamed request":  {access, defaultLog(`"encoder": {"format": "filter", "fields": {"request": {"filter": "rename", "name": "req"}, "request>headers>X-Proxy-Token": {"filter": "delete"}}}`), "", token},
		"a filter of renamed headers":    {access, defaultLog(`"encoder": {"format": "filter", "fields": {"request>headers": {"filter": "rename", "name": "hdrs"}, "request>headers>X-Proxy-Token": {"filter": "delete"}}}`), "", token},
		"a filter in a filter":           {access, fmt.Sprintf(nesting, `{"format": "filter", "fields": {"user_id": {"filter": "delete"}}, "wrap": `+deletingEncoder+`}`), "", ""},

		"the gate's own format":                            {access, defaultLog(`"encoder": {"format": "responses_proxy_gate"}`), "", ""},
		"the gate's own format around a filter":            {access, fmt.Sprintf(nesting, `{"format": "responses_proxy_gate", "wrap": `+deletingEncoder+`}`), "", ""},
		"the gate's own format around one without filters": {access, fmt.Sprintf(nesting, `{"format": "responses_proxy_gate", "wrap": {"format": "json"}}`), "", token},
		"the gate's own format, with an Azure key":         {access, defaultLog(`"encoder": {"format": "responses_proxy_gate"}`), azure, ""},

		"a filter that another core goes around":      {access, defaultLog(deleting + `, "core": {"module": "gate_test"}`), "", token},
		"an access log to nowhere":                    {access, defaultLog(`"writer": {"output": "discard"}`), "", ""},
		"an access log of its own":                    {named, fmt.Sprintf(mine, ""), "", `the log "mine" would record`},
		"an access log of its own, without the token": {named, fmt.Sprintf(mine, ","+deleting), "", ""},
		"an access log of its own, to nowhere":        {named, fmt.Sprintf(mine, `, "writer": {"output": "discard"}`), "", ""},
		"an access log that goes to two":              {named, `{"logs": {"mine": {"include": ["http.log.access.mine"],` + deleting + `}}}`, "", `the log "default" would record`},

		"a log that excludes access":                    {access, defaultLog(`"exclude": ["http.log.access"]`), "", ""},
		"a log that excludes http":                      {access, defaultLog(`"exclude": ["http"]`), "", ""},
		"a log that excludes everything":                {access, defaultLog(`"exclude": ["*"]`), "", ""},
		"a log that excludes something like it":         {access, defaultLog(`"exclude": ["http.log.acc"]`), "", token},
		"a log that excludes http and includes access":  {access, `{"logs": {"default": {"exclude": ["http"]}, "x": {"include": ["http.log.access"], "exclude": ["http"]}}}`, "", `the log "x"`},
		"a log that includes http":                      {access, `{"logs": {"default": {"exclude": ["http"]}, "x": {"include": ["http"]}}}`, "", `the log "x"`},
		"a log that includes the admin endpoint":        {access, `{"logs": {"default": {"include": ["admin"]}}}`, "", ""},
		"a log that includes a name log_name could use": {access, `{"logs": {"default": {"exclude": ["http.log.access"]}, "x": {"include": ["http.log.access.x"]}}}`, "", `the log "x"`},

		"an access log for a mapped host only":            {`"logs": {"logger_names": {"x.example": ["mine"]}, "skip_unmapped_hosts": true},`, `{}`, "", token},
		"an access log for a mapped host, excluded":       {`"logs": {"logger_names": {"x.example": ["mine"]}, "skip_unmapped_hosts": true},`, defaultLog(`"exclude": ["http.log.access.mine"]`), "", ""},
		"an access log that is logged for unmapped hosts": {`"logs": {"logger_names": {"x.example": ["mine"]}},`, defaultLog(`"exclude": ["http.log.access.mine"]`), "", token},
		"an access log of failures only, at WARN":         {access, defaultLog(`"level": "WARN"`), "", token},
		"an access log of failures only, at ERROR":        {access, defaultLog(`"level": "ERROR"`), "", token},
		"an access log above every level of access":       {access, defaultLog(`"level": "PANIC"`), "", ""},

		"credentials":            {`"logs": {"should_log_credentials": true},`, defaultLog(deleting), "", "log_credentials"},
		"credentials, knowingly": {`"logs": {"should_log_credentials": true},`, `{}`, fmt.Sprintf(allowing, riskLoggedToken), ""},

		"the level DEBUG":                                   {"", defaultLog(`"level": "DEBUG"`), "", token},
		"the level DEBUG by a placeholder":                  {"", defaultLog(`"level": "{env.GATE_TEST_LEVEL}"`), "", token},
		"the level DEBUG, without the token":                {"", defaultLog(`"level": "DEBUG", ` + deleting), "", ""},
		"the level DEBUG, without http's logs":              {"", defaultLog(`"level": "DEBUG", "exclude": ["http"]`), "", ""},
		"the level DEBUG, for what rewrites requests":       {"", defaultLog(`"level": "DEBUG", "exclude": ["http.log"]`), "", token},
		"the level DEBUG in another log":                    {"", `{"logs": {"x": {"level": "DEBUG"}}}`, "", `the log "x"`},
		"the level INFO":                                    {"", defaultLog(`"level": "INFO"`), "", ""},
		"sampling, which spares nobody":                     {access, defaultLog(`"sampling": {"first": 1}`), "", token},
		"an Azure key":                                      {"", `{}`, azure, key},
		"an Azure key, without it":                          {"", defaultLog(fmt.Sprintf(filter, "request>headers>Api-Key", "delete")), azure, ""},
		"an Azure key, without the token":                   {"", defaultLog(deleting), azure, key},
		"an Azure key, without reverse_proxy's logs":        {"", defaultLog(`"exclude": ["http.handlers.reverse_proxy"]`), azure, ""},
		"an Azure key, knowingly":                           {"", `{}`, azure + fmt.Sprintf(allowing, riskLoggedToken), ""},
		"a key in a header that Caddy redacts":              {"", `{}`, `, "upstream_header": "Cookie"`, ""},
		"an Azure key and an access log, without the token": {access, defaultLog(deleting), azure, key},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GATE_TEST_LEVEL", "debug")
			surroundings{server: c.server, logging: c.logging, gate: c.gate}.audited(t, c.says)
		})
	}
}

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
