package responsesproxygate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap/zapcore"
)

// surroundings are the parts of a Caddy config around a gate, as JSON. What
// is left out is safe.
type surroundings struct {
	admin   string // default: off
	logging string // default: Caddy's
	listen  string // default: "127.0.0.1:0"
	server  string // members of the server, each followed by a comma
	http    string // members of the HTTP app, each followed by a comma
	gate    string // members of the gate, each preceded by a comma
	gates   string // in place of the one gate
}

func (s surroundings) config(t *testing.T) *caddy.Config {
	t.Helper()
	t.Setenv("GATE_TEST_KEY", testKey)
	or := func(value, otherwise string) string {
		if value == "" {
			return otherwise
		}
		return value
	}
	gate := `{"handler": "responses_proxy_gate", "upstream_bearer": "{env.GATE_TEST_KEY}"` + s.gate + `}`
	text := fmt.Sprintf(`{"admin": %s, "logging": %s, "apps": {"http": {%s "servers": {"srv": {%s
		"listen": [%s], "automatic_https": {"disable": true}, "routes": [{"handle": [%s, {"handler": "static_response"}]}]}}}}}`,
		or(s.admin, `{"disabled": true}`), or(s.logging, `{}`), s.http, s.server, or(s.listen, `"127.0.0.1:0"`), or(s.gates, gate))
	var config caddy.Config
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return &config
}

// audited provisions and validates the config as "caddy validate" does, and
// checks the verdict: accepted if says is "".
func (s surroundings) audited(t *testing.T, says string) {
	t.Helper()
	err := caddy.Validate(s.config(t))
	refusedWith(t, err, says)
	if err != nil && leaks(err.Error()) {
		t.Errorf("the error gives the key away: %v", err)
	}
	if n, _ := callers.References(callerID{gate: "default"}); n != 0 {
		t.Errorf("%d references to the gate are left", n)
	}
}

// looseDir is a directory in which everybody can exchange files.
func looseDir(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("Windows has no such modes")
	}
	dir := filepath.Join(t.TempDir(), "loose")
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777)); err != nil {
		t.Fatal(err)
	}
	return dir
}

const allowing = `, "insecure_allow": ["%s"]`

func TestAGateIsNotOpenedToTheNetwork(t *testing.T) {
	const no = "write bind 127.0.0.1 in the site"
	socket := filepath.ToSlash(filepath.Join(t.TempDir(), "s"))
	loose := looseDir(t)
	const tls = `"tls_connection_policies": [{}],`
	for name, c := range map[string]struct {
		s    surroundings
		says string
	}{
		"on loopback":                             {surroundings{}, ""},
		"on another loopback address":             {surroundings{listen: `"127.8.8.8:8080"`}, ""},
		"on localhost":                            {surroundings{listen: `"localhost:8080"`}, ""},
		"on IPv6 loopback":                        {surroundings{listen: `"[::1]:8080"`}, ""},
		"on a range of loopback ports":            {surroundings{listen: `"127.0.0.1:8080-8082"`}, ""},
		"on tcp4 loopback":                        {surroundings{listen: `"tcp4/127.0.0.1:8080"`}, ""},
		"on a unix socket":                        {surroundings{listen: `"unix/` + socket + `"`}, ""},
		"on a unix socket others can exchange":    {surroundings{listen: `"unix/` + loose + `/s"`}, "others can write to directory"},
		"on such a socket, knowingly":             {surroundings{listen: `"unix/` + loose + `/s"`, gate: fmt.Sprintf(allowing, riskRemoteListener)}, ""},
		"on all interfaces":                       {surroundings{listen: `":8080"`}, no},
		"on all IPv4 interfaces":                  {surroundings{listen: `"0.0.0.0:8080"`}, no},
		"on all IPv6 interfaces":                  {surroundings{listen: `"[::]:8080"`}, no},
		"on an address of the network":            {surroundings{listen: `"192.0.2.1:8080"`}, no},
		"on a name":                               {surroundings{listen: `"gate.internal:8080"`}, no},
		"on a name that begins with localhost":    {surroundings{listen: `"localhost.internal:8080"`}, no},
		"on a file descriptor":                    {surroundings{listen: `"fd/3"`}, no},
		"on loopback and all interfaces":          {surroundings{listen: `"127.0.0.1:8080", ":8081"`}, no},
		"on a descriptor like an address":         {surroundings{listen: `"fd/127.0.0.1"`}, no},
		"on all interfaces, knowingly":            {surroundings{listen: `":8080"`, gate: fmt.Sprintf(allowing, riskRemoteListener)}, ""},
		"on all interfaces, for another risk":     {surroundings{listen: `":8080"`, gate: fmt.Sprintf(allowing, riskTCPAdmin)}, no},
		"on all interfaces with TLS":              {surroundings{listen: `":8443"`, server: tls}, ""},
		"on the HTTP port, where TLS is not":      {surroundings{listen: `":80"`, server: tls}, no},
		"on another HTTP port with TLS":           {surroundings{listen: `":8080"`, server: tls, http: `"http_port": 8080,`}, no},
		"on port 80 with TLS, which is no longer": {surroundings{listen: `":80"`, server: tls, http: `"http_port": 8080,`}, ""},
		"on a range around the HTTP port":         {surroundings{listen: `":79-81"`, server: tls}, no},
		"on a placeholder for all interfaces":     {surroundings{listen: `"{env.GATE_TEST_LISTEN}"`}, no},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GATE_TEST_LISTEN", ":8080")
			c.s.audited(t, c.says)
		})
	}
}

func TestTheAdminEndpointIsNoWayAroundTheGate(t *testing.T) {
	const no = `write "admin unix//path/of/a/socket" or "admin off"`
	loose := looseDir(t)
	formerDefault := caddy.DefaultAdminListen
	for name, c := range map[string]struct {
		admin, gate, otherDefault, says string
	}{
		"off":                                     {`{"disabled": true}`, "", "", ""},
		"off, with an address left over":          {`{"disabled": true, "listen": "localhost:2019"}`, "", "", ""},
		"not mentioned":                           {`null`, "", "", no},
		"without an address":                      {`{}`, "", "", no},
		"on its usual address":                    {`{"listen": "localhost:2019"}`, "", "", no},
		"on its usual address, knowingly":         {`{"listen": "localhost:2019"}`, fmt.Sprintf(allowing, riskTCPAdmin), "", ""},
		"on its usual address, for another risk":  {`{"listen": "localhost:2019"}`, fmt.Sprintf(allowing, riskLoggedToken), "", no},
		"on all interfaces":                       {`{"listen": ":2019"}`, "", "", no},
		"with an origin check":                    {`{"listen": "127.0.0.1:2019", "enforce_origin": true, "origins": ["x"]}`, "", "", no},
		"on a unix socket":                        {`{"listen": "unix//run/admin.sock"}`, "", "", ""},
		"on its owner's unix socket":              {`{"listen": "unix//run/admin.sock|0200"}`, "", "", ""},
		"on its owner's unix socket to read":      {`{"listen": "unix//run/admin.sock|0600"}`, "", "", ""},
		"on a group's unix socket":                {`{"listen": "unix//run/admin.sock|0660"}`, "", "", "write unix//run/admin.sock without |0660"},
		"on everybody's unix socket":              {`{"listen": "unix//run/admin.sock|0222"}`, "", "", "mode 0222"},
		"on a unix socket that groups can search": {`{"listen": "unix//run/admin.sock|0210"}`, "", "", "mode 0210"},
		"on an abstract socket":                   {`{"listen": "unix/@admin"}`, "", "", "abstract socket"},
		"on an abstract socket with a mode":       {`{"listen": "unix/@admin|0200"}`, "", "", "abstract socket"},
		"on a unix socket others can exchange":    {`{"listen": "unix/LOOSE/admin.sock"}`, "", "", "others can write to directory"},
		"on such a socket, knowingly":             {`{"listen": "unix/LOOSE/admin.sock"}`, fmt.Sprintf(allowing, riskTCPAdmin), "", ""},
		"on a unix socket by CADDY_ADMIN":         {`{}`, "", "unix//run/admin.sock", ""},
		"on loopback by CADDY_ADMIN":              {`{}`, "", "127.0.0.1:2020", no},
		"on a placeholder for a socket":           {`{"listen": "{env.GATE_TEST_SOCKET}"}`, "", "", ""},
		"on a placeholder for loopback":           {`{"listen": "{env.GATE_TEST_TCP}"}`, "", "", no},
		"on a placeholder for nothing":            {`{"listen": "{env.GATE_TEST_NOT_SET}"}`, "", "", "admin {env.GATE_TEST_NOT_SET}"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GATE_TEST_SOCKET", "unix//run/admin.sock")
			t.Setenv("GATE_TEST_TCP", "localhost:2019")
			if c.otherDefault != "" {
				caddy.DefaultAdminListen = c.otherDefault
				defer func() { caddy.DefaultAdminListen = formerDefault }()
			}
			surroundings{admin: strings.ReplaceAll(c.admin, "LOOSE", loose), gate: c.gate}.audited(t, c.says)
		})
	}
}

// Caddy opens a new config's admin endpoint before it provisions the gate.
func TestAnOpenAdminEndpointIsNotOpenedForAMoment(t *testing.T) {
	const gate = `{"handler": "responses_proxy_gate"%s}`
	const nested = `{"servers": {"srv": {"routes": [{"handle": [{"handler": "subroute", "routes": [{"handle": [%s]}]}]}]}}}`
	for name, c := range map[string]struct {
		admin *caddy.AdminConfig
		app   string
		says  string
	}{
		"beside a gate":                       {nil, fmt.Sprintf(nested, fmt.Sprintf(gate, "")), "the admin endpoint"},
		"beside a gate for another risk":      {nil, fmt.Sprintf(nested, fmt.Sprintf(gate, fmt.Sprintf(allowing, riskLoggedToken))), "the admin endpoint"},
		"beside a gate that allows it":        {nil, fmt.Sprintf(nested, fmt.Sprintf(gate, fmt.Sprintf(allowing, riskTCPAdmin))), ""},
		"beside one of two that allow it":     {nil, fmt.Sprintf(nested, fmt.Sprintf(gate, fmt.Sprintf(allowing, riskTCPAdmin))+","+fmt.Sprintf(gate, "")), "the admin endpoint"},
		"beside another handler":              {nil, fmt.Sprintf(nested, `{"handler": "static_response"}`), ""},
		"beside a malformed app":              {nil, `{`, ""},
		"on a socket beside a gate":           {&caddy.AdminConfig{Listen: "unix//run/a.sock"}, fmt.Sprintf(nested, fmt.Sprintf(gate, "")), ""},
		"on a group's socket beside a gate":   {&caddy.AdminConfig{Listen: "unix//run/a.sock|0660"}, fmt.Sprintf(nested, fmt.Sprintf(gate, "")), "mode 0660"},
		"that is off":                         {&caddy.AdminConfig{Disabled: true}, fmt.Sprintf(nested, fmt.Sprintf(gate, "")), ""},
		"beside a gate with a malformed risk": {nil, fmt.Sprintf(nested, fmt.Sprintf(gate, `, "insecure_allow": "tcp_admin"`)), "the admin endpoint"},
	} {
		t.Run(name, func(t *testing.T) {
			config := &caddy.Config{}
			ctx, err := caddy.ProvisionContext(config)
			if err != nil {
				t.Fatal(err)
			}
			config.Admin, config.AppsRaw = c.admin, caddy.ModuleMap{"http": json.RawMessage(c.app)}
			refusedWith(t, new(adminAPI).Provision(ctx), c.says)
		})
	}
}

func TestASecretDoesNotStandInTheConfig(t *testing.T) {
	const literal, remedy = `, "token": "0123456789abcdefghijklmnopqrstuvwxyz"`, "write {env.NAME} or {file./path/to/secret} instead"
	for name, c := range map[string]struct{ gate, says string }{
		"a literal token":                     {literal, remedy},
		"a literal token, knowingly":          {literal + fmt.Sprintf(allowing, riskLiteralSecret), ""},
		"a literal token, for another risk":   {literal + fmt.Sprintf(allowing, riskLoggedToken), remedy},
		"a literal key":                       {`, "upstream_bearer": "` + testKey + `"`, remedy},
		"a literal key, knowingly":            {`, "upstream_bearer": "` + testKey + `"` + fmt.Sprintf(allowing, riskLiteralSecret), ""},
		"a token by its placeholder":          {`, "token": "{env.GATE_TEST_KEY}"`, ""},
		"a token that could be guessed":       {`, "token": "{env.GATE_TEST_SHORT}"`, "fewer than 32 characters"},
		"a token of the least length":         {`, "token": "{env.GATE_TEST_LEAST}"`, ""},
		"a risk nobody knows":                 {fmt.Sprintf(allowing, "everything"), `no risk "everything"; there are remote_listener`},
		"a key and a file":                    {`, "upstream_bearer_file": "/run/key"`, "keep one"},
		"neither a key nor a file":            {`, "upstream_bearer": ""`, "the operator's key is missing"},
		"a name that could not stand in logs": {`, "name": "a b"`, "use letters, digits"},
		"an option that does not exist":       {`, "allow_everything": true`, "unknown field"},
		"a refused origin":                    {`, "allow_origin": ["*"]`, "gate default: allow_origin"},
		"a refused host":                      {`, "allow_host": ["*"]`, "gate default: allow_host"},
		"a refused route":                     {`, "allow_route": [{"method": "get", "path": "/"}]`, "gate default: allow_route"},
		"a refused header":                    {`, "upstream_header": "Host"`, "gate default: upstream_header"},
		"every refusal at once":               {`, "allow_origin": ["*"], "allow_host": ["*"]`, "\nallow_host"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GATE_TEST_SHORT", strings.Repeat("k", minTokenLength-1))
			t.Setenv("GATE_TEST_LEAST", strings.Repeat("k", minTokenLength))
			surroundings{gate: c.gate}.audited(t, c.says)
		})
	}
}

// TestThisVersionOfCaddyCanBeAudited fails if a Caddy upgrade moves what the
// audit reads by reflection. The audit has to be adapted then, not this test.
func TestThisVersionOfCaddyCanBeAudited(t *testing.T) {
	member := func(of reflect.Type, name string, want reflect.Type) {
		t.Helper()
		if field, ok := of.FieldByName(name); !ok || field.Type != want {
			t.Errorf("%s has no %s of type %s: %v", of, name, want, field.Type)
		}
	}
	member(reflect.TypeFor[caddy.Context](), "cfg", reflect.TypeFor[*caddy.Config]())
	config := reflect.TypeFor[caddy.Config]()
	member(config, "Admin", reflect.TypeFor[*caddy.AdminConfig]())
	member(config, "Logging", reflect.TypeFor[*caddy.Logging]())
	member(config, "AppsRaw", reflect.TypeFor[caddy.ModuleMap]())
	member(reflect.TypeFor[caddy.AdminConfig](), "Disabled", reflect.TypeFor[bool]())
	member(reflect.TypeFor[caddy.AdminConfig](), "Listen", reflect.TypeFor[string]())
	member(reflect.TypeFor[caddy.Logging](), "Logs", reflect.TypeFor[map[string]*caddy.CustomLog]())
	log := reflect.TypeFor[caddy.CustomLog]()
	member(log, "Include", reflect.TypeFor[[]string]())
	member(log, "Exclude", reflect.TypeFor[[]string]())
	member(log, "writerOpener", reflect.TypeFor[caddy.WriterOpener]())
	member(log, "levelEnabler", reflect.TypeFor[zapcore.LevelEnabler]())
	member(log, "encoder", reflect.TypeFor[zapcore.Encoder]())
	member(log, "core", reflect.TypeFor[zapcore.Core]())

	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Listen: "unix//x"}})
	if err != nil {
		t.Fatal(err)
	}
	running, err := configOf(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if listen, enabled := running.adminListen(); listen != "unix//x" || !enabled {
		t.Errorf("the admin endpoint reads as %q, %t", listen, enabled)
	}
	if logs, err := running.logs(); err != nil || len(logs) != 1 || logs[0].name != "default" || logs[0].level != zapcore.InfoLevel {
		t.Errorf("the logs read as %+v, %v", logs, err)
	}
	if _, err := configOf(caddy.Context{}); err == nil {
		t.Error("a context without a config passes the audit")
	}
}

func TestAGateOutsideAnHTTPServerIsRefused(t *testing.T) {
	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
	if err != nil {
		t.Fatal(err)
	}
	h := &Handler{UpstreamBearer: "{env.GATE_TEST_KEY}"}
	refusedWith(t, h.Provision(ctx), "only as a handler of an HTTP server's routes")
	if ctx.Value(caddyhttp.ServerCtxKey) != nil || h.Cleanup() != nil {
		t.Error("a refused gate cannot be cleaned up")
	}
}
