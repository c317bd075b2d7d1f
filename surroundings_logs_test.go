package responsesproxygate

import (
	"fmt"
	"testing"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/caddyhttp/logging" // log_append
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

// The cases of logs: what records X-Proxy-Token is refused.
func TestNoLogRecordsAToken(t *testing.T) {
	const (
		access  = `"logs": {},`
		named   = `"logs": {"default_logger_name": "mine"},`
		token   = "would record the header X-Proxy-Token"
		filter  = `"encoder": {"format": "filter", "fields": {"%s": {"filter": "%s"}}}`
		mine    = `{"logs": {"default": {"exclude": ["http.log.access.mine"]}, "mine": {"include": ["http.log.access.mine"] %s}}}`
		nesting = `{"logs": {"default": {"encoder": %s}}}`
	)
	defaultLog := func(members string) string { return `{"logs": {"default": {` + members + `}}}` }
	deleting := fmt.Sprintf(filter, "request>headers>X-Proxy-Token", "delete")
	mineOnly := fmt.Sprintf(`{"logs": {"default": {}, "mine": {"include": ["http.log.access.mine"], %s}}}`, deleting)
	const deletingEncoder = `{"format": "filter", "fields": {"request>headers>X-Proxy-Token": {"filter": "delete"}}}`
	for name, c := range map[string]struct {
		server, logging, gate string
		says                  string
	}{
		"no access log":                                 {"", `{}`, "", ""},
		"an access log":                                 {access, `{}`, "", token},
		"an access log with a remedy":                   {access, `{}`, "", "write in the global options: log { format responses_proxy_gate }, or: insecure_allow logged_token"},
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
		"a filter in a filter":           {access, fmt.Sprintf(nesting, `{"format": "filter", "fields": {"user_id": {"filter": "delete"}}, "wrap": `+deletingEncoder+`}`), "", token},
		"a filter around a filter":       {access, fmt.Sprintf(nesting, `{"format": "filter", "fields": {"request>remote_port": {"filter": "delete"}}, "wrap": `+deletingEncoder+`}`), "", token},
		"a filter, append and a filter":  {access, fmt.Sprintf(nesting, `{"format": "filter", "fields": {"request>remote_port": {"filter": "delete"}}, "wrap": {"format": "append", "fields": {"a": "b"}, "wrap": `+deletingEncoder+`}}`), "", token},
		"a filter of one shape of token": {access, defaultLog(`"encoder": {"format": "filter", "fields": {"request>headers>X-Proxy-Token": {"filter": "regexp", "regexp": "[-_A-Za-z0-9]{43}", "value": "x"}}}`), "", token},
		"the gate's own format wrapped":  {access, fmt.Sprintf(nesting, `{"format": "filter", "fields": {"user_id": {"filter": "delete"}}, "wrap": {"format": "responses_proxy_gate"}}`), "", "cannot stand inside another"},
		"a log that is sampled":          {access, defaultLog(`"sampling": {"first": 1, "thereafter": 1000000}`), "", token},
		"log_name for the unnamed log":   {named, mineOnly, `}, {"handler": "vars", "access_logger_names": [""]`, `the log "default" would record`},
		"log_append of the token":        {access, defaultLog(deleting), `}, {"handler": "log_append", "key": "t", "value": "{http.request.header.x-proxy-token}"`, "log_append would write the header X-Proxy-Token"},
		"log_append of what vars keeps":  {access, defaultLog(deleting), `}, {"handler": "vars", "t": "{http.request.header.X-Proxy-Token}"}, {"handler": "log_append", "key": "t", "value": "t"`, "log_append would write"},
		"log_append of a header like it": {access, defaultLog(deleting), `}, {"handler": "log_append", "key": "t", "value": "{http.request.header.X_Goog_Api_Key}"`, "log_append would write"},
		"log_append of something else":   {access, defaultLog(deleting), `}, {"handler": "log_append", "key": "t", "value": "{http.request.header.User-Agent}"`, ""},

		"the gate's own format":                            {access, defaultLog(`"encoder": {"format": "responses_proxy_gate"}`), "", ""},
		"the gate's own format around a filter":            {access, fmt.Sprintf(nesting, `{"format": "responses_proxy_gate", "wrap": `+deletingEncoder+`}`), "", ""},
		"the gate's own format around one without filters": {access, fmt.Sprintf(nesting, `{"format": "responses_proxy_gate", "wrap": {"format": "json"}}`), "", ""},

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

		"the level DEBUG":                             {"", defaultLog(`"level": "DEBUG"`), "", token},
		"the level DEBUG by a placeholder":            {"", defaultLog(`"level": "{env.GATE_TEST_LEVEL}"`), "", token},
		"the level DEBUG, without the token":          {"", defaultLog(`"level": "DEBUG", ` + deleting), "", ""},
		"the level DEBUG, without http's logs":        {"", defaultLog(`"level": "DEBUG", "exclude": ["http"]`), "", ""},
		"the level DEBUG, for what rewrites requests": {"", defaultLog(`"level": "DEBUG", "exclude": ["http.log"]`), "", token},
		"the level DEBUG in another log":              {"", `{"logs": {"x": {"level": "DEBUG"}}}`, "", `the log "x"`},
		"the level INFO":                              {"", defaultLog(`"level": "INFO"`), "", ""},
		"sampling, which spares nobody":               {access, defaultLog(`"sampling": {"first": 1}`), "", token},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GATE_TEST_LEVEL", "debug")
			configAround{server: c.server, logging: c.logging, gate: c.gate}.checked(t, c.says)
		})
	}
}
