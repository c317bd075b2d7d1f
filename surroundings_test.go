package responsesproxygate

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// configAround are the parts of a Caddy config around a gate, as JSON. What
// is left out is safe.
type configAround struct {
	admin   string // default: off
	logging string // default: Caddy's
	listen  string // default: "127.0.0.1:0"
	server  string // members of the server, each followed by a comma
	http    string // members of the HTTP app, each followed by a comma
	gate    string // members of the gate, each preceded by a comma
	gates   string // in place of the one gate

	handlers string // in place of the gate and the proxy behind it
}

func (s configAround) config(t *testing.T) *caddy.Config {
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
		"listen": [%s], "automatic_https": {"disable": true}, "routes": [{"handle": [%s]}]}}}}}`,
		or(s.admin, `{"disabled": true}`), or(s.logging, `{}`), s.http, s.server, or(s.listen, `"127.0.0.1:0"`), or(s.handlers, or(s.gates, gate)+`, {"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:1"}]}`))
	var config caddy.Config
	if err := json.Unmarshal([]byte(text), &config); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return &config
}

// checked provisions and validates the config as "caddy validate" does, and
// checks the verdict: accepted if says is "".
func (s configAround) checked(t *testing.T, says string) {
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

// looseDir is a directory in which everybody can replace files.
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
		s    configAround
		says string
	}{
		"on loopback":                             {configAround{}, ""},
		"on another loopback address":             {configAround{listen: `"127.8.8.8:8080"`}, ""},
		"on localhost":                            {configAround{listen: `"localhost:8080"`}, ""},
		"on IPv6 loopback":                        {configAround{listen: `"[::1]:8080"`}, ""},
		"on a range of loopback ports":            {configAround{listen: `"127.0.0.1:8080-8082"`}, ""},
		"on tcp4 loopback":                        {configAround{listen: `"tcp4/127.0.0.1:8080"`}, ""},
		"on a unix socket":                        {configAround{listen: `"unix/` + socket + `"`}, ""},
		"on a unix socket others can replace":     {configAround{listen: `"unix/` + loose + `/s"`}, "others can write to directory"},
		"on such a socket, knowingly":             {configAround{listen: `"unix/` + loose + `/s"`, gate: fmt.Sprintf(allowing, riskRemoteListener)}, ""},
		"on all interfaces":                       {configAround{listen: `":8080"`}, no},
		"on all IPv4 interfaces":                  {configAround{listen: `"0.0.0.0:8080"`}, no},
		"on all IPv6 interfaces":                  {configAround{listen: `"[::]:8080"`}, no},
		"on an address of the network":            {configAround{listen: `"192.0.2.1:8080"`}, no},
		"on a name":                               {configAround{listen: `"gate.internal:8080"`}, no},
		"on a name that begins with localhost":    {configAround{listen: `"localhost.internal:8080"`}, no},
		"on a file descriptor":                    {configAround{listen: `"fd/3"`}, no},
		"on loopback and all interfaces":          {configAround{listen: `"127.0.0.1:8080", ":8081"`}, no},
		"on a descriptor like an address":         {configAround{listen: `"fd/127.0.0.1"`}, no},
		"on all interfaces, knowingly":            {configAround{listen: `":8080"`, gate: fmt.Sprintf(allowing, riskRemoteListener)}, ""},
		"on all interfaces, for another risk":     {configAround{listen: `":8080"`, gate: fmt.Sprintf(allowing, riskTCPAdmin)}, no},
		"on all interfaces with TLS":              {configAround{listen: `":8443"`, server: tls}, ""},
		"on the HTTP port, where TLS is not":      {configAround{listen: `":80"`, server: tls}, no},
		"on another HTTP port with TLS":           {configAround{listen: `":8080"`, server: tls, http: `"http_port": 8080,`}, no},
		"on port 80 with TLS, which is no longer": {configAround{listen: `":80"`, server: tls, http: `"http_port": 8080,`}, ""},
		"on a range around the HTTP port":         {configAround{listen: `":79-81"`, server: tls}, no},
		"on a placeholder for all interfaces":     {configAround{listen: `"{env.GATE_TEST_LISTEN}"`}, no},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GATE_TEST_LISTEN", ":8080")
			c.s.checked(t, c.says)
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
		"off, with a config from plain HTTP":      {`{"disabled": true, "config": {"load": {"module": "http", "url": "http://127.0.0.1:9/x"}}}`, "", "", "admin.config.load takes a config over plain HTTP"},
		"off, with one from a placeholder":        {`{"disabled": true, "config": {"load": {"module": "http", "url": "{env.GATE_TEST_URL}"}}}`, "", "", "admin.config.load takes a config over plain HTTP"},
		"off, with one from plain HTTP knowingly": {`{"disabled": true, "config": {"load": {"module": "http", "url": "http://127.0.0.1:9/x"}}}`, fmt.Sprintf(allowing, riskTCPAdmin), "", ""},
		"off, with a config over TLS":             {`{"disabled": true, "config": {"load": {"module": "http", "url": "https://127.0.0.1:9/x"}}}`, "", "", ""},
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
		"on a unix socket others can replace":     {`{"listen": "unix/LOOSE/admin.sock"}`, "", "", "others can write to directory"},
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
			t.Setenv("GATE_TEST_URL", "HTTP://localhost:9/x")
			if c.otherDefault != "" {
				caddy.DefaultAdminListen = c.otherDefault
				defer func() { caddy.DefaultAdminListen = formerDefault }()
			}
			configAround{admin: strings.ReplaceAll(c.admin, "LOOSE", loose), gate: c.gate}.checked(t, c.says)
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
			configAround{gate: c.gate}.checked(t, c.says)
		})
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
