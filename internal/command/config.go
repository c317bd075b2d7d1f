package command

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/surroundings"
)

const (
	defaultUpstreamURL = "https://api.openai.com/v1/responses"

	// commandGate is the name of the command's one gate.
	commandGate = "default"

	// commandGracePeriod is how long running requests may go on after a stop
	// was asked for. A stream that hangs must not keep the process alive.
	commandGracePeriod = 5 * time.Second

	// commandHeaderTimeout is how long a caller may take for a request's
	// headers. Every user of the machine can open connections; those that
	// send nothing must not add up until there are none left for callers.
	commandHeaderTimeout = 10 * time.Second

	// commandIdleTimeout is how long a connection may lie idle between
	// requests. HTTP clients give theirs up after 90 seconds or so; if the
	// server were the first to, a request could cross with that.
	commandIdleTimeout = 2 * time.Minute

	// commandMaxHeader is what a request's headers may have, in bytes. Agents
	// put metadata into headers; Caddy's default of 16 KiB is close to it.
	commandMaxHeader = 64 << 10

	// commandMaxBody is the largest request body, in bytes; a larger one gets
	// 413. It is several times what the API takes.
	commandMaxBody = 256 << 20
)

// object is a part of Caddy's JSON config.
type object = map[string]any

// config is what a Caddyfile with the same meaning would give.
func (o *proxyOptions) config() (*caddy.Config, error) {
	upstream, err := parseUpstream(o.upstreamURL)
	if err != nil {
		return nil, fmt.Errorf("--upstream-url: %w", err)
	}
	if upstream.url.Scheme == "http" && !surroundings.StaysHere(upstream.dial()) && !slices.Contains(o.insecureAllow, "plaintext_upstream") {
		return nil, fmt.Errorf("--upstream-url: the operator's key would go to %s without TLS, for everybody on the way to read; "+
			"write https://, or: --insecure-allow plaintext_upstream", upstream.url.Host)
	}
	routes, err := o.routes()
	if err != nil {
		return nil, err
	}
	rewrites, err := upstream.rewrites(routes)
	if err != nil {
		return nil, err
	}
	app := caddyhttp.App{
		Servers:     map[string]*caddyhttp.Server{"responses_proxy": o.server(o.handlers(upstream, routes, rewrites))},
		GracePeriod: caddy.Duration(o.grace),
	}
	persist := false
	admin := &caddy.AdminConfig{Disabled: o.adminSocket == "", Config: &caddy.ConfigSettings{Persist: &persist}}
	if o.adminSocket != "" {
		admin.Listen = "unix/" + o.adminSocket
	}
	var storage json.RawMessage
	if o.budget != nil {
		storage = rawJSON(object{"module": "file_system", "root": o.budget.dir})
	}
	return &caddy.Config{
		Admin:      admin,
		Logging:    o.logging(),
		StorageRaw: storage,
		AppsRaw: caddy.ModuleMap{
			"http": rawJSON(app),
			// There are no certificates to keep. Without this, Caddy looks
			// after its storage, and makes it in the user's home.
			"tls": rawJSON(object{"disable_storage_check": true, "disable_storage_clean": true}),
		},
	}, nil
}

// handlers are what a request meets.
func (o *proxyOptions) handlers(upstream *upstream, routes []route, rewrites []object) []json.RawMessage {
	handlers := []json.RawMessage{
		rawJSON(o.gateConfig(routes)),
		rawJSON(object{"handler": "request_body", "max_size": commandMaxBody}),
	}
	if o.budget != nil { // (before the path is the upstream's own)
		handlers = append(handlers, rawJSON(o.budget.handler))
	}
	if len(rewrites) > 0 {
		handlers = append(handlers, rawJSON(object{"handler": "subroute", "routes": rewrites}))
	}
	return append(handlers, rawJSON(upstream.reverseProxy()))
}

// server is the one HTTP server of the command.
func (o *proxyOptions) server(handlers []json.RawMessage) *caddyhttp.Server {
	server := &caddyhttp.Server{
		Listen:            o.listen(),
		Routes:            caddyhttp.RouteList{{HandlersRaw: handlers}},
		AutoHTTPS:         &caddyhttp.AutoHTTPSConfig{Disabled: true},
		Protocols:         []string{"h1"},
		ReadHeaderTimeout: caddy.Duration(commandHeaderTimeout),
		IdleTimeout:       caddy.Duration(commandIdleTimeout),
		MaxHeaderBytes:    commandMaxHeader,
	}
	if o.accessLog {
		server.Logs = new(caddyhttp.ServerLogConfig)
	}
	return server
}

// gateConfig is the gate's own part of the config. The key is not in it.
func (o *proxyOptions) gateConfig(routes []route) object {
	config := object{
		"handler":        "responses_proxy_gate",
		"name":           commandGate,
		"allow_route":    routes,
		"harden_process": true,
	}
	set := func(name string, value any, given bool) {
		if given {
			config[name] = value
		}
	}
	switch {
	case o.oidc != nil:
		config["upstream_identity"] = o.oidc.config()
	case o.keyFile != "":
		config["upstream_bearer_file"] = o.keyFile
	default:
		config["upstream_bearer"] = gate.KeyPlaceholder
	}
	set("token", gate.TokenPlaceholder, o.fixedToken)
	set("upstream_header", o.upstreamHeader, o.upstreamHeader != "")
	set("allow_origin", o.allowOrigin, len(o.allowOrigin) > 0)
	set("allow_host", o.allowHost, len(o.allowHost) > 0)
	set("allow_header", o.allowHeader, len(o.allowHeader) > 0)
	set("dump_dir", o.dumpDir, o.dumpDir != "")
	set("rotate_every", o.rotateEvery, o.rotateEvery != nil)
	set("insecure_allow", o.insecureAllow, len(o.insecureAllow) > 0)
	set("server_info", object{"path": o.serverInfo, "owner": o.owner}, o.serverInfo != "")
	set("shutdown_endpoint", shutdownPath, o.httpShutdown)
	set("health_endpoint", healthPath, o.httpHealth)
	return config
}

// route is what may be called, as the gate's allow_route has it.
type route struct {
	Method    string `json:"method"`
	Path      string `json:"path"`
	AnyQuery  bool   `json:"any_query,omitempty"`
	HTTPOnly  bool   `json:"http_only,omitempty"`
	Multipart bool   `json:"multipart,omitempty"`
}

// defaultRoute is what the gate lets through if nothing else is said.
var defaultRoute = route{Method: http.MethodPost, Path: "/v1/responses"}

// shutdownPath is where the original ends, too.
const shutdownPath = "/shutdown"

// healthPath is where load balancers and containers look.
const healthPath = "/healthz"

// routes are POST /v1/responses and what the flags add.
func (o *proxyOptions) routes() ([]route, error) {
	routes := []route{defaultRoute}
	if o.websocket {
		routes = append(routes, route{Method: http.MethodGet, Path: defaultRoute.Path})
	}
	for _, flag := range o.allowRoute {
		words, err := gate.ReadRoutes(strings.Fields(flag))
		if err != nil {
			return nil, fmt.Errorf("--allow-route %q: write \"METHOD PATH\", \"METHOD PATH any_query\", \"METHOD PATH multipart\" or \"codex\"", flag)
		}
		var further []route
		if err := json.Unmarshal(words, &further); err != nil {
			return nil, err
		}
		for _, r := range further {
			if len(further) == 1 || !slices.Contains(routes, r) { // (a preset may have what is there)
				routes = append(routes, r)
			}
		}
	}
	return routes, nil
}

// logging keeps stderr readable: what goes wrong in the gate and in
// reverse_proxy, errors of the rest of Caddy, and access if asked for.
// The format leaves out what has secrets.
func (o *proxyOptions) logging() *caddy.Logging {
	log := func(level string, include, exclude []string) *caddy.CustomLog {
		return &caddy.CustomLog{
			BaseLog: caddy.BaseLog{Level: level, EncoderRaw: rawJSON(object{"format": "responses_proxy_gate"})},
			Include: include,
			Exclude: exclude,
		}
	}
	const handlers, reverseProxy, access = "http.handlers", "http.handlers.reverse_proxy", "http.log.access"
	logs := map[string]*caddy.CustomLog{
		caddy.DefaultLoggerName: log("ERROR", nil, []string{handlers, access}),
		"handlers":              log("WARN", []string{handlers}, []string{reverseProxy}),
		"reverse_proxy":         log("WARN", []string{reverseProxy}, nil),
	}
	// It writes a line for each stream that is cut off, which callers can do
	// at will. The gate counts those; and it bounds its own lines by itself.
	logs["reverse_proxy"].Sampling = &gate.Sampling
	if o.accessLog {
		logs["access"] = log("INFO", []string{access}, nil)
	}
	if o.adminSocket != "" {
		logs["admin"] = log("INFO", []string{adminapi.ModuleID}, nil)
	}
	return &caddy.Logging{Logs: logs}
}

// upstream is where the command forwards to.
type upstream struct {
	url *url.URL
}

// completeUpstream completes the URL of an API, or of its host, to that of its
// Responses route. Any other is taken as it is, as the original does.
func completeUpstream(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.RawPath != "" {
		return raw // refused later
	}
	path := strings.TrimRight(u.Path, "/")
	switch {
	case path == "":
		path = defaultRoute.Path
	case strings.HasSuffix(path, "/v1"):
		path += "/responses"
	case path == u.Path || !strings.HasSuffix(path, "/responses"):
		return raw
	}
	u.Path = path
	return u.String()
}

func parseUpstream(raw string) (*upstream, error) {
	u, err := url.Parse(raw)
	switch {
	case err != nil:
		return nil, errors.New("this is not a URL; write one such as " + defaultUpstreamURL) // (its own error would quote it)
	case u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "":
		return nil, errors.New("write an absolute URL, such as " + defaultUpstreamURL)
	case u.User != nil:
		return nil, errors.New("it has a user or a password in it, which every user of this machine can see in the process list; the key goes to stdin")
	case u.Fragment != "":
		return nil, errors.New("a URL to forward to has no #fragment")
	}
	if u.RawPath != "" {
		return nil, errors.New("its path has escapes such as %2F, which could not be sent on as they are")
	}
	for name := range u.Query() {
		if isSecretName(name) {
			return nil, fmt.Errorf("its query has %q: arguments are visible to every user of this machine; the key goes to stdin", name)
		}
	}
	return &upstream{u}, nil
}

// isSecretName reports whether a parameter of this name is likely a credential.
func isSecretName(name string) bool {
	name = strings.ToLower(name)
	for _, ending := range []string{"key", "token", "secret", "password", "signature", "credential"} {
		if strings.HasSuffix(name, ending) {
			return true
		}
	}
	return name == "sig" || name == "code"
}

// path is the upstream's path as it goes over the wire.
func (u *upstream) path() string {
	if path := u.url.EscapedPath(); path != "" {
		return path
	}
	return "/"
}

// rewrites map the gate's routes to the upstream's paths: /v1/responses to the
// URL's own, and every other path to its place beside that one.
func (u *upstream) rewrites(routes []route) ([]object, error) {
	if u.path() == defaultRoute.Path && u.url.RawQuery == "" {
		return nil, nil
	}
	// The first that matches counts: a path comes before a "*" that takes it, too.
	routes = slices.Clone(routes)
	slices.SortStableFunc(routes, func(a, b route) int { return cmp.Compare(strings.Count(a.Path, "*"), strings.Count(b.Path, "*")) })
	var rewrites []object
	for _, route := range routes {
		path := u.path()
		if route.Path != defaultRoute.Path {
			base, ok := strings.CutSuffix(path, "/responses")
			rest, inV1 := strings.CutPrefix(route.Path, "/v1/")
			if !ok || !inV1 {
				return nil, fmt.Errorf("--allow-route %s %s: it can be mapped only if it begins with /v1/ and the path of --upstream-url ends in /responses", route.Method, route.Path)
			}
			path = base + "/" + rest
		}
		match := object{"path": []string{route.Path}, "method": []string{route.Method}}
		handle := u.rewrite(path, route.AnyQuery)
		if before, after, wild := strings.Cut(route.Path, "*"); wild {
			// Caddy's own * would take what is below, too.
			delete(match, "path")
			match["path_regexp"] = object{"pattern": "^" + regexp.QuoteMeta(before) + "[^/]+" + regexp.QuoteMeta(after) + "$"}
			id := fmt.Sprintf("{http.request.uri.path.%d}", strings.Count(before, "/")-1)
			last := handle[len(handle)-1]
			last["uri"] = strings.Replace(last["uri"].(string), "*", id, 1)
		}
		rewrites = append(rewrites, object{
			"group":  "rewrite", // the first that matches is the only one
			"match":  []object{match},
			"handle": handle,
		})
	}
	return rewrites, nil
}

// rewrite are the handlers that send a request to path, with the upstream
// URL's query and, if the route allows one, the caller's.
func (u *upstream) rewrite(path string, keepQuery bool) []object {
	// Braces would be taken for placeholders.
	literal := strings.NewReplacer("{", "%7B", "}", "%7D").Replace
	if !keepQuery {
		return []object{{"handler": "rewrite", "uri": literal(path + "?" + u.url.RawQuery)}}
	}
	// The URL's parameters stand in place of the caller's of the same name.
	var set, add []object
	escape := strings.NewReplacer("{", `\{`, "}", `\}`).Replace
	for name, values := range u.url.Query() {
		for i, value := range values {
			parameter := object{"key": escape(name), "val": escape(value)}
			if i == 0 {
				set = append(set, parameter)
			} else {
				add = append(add, parameter)
			}
		}
	}
	return []object{
		// Caddy would drop a parameter with a semicolon in it when it sets others.
		// An escaped one means the same: it divides nothing (WHATWG URL §5.1).
		{"handler": "rewrite", "uri_substring": []object{{"find": ";", "replace": "%3B"}}},
		{"handler": "rewrite", "uri": literal(path), "query": object{"set": set, "add": add}},
	}
}

// dial is where the upstream listens.
func (u *upstream) dial() string {
	port := u.url.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.url.Scheme]
	}
	return net.JoinHostPort(u.url.Hostname(), port)
}

// reverseProxy is the handler that talks to the upstream.
func (u *upstream) reverseProxy() object {
	transport := object{
		"protocol": "responses_proxy_gate",
		// Callers get what the upstream sent, compressed or not as they asked.
		"compression":  false,
		"dial_timeout": "10s",
		// No timeout for the answer: a model may think for many minutes
		// before its first byte, and a stream may be silent for as long.
		"keep_alive": object{"max_idle_conns_per_host": 256},
		// Half of Go's default. Each of an upstream's HTTP/1 connections has both.
		"read_buffer_size":  2 << 10,
		"write_buffer_size": 2 << 10,
	}
	if u.url.Scheme == "https" {
		transport["tls"] = object{}
	}
	return object{
		"handler": "reverse_proxy",
		// Small bodies are read whole before they go upstream, which is less
		// work than to hand them from goroutine to goroutine. The buffer is
		// kept until the answer ends: one for Codex's 40 KB would nearly
		// double the memory of a stream.
		"request_buffers": 4 << 10,
		"upstreams":       []object{{"dial": u.dial()}},
		"transport":       transport,
		"headers": object{"request": object{
			"set": object{"Host": []string{u.url.Host}},
			// The upstream need not know who calls from this machine.
			"delete": []string{"Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto"},
		}},
	}
}

// rawJSON encodes a part of the config that always encodes.
func rawJSON(part any) json.RawMessage { return caddyconfig.JSON(part, nil) }
