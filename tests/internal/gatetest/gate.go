//go:build unix

package gatetest

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// OperatorKey is what callers must never get, and the upstream must.
const OperatorKey = "sk-e2e-operator-4f9c2d7b81aa4cF00dBEEF"

// Site is a config around one gate. Its zero value is the recommended one.
type Site struct {
	Dir     string // default: a new one
	Info    string // the server-info file; default: info.json in Dir
	Global  string // lines of global options beside admin
	Admin   string // the admin option; "" is off, "unix" is a socket in dir
	Address string // default: http://:0
	Bind    string // default: 127.0.0.1; "-" is none
	Before  string // lines in the site beside the gate
	Gate    string // lines in the gate's block
	Key     string // default: upstream_bearer {env.OPENAI_API_KEY}
	NoInfo  bool   // without server_info
	Proxy   string // lines in reverse_proxy's block
	To      string // default: the upstream's URL
	Env     []string
	Umask   string // of the process; "" inherits
	Limits  string // arguments of sh's ulimit for it; "" inherits
}

// With fills in what was left out.
func (s Site) With(t testing.TB, up *Upstream) Site {
	t.Helper()
	fill := func(value *string, fallback string) {
		if *value == "" {
			*value = fallback
		}
	}
	if s.Dir == "" {
		s.Dir = TempDir(t)
	}
	fill(&s.Admin, "off")
	if s.Admin == "unix" {
		s.Admin = "unix/" + s.AdminSocket()
	}
	fill(&s.Address, "http://:0")
	fill(&s.Bind, "127.0.0.1")
	fill(&s.Key, "upstream_bearer {env.OPENAI_API_KEY}")
	if s.To == "" && up != nil {
		s.To = up.URL
	}
	return s
}

// InfoPath is where the gate writes its server-info file.
func (s Site) InfoPath() string {
	if s.Info != "" {
		return s.Info
	}
	return filepath.Join(s.Dir, "info.json")
}

// AdminSocket is the socket of the admin endpoint, if Admin is "unix".
func (s Site) AdminSocket() string { return filepath.Join(s.Dir, "admin.sock") }

// ConfigPath is where Launch writes the Caddyfile.
func (s Site) ConfigPath() string { return filepath.Join(s.Dir, "Caddyfile") }

// Caddyfile writes the site as a Caddyfile.
func (s Site) Caddyfile() string {
	var b strings.Builder
	b.WriteString("{\n")
	if s.Admin != "default" {
		fmt.Fprintf(&b, "\tadmin %s\n", s.Admin)
	}
	fmt.Fprintf(&b, "%s\n}\n%s {\n", s.Global, s.Address)
	if s.Bind != "-" {
		fmt.Fprintf(&b, "\tbind %s\n", s.Bind)
	}
	fmt.Fprintf(&b, "%s\n\tresponses_proxy_gate {\n\t\t%s\n", s.Before, s.Key)
	if !s.NoInfo {
		fmt.Fprintf(&b, "\t\tserver_info %s\n", s.InfoPath())
	}
	fmt.Fprintf(&b, "%s\n\t}\n\treverse_proxy %s {\n%s\n\t}\n}\n", s.Gate, s.To, s.Proxy)
	return b.String()
}

// Launch says how to run Caddy with this site.
func (s Site) Launch(t testing.TB) Launch {
	t.Helper()
	WriteFile(t, s.ConfigPath(), s.Caddyfile())
	return Launch{
		Dir:   s.Dir,
		Env:   append([]string{"OPENAI_API_KEY=" + OperatorKey}, s.Env...),
		Umask: s.Umask, Limits: s.Limits,
		Args: []string{"run", "--adapter", "caddyfile", "--config", s.ConfigPath()},
	}
}

// Info is the server-info file.
type Info struct {
	Port      int    `json:"port"`
	Socket    string `json:"socket"`
	PID       int    `json:"pid"`
	AuthToken string `json:"auth_token"`
	BaseURL   string `json:"base_url"`
}

// ReadInfo reads a server-info file, in which nothing may be unknown.
func ReadInfo(t testing.TB, path string) Info {
	t.Helper()
	var in Info
	decoder := json.NewDecoder(strings.NewReader(ReadFile(t, path)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return in
}

// Gate is a running Caddy with a gate, and its upstream.
type Gate struct {
	*Process
	Site  Site
	Info  Info
	Token string
	Addr  string // where to dial
	Up    *Upstream
	HTTP  *http.Client

	Reloaded atomic.Bool // it has been asked to take another config
}

// StartGate starts a gate in front of up, and waits until it listens.
func StartGate(t testing.TB, up *Upstream, s Site) *Gate {
	t.Helper()
	s = s.With(t, up)
	g := &Gate{Site: s, Up: up, Process: Start(t, s.Launch(t))}
	g.WaitOutput(ReadyLog, 1)
	g.HTTP = NewClient(t)
	if !s.NoInfo {
		g.ReadInfo()
	}
	return g
}

// ReadInfo learns the token and the address from server-info, as callers do.
func (g *Gate) ReadInfo() {
	g.t.Helper()
	if Missing(g.Site.InfoPath()) {
		g.t.Fatalf("no server-info was written:\n%s", g.Output)
	}
	g.Info = ReadInfo(g.t, g.Site.InfoPath())
	g.Token = g.Info.AuthToken
	g.Addr = net.JoinHostPort("127.0.0.1", fmt.Sprint(g.Info.Port))
}

// NewClient is an HTTP client with connections of its own.
func NewClient(t testing.TB) *http.Client {
	transport := &http.Transport{DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// UnixClient is an HTTP client that reaches one unix socket, whatever the URL.
func UnixClient(t testing.TB, path string) *http.Client {
	client := NewClient(t)
	client.Transport.(*http.Transport).DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return client
}

// URL is the gate's URL with this path.
func (g *Gate) URL(path string) string { return "http://" + g.Addr + path }

// Answer is a whole response.
type Answer struct {
	Status int
	Header http.Header
	Body   string
	Proto  string
}

// Post is a request that the gate lets through, unless edit breaks it.
func (g *Gate) Post(edits ...func(*http.Request)) *http.Request {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), http.MethodPost, g.URL("/v1/responses"),
		strings.NewReader(`{"model":"gpt-5","input":"hi"}`))
	if err != nil {
		g.t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+g.Token)
	for _, edit := range edits {
		edit(r)
	}
	return r
}

// SetHeader is an edit for Post and Do: the header has this value only.
func SetHeader(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header[http.CanonicalHeaderKey(name)] = []string{value} }
}

// NoHeader is an edit for Post and Do: the header is left out.
func NoHeader(name string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Del(name) }
}

// Do sends a request and reads the whole answer.
func Do(t testing.TB, client *http.Client, r *http.Request) Answer {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	return ReadAnswer(t, response)
}

// ReadAnswer reads the whole answer, which must be complete.
func ReadAnswer(t testing.TB, response *http.Response) Answer {
	t.Helper()
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatalf("reading the answer (status %d, so far %q): %v", response.StatusCode, body, err)
	}
	return Answer{response.StatusCode, response.Header, string(body), response.Proto}
}

// Do sends a request that the gate lets through, unless edit breaks it, and
// reads the whole answer.
func (g *Gate) Do(t testing.TB, edits ...func(*http.Request)) Answer {
	t.Helper()
	for range 5 {
		response, err := g.HTTP.Do(g.Post(edits...))
		if err != nil {
			if g.Reloaded.Load() {
				// The kernel resets connections that Caddy's old listener had
				// not accepted yet when a reload closed it, with a gate or
				// without one. The request got no answer: make it again.
				continue
			}
			t.Fatal(err)
		}
		return ReadAnswer(t, response)
	}
	t.Fatal("no answer after a reload, five times")
	return Answer{}
}

// Works fails the test unless a request with the token gets through.
func (g *Gate) Works(t testing.TB) {
	t.Helper()
	if got := g.Do(t); got.Status != http.StatusOK || got.Body != JSONAnswer {
		t.Fatalf("a request with the token got %d %s", got.Status, got.Body)
	}
}

// Refused fails the test unless the answer is the gate's own, with this
// status and code, in the shape that every such answer has.
func Refused(t testing.TB, got Answer, status int, code string) {
	t.Helper()
	if got.Status != status {
		t.Errorf("status %d, want %d; body %s", got.Status, status, got.Body)
	}
	want := map[string]string{
		"X-Responses-Proxy-Gate": code,
		"Content-Type":           "application/json",
		"Cache-Control":          "no-store",
		"X-Content-Type-Options": "nosniff",
	}
	if status == http.StatusUnauthorized {
		want["Www-Authenticate"] = "Bearer"
	} else if got.Header.Get("Www-Authenticate") != "" {
		t.Errorf("WWW-Authenticate %q on status %d", got.Header.Get("Www-Authenticate"), got.Status)
	}
	for name, value := range want {
		if values := got.Header.Values(name); len(values) != 1 || values[0] != value {
			t.Errorf("%s is %q, want %q once", name, values, value)
		}
	}
	var body struct {
		Error map[string]any `json:"error"`
	}
	decoder := json.NewDecoder(strings.NewReader(got.Body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&body); err != nil {
		t.Errorf("the body is not an OpenAI error: %v; %q", err, got.Body)
		return
	}
	message, _ := body.Error["message"].(string)
	kind, _ := body.Error["type"].(string)
	param, hasParam := body.Error["param"]
	if message == "" || kind == "" || !hasParam || param != nil || body.Error["code"] != code || len(body.Error) != 4 {
		t.Errorf("the body is not an OpenAI error with code %s: %s", code, got.Body)
	}
}

// NotCORS fails the test if the answer lets any page read it.
func NotCORS(t testing.TB, got Answer) {
	t.Helper()
	for name := range got.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("the answer has %s: %q", name, got.Header[name])
		}
	}
}

// portsGiven are the ports that freePort has given out.
var portsGiven sync.Map

// FreePort is a TCP port that nobody listened on a moment ago. It is below the
// ports that the kernel gives to outgoing connections, of which other tests
// make many.
func FreePort(t testing.TB) int {
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
