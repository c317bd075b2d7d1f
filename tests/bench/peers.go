//go:build unix

package main

import (
	"bytes"
	"cmp"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/caddybuild"
)

//go:embed peers
var peerFiles embed.FS

// fixedToken is the token of the peers who take one from their configuration.
const fixedToken = "bench-token-0123456789-0123456789-0123456789"

// peer is a program that is measured.
type peer struct {
	name string // as in the tables
	what string

	// program is the file that runs; "" for no program at all.
	program string
	// start says how to run it, and writes the files for that. It may return
	// a server-info file to read port and token from.
	start func(p *peer, s setting) (start, error)

	injects    bool     // puts the operator's key in; else the caller sends it
	refuses    []string // the kinds of refusal it knows
	websockets bool
	tls, http2 bool     // to the upstream
	only       []string // patterns of workloads; all if nil
}

// setting is what a configuration file may need to know.
type setting struct {
	Port      int
	Upstream  upstream
	Dir       string // for the peer's own files
	CA        string // file with the upstream's certificate
	Token     string
	Key       string
	WebSocket bool
	Refusal   int // status of all answers, of the peer that does nothing but refuse
}

// start is how to start a peer.
type start struct {
	args       []string
	env        []string
	stdin      string
	serverInfo string
}

// allRefusals are the kinds that who checks everything knows.
var allRefusals = []string{"origin", "type", "missing", "wrong", "route"}

// findPeers finds everything that can be measured on this machine, and says
// what is missing.
func findPeers(caddy string) (peers []*peer, missing []string) {
	peers = []*peer{
		{name: "direct", what: "no proxy at all: the limit of this suite itself", websockets: true},
		{name: "stock", what: "Caddy's reverse_proxy with flush_interval -1, as guides for streaming APIs write it, and no checks", program: caddy, start: caddyfile("stock.Caddyfile"), websockets: true, tls: true, http2: true},
		{name: "bare", what: "Caddy's reverse_proxy with no option at all", program: caddy, start: caddyfile("bare.Caddyfile"), tls: true, http2: true, only: []string{"json-1", "json-16", "json-64", "codex-16", "sse-1000", "sse-2000", "tls-16", "h2-16"}},
		{name: "byhand", what: "stock with the checks written as Caddyfile matchers", program: caddy, start: caddyfile("byhand.Caddyfile"), injects: true, refuses: allRefusals, websockets: true, tls: true, http2: true},
		{name: "gate", what: "stock with the gate before it", program: caddy, start: caddyfile("gate.Caddyfile"), injects: true, refuses: allRefusals, websockets: true, tls: true, http2: true},
		{name: "budget", what: "gate with a budget of tokens behind it", program: caddy, start: caddyfile("budget.Caddyfile"), injects: true, only: []string{"json-1", "json-16", "json-64", "codex-16", "upload-4", "judge-*", "sse-*", "events-*"}},
		{name: "rules", what: "gate with a budget behind it that has rules about bodies", program: caddy, start: caddyfile("rules.Caddyfile"), injects: true, only: []string{"json-16", "codex-16", "judge-*"}},
		{name: "example", what: "Caddyfile.example as it is shipped, with an access log", program: caddy, start: shippedExample, injects: true, refuses: allRefusals, tls: true, only: []string{"json-16", "json-64", "codex-16", "upload-4", "sse-1000", "sse-2000", "refuse-missing", "burst-64", "tls-16"}},
		{name: "command", what: "caddy responses-proxy", program: caddy, start: ourCommand, injects: true, refuses: allRefusals, websockets: true, tls: true, http2: true},
		{name: "respond", what: "Caddy that does nothing but refuse (respond)", program: caddy, start: caddyfile("respond.Caddyfile"), refuses: allRefusals, only: []string{"refuse-missing"}},
	}
	for _, other := range []struct {
		peer
		find func() string
		hint string
	}{
		{
			peer{name: "original", what: "codex responses-api-proxy", start: original, injects: true, refuses: []string{"route"}, tls: true},
			findCodex, "npm install @openai/codex, or set CODEX_BINARY",
		},
		{
			peer{name: "nginx", what: "nginx with the same checks", start: nginx, injects: true, refuses: allRefusals, websockets: true, tls: true},
			finder("nginx", "/usr/sbin/nginx"), "install nginx",
		},
		{
			peer{name: "haproxy", what: "HAProxy with the same checks", start: haproxy, injects: true, refuses: allRefusals, websockets: true, tls: true, http2: true},
			finder("haproxy", "/usr/sbin/haproxy"), "install haproxy",
		},
	} {
		found := other.peer
		if found.program = other.find(); found.program == "" {
			missing = append(missing, fmt.Sprintf("%s is not here (%s)", found.name, other.hint))
			continue
		}
		peers = append(peers, &found)
	}
	slices.SortFunc(peers, func(a, b *peer) int {
		return cmp.Compare(slices.Index(peerOrder, a.name), slices.Index(peerOrder, b.name))
	})
	return peers, missing
}

// peerOrder is that of the tables.
var peerOrder = []string{"direct", "original", "stock", "bare", "byhand", "nginx", "haproxy", "gate", "budget", "rules", "example", "command", "respond"}

// choosePeers picks peers by name. name=/path/to/caddy is the peer of that
// name with another Caddy, for comparing two builds in one run.
func choosePeers(peers []*peer, names string) ([]*peer, error) {
	if names == "" {
		return peers, nil
	}
	var chosen []*peer
	for _, want := range strings.Split(names, ",") {
		name, program, another := strings.Cut(want, "=")
		at := slices.IndexFunc(peers, func(p *peer) bool { return p.name == name })
		if at < 0 {
			return nil, fmt.Errorf("no peer %q; there are %s", name, peerNames(peers))
		}
		found := *peers[at]
		if another {
			found.name, found.program = name+"="+filepath.Base(program), program
		}
		if slices.ContainsFunc(chosen, func(p *peer) bool { return p.name == found.name }) {
			return nil, fmt.Errorf("peer %s is there twice", found.name)
		}
		chosen = append(chosen, &found)
	}
	return chosen, nil
}

func peerNames(peers []*peer) string {
	var names []string
	for _, p := range peers {
		names = append(names, p.name)
	}
	return strings.Join(names, ",")
}

func finder(name string, places ...string) func() string {
	return func() string {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
		for _, path := range places {
			if _, err := os.Stat(path); err == nil {
				return path
			}
		}
		return ""
	}
}

func findCodex() string {
	for _, path := range []string{os.Getenv("CODEX_BINARY"), filepath.Join("node_modules", ".bin", "codex")} {
		if _, err := os.Stat(path); path != "" && err == nil {
			absolute, err := filepath.Abs(path)
			if err == nil {
				return absolute
			}
		}
	}
	path, err := exec.LookPath("codex")
	if err != nil {
		return ""
	}
	return path
}

// fill writes one of the embedded files, filled in, to the setting's directory.
func fill(name string, s setting) (string, error) {
	text, err := peerFiles.ReadFile("peers/" + name)
	if err != nil {
		return "", err
	}
	t, err := template.New(name).Option("missingkey=error").Parse(string(text))
	if err != nil {
		return "", err
	}
	var filled bytes.Buffer
	if err := t.Execute(&filled, s); err != nil {
		return "", err
	}
	path := filepath.Join(s.Dir, name)
	return path, os.WriteFile(path, filled.Bytes(), 0o600)
}

func caddyfile(name string) func(*peer, setting) (start, error) {
	return func(_ *peer, s setting) (start, error) {
		path, err := fill(name, s)
		how := caddyStart(path, s)
		if slices.Contains([]string{"gate.Caddyfile", "budget.Caddyfile", "rules.Caddyfile"}, name) {
			how.serverInfo = filepath.Join(s.Dir, "info.json")
		}
		return how, err
	}
}

func caddyStart(config string, s setting) start {
	return start{
		args: []string{"run", "--adapter", "caddyfile", "--config", config},
		env:  []string{"BENCH_KEY=" + s.Key, "SSL_CERT_FILE=" + s.CA},
	}
}

// shippedExample is Caddyfile.example with another port and upstream. It has
// TLS settings, which would make Caddy speak TLS to a plain upstream.
func shippedExample(_ *peer, s setting) (start, error) {
	root, err := caddybuild.Root()
	if err != nil {
		return start{}, err
	}
	shipped, err := os.ReadFile(filepath.Join(root, "Caddyfile.example"))
	if err != nil {
		return start{}, err
	}
	text := string(shipped)
	for _, change := range []struct{ old, new string }{
		{"https://api.openai.com", s.Upstream.URL()},
		{"http://:18080 {", fmt.Sprintf("http://:%d {", s.Port)},
	} {
		if !strings.Contains(text, change.old) {
			return start{}, fmt.Errorf("the shipped Caddyfile.example has no %q any more; mend shippedExample", change.old)
		}
		text = strings.ReplaceAll(text, change.old, change.new)
	}
	if !s.Upstream.TLS {
		text = regexp.MustCompile(`(?m)^\s*tls_timeout .*\n`).ReplaceAllString(text, "")
	}
	path := filepath.Join(s.Dir, "example.Caddyfile")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return start{}, err
	}
	how := caddyStart(path, s)
	how.env = append(how.env, "OPENAI_API_KEY="+s.Key, "XDG_RUNTIME_DIR="+s.Dir)
	how.serverInfo = filepath.Join(s.Dir, "responses-proxy-gate.json")
	return how, nil
}

func ourCommand(_ *peer, s setting) (start, error) {
	how := commandLike("responses-proxy", s)
	if s.WebSocket {
		how.args = append(how.args, "--websocket")
	}
	return how, nil
}

func original(_ *peer, s setting) (start, error) { return commandLike("responses-api-proxy", s), nil }

func commandLike(command string, s setting) start {
	info := filepath.Join(s.Dir, "info.json")
	return start{
		args:       []string{command, "--server-info", info, "--upstream-url", s.Upstream.URL() + "/v1/responses"},
		env:        []string{"SSL_CERT_FILE=" + s.CA, "CODEX_HOME=" + s.Dir},
		stdin:      s.Key + "\n",
		serverInfo: info,
	}
}

func nginx(_ *peer, s setting) (start, error) {
	path, err := fill("nginx.conf", s)
	return start{args: []string{"-p", s.Dir, "-e", "stderr", "-c", path}}, err
}

func haproxy(_ *peer, s setting) (start, error) {
	path, err := fill("haproxy.cfg", s)
	return start{args: []string{"-q", "-db", "-f", path}}, err
}

// info is what a server-info file tells.
type info struct {
	Port  int    `json:"port"`
	Token string `json:"auth_token"`
}

var errNotReady = errors.New("not ready")

// readInfo reads a server-info file, if it is there and whole.
func readInfo(path string) (info, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return info{}, errNotReady
	}
	var i info
	if err := json.Unmarshal(text, &i); err != nil || i.Port == 0 {
		return info{}, errNotReady
	}
	i.Token = cmp.Or(i.Token, fixedToken) // the original has none
	return i, nil
}
