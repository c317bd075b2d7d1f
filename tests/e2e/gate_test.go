//go:build unix

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// operatorKey is what callers must never get, and the upstream must.
const operatorKey = "sk-e2e-operator-4f9c2d7b81aa4cF00dBEEF"

// site is a config around one gate. Its zero value is the recommended one.
type site struct {
	dir     string // default: a new one
	global  string // lines of global options beside admin
	admin   string // the admin option; "" is off, "unix" is a socket in dir
	address string // default: http://:0
	bind    string // default: 127.0.0.1; "-" is none
	before  string // lines in the site beside the gate
	gate    string // lines in the gate's block
	key     string // default: upstream_bearer {env.OPENAI_API_KEY}
	noInfo  bool   // without server_info
	proxy   string // lines in reverse_proxy's block
	to      string // default: the upstream's URL
	env     []string
	umask   string
}

// with fills in what was left out.
func (s site) with(t *testing.T, up *upstream) site {
	t.Helper()
	fill := func(value *string, fallback string) {
		if *value == "" {
			*value = fallback
		}
	}
	if s.dir == "" {
		s.dir = tempDir(t)
	}
	fill(&s.admin, "off")
	if s.admin == "unix" {
		s.admin = "unix/" + s.adminSocket()
	}
	fill(&s.address, "http://:0")
	fill(&s.bind, "127.0.0.1")
	fill(&s.key, "upstream_bearer {env.OPENAI_API_KEY}")
	if s.to == "" && up != nil {
		s.to = up.URL
	}
	return s
}

func (s site) infoPath() string    { return filepath.Join(s.dir, "info.json") }
func (s site) adminSocket() string { return filepath.Join(s.dir, "admin.sock") }
func (s site) configPath() string  { return filepath.Join(s.dir, "Caddyfile") }

// caddyfile writes the site as a Caddyfile.
func (s site) caddyfile() string {
	var b strings.Builder
	b.WriteString("{\n")
	if s.admin != "default" {
		fmt.Fprintf(&b, "\tadmin %s\n", s.admin)
	}
	fmt.Fprintf(&b, "%s\n}\n%s {\n", s.global, s.address)
	if s.bind != "-" {
		fmt.Fprintf(&b, "\tbind %s\n", s.bind)
	}
	fmt.Fprintf(&b, "%s\n\tresponses_proxy_gate {\n\t\t%s\n", s.before, s.key)
	if !s.noInfo {
		fmt.Fprintf(&b, "\t\tserver_info %s\n", s.infoPath())
	}
	fmt.Fprintf(&b, "%s\n\t}\n\treverse_proxy %s {\n%s\n\t}\n}\n", s.gate, s.to, s.proxy)
	return b.String()
}

// launch says how to run Caddy with this site.
func (s site) launch(t *testing.T) launch {
	t.Helper()
	writeFile(t, s.configPath(), s.caddyfile())
	return launch{
		dir:   s.dir,
		env:   append([]string{"OPENAI_API_KEY=" + operatorKey}, s.env...),
		umask: s.umask,
		args:  []string{"run", "--adapter", "caddyfile", "--config", s.configPath()},
	}
}

// info is the server-info file.
type info struct {
	Port      int    `json:"port"`
	Socket    string `json:"socket"`
	PID       int    `json:"pid"`
	AuthToken string `json:"auth_token"`
	BaseURL   string `json:"base_url"`
}

func readInfo(t *testing.T, path string) info {
	t.Helper()
	var in info
	decoder := json.NewDecoder(strings.NewReader(readFile(t, path)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return in
}

// gate is a running Caddy with a gate, and its upstream.
type gate struct {
	*process
	site  site
	info  info
	token string
	addr  string // where to dial
	up    *upstream
	http  *http.Client

	reloaded atomic.Bool // it has been asked to take another config
}

// startGate starts a gate in front of up, and waits until it listens.
func startGate(t *testing.T, up *upstream, s site) *gate {
	t.Helper()
	s = s.with(t, up)
	g := &gate{site: s, up: up, process: start(t, s.launch(t))}
	g.waitOutput(readyLog, 1)
	g.http = newClient(t)
	if !s.noInfo {
		g.readInfo()
	}
	return g
}

// readInfo learns the token and the address from server-info, as callers do.
func (g *gate) readInfo() {
	g.t.Helper()
	if missing(g.site.infoPath()) {
		g.t.Fatalf("no server-info was written:\n%s", g.out)
	}
	g.info = readInfo(g.t, g.site.infoPath())
	g.token = g.info.AuthToken
	g.addr = net.JoinHostPort("127.0.0.1", fmt.Sprint(g.info.Port))
}

// newClient is an HTTP client with connections of its own.
func newClient(t *testing.T) *http.Client {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// unixClient is an HTTP client that reaches one unix socket, whatever the URL.
func unixClient(t *testing.T, path string) *http.Client {
	client := newClient(t)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return client
}

func (g *gate) url(path string) string { return "http://" + g.addr + path }

// answer is a whole response.
type answer struct {
	status int
	header http.Header
	body   string
	proto  string
}

// post is a request that the gate lets through, unless edit breaks it.
func (g *gate) post(edits ...func(*http.Request)) *http.Request {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, g.url("/v1/responses"),
		strings.NewReader(`{"model":"gpt-5","input":"hi"}`))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+g.token)
	for _, edit := range edits {
		edit(r)
	}
	return r
}

func setHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = []string{value} }
}

func noHeader(name string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Del(name) }
}

// do sends a request and reads the whole answer.
func do(t *testing.T, client *http.Client, r *http.Request) answer {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return readAnswer(t, response)
}

func readAnswer(t *testing.T, response *http.Response) answer {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("reading the answer (status %d, so far %q): %v", response.StatusCode, body, err)
	}
	return answer{response.StatusCode, response.Header, string(body), response.Proto}
}

func (g *gate) do(t *testing.T, edits ...func(*http.Request)) answer {
	t.Helper()
	for range 5 {
		response, err := g.http.Do(g.post(edits...))
		if err != nil {
			if g.reloaded.Load() {
				// The kernel resets connections that Caddy's old listener had
				// not accepted yet when a reload closed it, with a gate or
				// without one. The request got no answer: make it again.
				continue
			}
			t.Fatal(err)
		}
		return readAnswer(t, response)
	}
	t.Fatal("no answer after a reload, five times")
	return answer{}
}

// works fails the test unless a request with the token gets through.
func (g *gate) works(t *testing.T) {
	t.Helper()
	if got := g.do(t); got.status != http.StatusOK || got.body != jsonAnswer {
		t.Fatalf("a request with the token got %d %s", got.status, got.body)
	}
}

// refused fails the test unless the answer is the gate's own, with this
// status and code, in the shape that every such answer has.
func refused(t *testing.T, got answer, status int, code string) {
	t.Helper()
	if got.status != status {
		t.Errorf("status %d, want %d; body %s", got.status, status, got.body)
	}
	want := map[string]string{
		"X-Responses-Proxy-Gate": code,
		"Content-Type":           "application/json",
		"Cache-Control":          "no-store",
		"X-Content-Type-Options": "nosniff",
	}
	if status == http.StatusUnauthorized {
		want["Www-Authenticate"] = "Bearer"
	} else if got.header.Get("Www-Authenticate") != "" {
		t.Errorf("WWW-Authenticate %q on status %d", got.header.Get("Www-Authenticate"), got.status)
	}
	for name, value := range want {
		if values := got.header.Values(name); len(values) != 1 || values[0] != value {
			t.Errorf("%s is %q, want %q once", name, values, value)
		}
	}
	var body struct {
		Error map[string]any `json:"error"`
	}
	decoder := json.NewDecoder(strings.NewReader(got.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		t.Errorf("the body is not an OpenAI error: %v; %q", err, got.body)
		return
	}
	message, _ := body.Error["message"].(string)
	kind, _ := body.Error["type"].(string)
	param, hasParam := body.Error["param"]
	if message == "" || kind == "" || !hasParam || param != nil || body.Error["code"] != code || len(body.Error) != 4 {
		t.Errorf("the body is not an OpenAI error with code %s: %s", code, got.body)
	}
}

// notCORS fails the test if the answer lets any page read it.
func notCORS(t *testing.T, got answer) {
	t.Helper()
	for name := range got.header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("the answer has %s: %q", name, got.header[name])
		}
	}
}

// portsGiven are the ports that freePort has given out.
var portsGiven sync.Map

// freePort is a TCP port that nobody listened on a moment ago. It is below the
// ports that the kernel gives to outgoing connections, of which other tests
// make many.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		port := 12000 + rand.IntN(20000)
		if _, given := portsGiven.LoadOrStore(port, true); given {
			continue
		}
		if listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port)); err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to another user")
	}
}
