package responsesproxygate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// configuration is a Caddy config in which gates are loaded one by one, as
// the HTTP app does. Two of them overlap as in a reload.
type configuration struct {
	ctx     caddy.Context
	server  *caddyhttp.Server
	discard context.CancelFunc // what Caddy does with a config that is replaced
}

func newConfiguration(t *testing.T) *configuration {
	t.Helper()
	return configurationOf(t, &caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
}

func configurationOf(t *testing.T, config *caddy.Config) *configuration {
	t.Helper()
	t.Setenv("GATE_TEST_KEY", testKey)
	ctx, err := caddy.ProvisionContext(config)
	if err != nil {
		t.Fatal(err)
	}
	c := &configuration{server: &caddyhttp.Server{Listen: []string{"127.0.0.1:0"}}}
	ctx = ctx.WithValue(caddyhttp.ServerCtxKey, c.server)
	c.ctx, c.discard = caddy.NewContext(ctx)
	t.Cleanup(c.discard)
	return c
}

func (c *configuration) load(name, members string) (*Handler, error) {
	raw := fmt.Sprintf(`{"name": %q, "upstream_bearer": "{env.GATE_TEST_KEY}"%s}`, name, members)
	c.route(name)
	module, err := c.ctx.LoadModuleByID("http.handlers.responses_proxy_gate", json.RawMessage(raw))
	h, _ := module.(*Handler)
	return h, err
}

// route puts a gate of this name before a reverse_proxy.
func (c *configuration) route(name string) {
	c.server.Routes = caddyhttp.RouteList{{HandlersRaw: []json.RawMessage{
		rawJSON(object{"handler": "responses_proxy_gate", "name": name}), rawJSON(object{"handler": "reverse_proxy"}),
	}}}
}

func (c *configuration) mustLoad(t *testing.T, name, members string) *Handler {
	t.Helper()
	h, err := c.load(name, members)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// used says how many configs must hold the state of a gate.
func used(t *testing.T, name string, want int) {
	t.Helper()
	if got, _ := callers.References(callerID{gate: name}); got != want {
		t.Errorf("%d references to %s, want %d", got, name, want)
	}
}

func TestDefaultsAreTheStrictOnes(t *testing.T) {
	h := newConfiguration(t).mustLoad(t, "", "")
	if h.Name != "default" || h.UpstreamHeader != "Authorization" || fmt.Sprint(h.AllowRoute) != "[{POST /v1/responses false false false}]" {
		t.Errorf("name %s, header %s, routes %v", h.Name, h.UpstreamHeader, h.AllowRoute)
	}
	if len(h.policy.origins) != 0 || len(h.policy.hosts) != 0 || h.policy.shutdownPath != "" {
		t.Errorf("the policy is %+v", h.policy)
	}
	for name, c := range map[string]struct {
		change func(*http.Request)
		want   int
	}{
		"a good request":     {func(r *http.Request) { r.Header.Set("X-Proxy-Token", ownToken(h)) }, http.StatusOK},
		"a token of another": {func(*http.Request) {}, http.StatusUnauthorized},
		"a shutdown": {func(r *http.Request) {
			r.RequestURI, r.URL.Path = "/shutdown", "/shutdown"
			r.Header.Set("X-Proxy-Token", ownToken(h))
		}, http.StatusForbidden},
	} {
		r := goodRequest()
		c.change(r)
		w := httptest.NewRecorder()
		if err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(answerNothing)); err != nil || w.Code != c.want {
			t.Errorf("%s: %d, %v", name, w.Code, err)
		}
	}
}

func TestAReloadKeepsTheToken(t *testing.T) {
	running := newConfiguration(t)
	first := running.mustLoad(t, "reloaded", "")
	for range 3 {
		next := newConfiguration(t)
		second := next.mustLoad(t, "reloaded", `, "allow_origin": ["https://app.example"]`)
		used(t, "reloaded", 2)
		if ownToken(first) != ownToken(second) {
			t.Error("the token changes")
		}
		running.discard()
		used(t, "reloaded", 1)
		running = next
	}
	running.discard()
	used(t, "reloaded", 0)
	if again := newConfiguration(t).mustLoad(t, "reloaded", ""); ownToken(again) == ownToken(first) {
		t.Error("a launch after the last one ended has the former token")
	}
}

func TestAReloadMayFixAndFreeTheToken(t *testing.T) {
	running := newConfiguration(t)
	generated := running.mustLoad(t, "fixed", "")
	next := newConfiguration(t)
	fixed := next.mustLoad(t, "fixed", `, "token": "{env.GATE_TEST_KEY}"`)
	if ownToken(fixed) != testKey {
		t.Error("the fixed token is not used")
	}
	running.discard()
	if freed := newConfiguration(t).mustLoad(t, "fixed", ""); ownToken(freed) != ownToken(generated) {
		t.Error("the launch's token changes within the launch")
	}
}

func TestTwoGatesOfOneNameAreRefused(t *testing.T) {
	c := newConfiguration(t)
	first := c.mustLoad(t, "twin", "")
	for range 3 {
		_, err := c.load("twin", "")
		refusedWith(t, err, "another gate in this config has the same name")
		used(t, "twin", 1)
	}
	if other := c.mustLoad(t, "sibling", ""); ownToken(other) == ownToken(first) {
		t.Error("two gates have one token")
	}
	c.discard()
	used(t, "twin", 0)
	used(t, "sibling", 0)
	configAround{gates: `{"handler": "responses_proxy_gate", "upstream_bearer": "{env.GATE_TEST_KEY}"},
		{"handler": "responses_proxy_gate", "upstream_bearer": "{env.GATE_TEST_KEY}"}`}.checked(t, "gate default: another gate in this config has the same name")
	configAround{gates: `{"handler": "responses_proxy_gate", "upstream_bearer": "{env.GATE_TEST_KEY}"},
		{"handler": "responses_proxy_gate", "name": "other", "upstream_bearer": "{env.GATE_TEST_KEY}"}`}.checked(t, "")
	used(t, "other", 0)
}

func TestAFailedReloadDisturbsNothing(t *testing.T) {
	running := newConfiguration(t)
	first := running.mustLoad(t, "steady", "")
	for name, members := range map[string]string{
		"before anything is taken": `, "insecure_allow": ["everything"]`,
		"for want of a key":        `, "upstream_bearer": "{env.GATE_TEST_NOT_SET}"`,
		"for a literal token":      `, "token": "0123456789abcdefghijklmnopqrstuvwxyz"`,
		"for a short token":        `, "token": "{env.GATE_TEST_SHORT}"`,
		"for its path":             `, "server_info": {"path": "{env.GATE_TEST_NOT_SET}"}`,
		"for its file":             fmt.Sprintf(`, "server_info": {"path": %q}`, t.TempDir()),
		"for an origin":            `, "allow_origin": ["*"]`,
		"for a route":              `, "allow_route": [{"method": "get", "path": "/"}]`,
		"for a header":             `, "upstream_header": "Host"`,
		"for an unknown option":    `, "allow_everything": true`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("GATE_TEST_SHORT", "short")
			next := newConfiguration(t)
			if _, err := next.load("steady", members); err == nil {
				t.Fatal("accepted")
			} else if leaks(err.Error()) {
				t.Errorf("the error gives the key away: %v", err)
			}
			used(t, "steady", 1)
			next.discard()
			used(t, "steady", 1)
		})
	}
	if next := newConfiguration(t).mustLoad(t, "steady", ""); ownToken(next) != ownToken(first) {
		t.Error("the token changes")
	}
	used(t, "steady", 2)
}

func TestTwoGatesDoNotOverwriteEachOthersServerInfo(t *testing.T) {
	info := fmt.Sprintf(`, "server_info": {"path": %q}`, filepath.Join(t.TempDir(), "info.json"))
	running, next := newConfiguration(t), newConfiguration(t)
	running.mustLoad(t, "one", info)
	_, err := running.load("two", info)
	refusedWith(t, err, "the gate one has the same file")
	used(t, "two", 0)
	next.mustLoad(t, "two", info) // a reload may give the file to another gate
}

func TestCleaningUpTwiceTakesNothingFromOthers(t *testing.T) {
	first := newConfiguration(t).mustLoad(t, "cleaned", "")
	newConfiguration(t).mustLoad(t, "cleaned", "")
	for range 3 {
		if err := first.Cleanup(); err != nil {
			t.Error(err)
		}
		used(t, "cleaned", 1)
	}
	if err := new(Handler).Cleanup(); err != nil {
		t.Errorf("a gate that was never provisioned: %v", err)
	}
}

func TestManyReloadsAtOnceLeaveNothingBehind(t *testing.T) {
	var configs []*configuration
	for range 16 {
		configs = append(configs, newConfiguration(t))
	}
	var wait sync.WaitGroup
	for _, c := range configs {
		wait.Go(func() {
			if _, err := c.load("busy", ""); err != nil {
				t.Error(err)
			}
			c.discard()
		})
	}
	wait.Wait()
	used(t, "busy", 0)
}

func TestValidatingLeavesNothingOnDisk(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "new", "info.json")
	configAround{gate: fmt.Sprintf(`, "server_info": {"path": %q}`, path)}.checked(t, "")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestTheKeyMayComeFromAFileOfItsOwn(t *testing.T) {
	t.Setenv("GATE_TEST_FILE", keyFile(t, testKey+"\n", 0o600))
	t.Setenv("GATE_TEST_EMPTY_FILE", keyFile(t, "", 0o600))
	const file = `, "upstream_bearer": "", "upstream_bearer_file": "%s"`
	h := newConfiguration(t).mustLoad(t, "filed", fmt.Sprintf(file, "{env.GATE_TEST_FILE}"))
	if keyOf(h.credential) != testKey || h.credential.file == nil {
		t.Error("the key in the file is not used, or not followed")
	}
	for path, says := range map[string]string{
		"{env.GATE_TEST_EMPTY_FILE}": "it is empty", "{env.GATE_TEST_NOT_SET}": "upstream_bearer_file", "/nowhere/key": "/nowhere/key",
	} {
		_, err := newConfiguration(t).load("filed", fmt.Sprintf(file, path))
		refusedWith(t, err, says)
		used(t, "filed", 1)
	}
}

// A launch under Caddy: the token is printed once, whatever is reloaded, and
// the server-info comes with the start and goes with the end.
func TestALaunchUnderCaddy(t *testing.T) {
	t.Setenv("GATE_TEST_KEY", testKey)
	path := filepath.Join(t.TempDir(), "info.json")
	load := func(members string) {
		t.Helper()
		config := fmt.Sprintf(`{"admin": {"disabled": true, "config": {"persist": false}}, "apps": {"http": {"servers": {"srv": {
			"listen": ["127.0.0.1:0"], "automatic_https": {"disable": true}, "routes": [{"handle": [
			{"handler": "responses_proxy_gate", "name": "launched", "upstream_bearer": "{env.GATE_TEST_KEY}"%s}, {"handler": "reverse_proxy"}]}]}}}}}`, members)
		if err := caddy.Load([]byte(config), true); err != nil {
			t.Fatal(err)
		}
	}
	stderr := os.Stderr
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	os.Stderr = write
	defer func() { os.Stderr = stderr }()
	printed := make(chan string)
	go func() {
		var out bytes.Buffer
		_, _ = out.ReadFrom(read)
		printed <- out.String()
	}()
	defer func() { _ = caddy.Stop() }()
	load("")
	load("")
	load(`, "allow_origin": ["https://app.example"]`)
	value, _ := callers.LoadOrStore(callerID{gate: "launched"}, nil)
	token := value.(*caller).token.Now().Reveal()
	if _, err := callers.Delete(callerID{gate: "launched"}); err != nil { // what LoadOrStore took
		t.Fatal(err)
	}
	load(fmt.Sprintf(`, "server_info": {"path": %q}`, path))
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Port      int    `json:"port"`
		PID       int    `json:"pid"`
		AuthToken string `json:"auth_token"`
		BaseURL   string `json:"base_url"`
	}
	if err := json.Unmarshal(content, &info); err != nil || info.AuthToken != token || info.PID != os.Getpid() ||
		info.BaseURL != fmt.Sprintf("http://127.0.0.1:%d/v1", info.Port) || info.Port == 0 {
		t.Errorf("the server-info is %s, %v", content, err)
	}
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, info.BaseURL+"/responses", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/json"}, "Authorization": {"Bearer " + info.AuthToken}}
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if code := answer.Header.Get(codeHeaderName); code != "upstream_unavailable" { // (reverse_proxy has no upstream here)
		t.Errorf("with the token of the server-info: %d %s", answer.StatusCode, code)
	}
	http.DefaultClient.CloseIdleConnections()
	load("")
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("a server-info that is no longer configured stays: %v", err)
	}
	load(fmt.Sprintf(`, "server_info": {"path": %q}`, path))
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Errorf("the server-info outlives the launch: %v", err)
	}
	used(t, "launched", 0)
	_ = write.Close()
	if out := <-printed; strings.Count(out, token) != 1 || !strings.Contains(out, "responses_proxy_gate launched: the token of this launch is "+token+"\n") || leaks(out) {
		t.Errorf("printed to stderr: %s", out)
	}
}

func TestADumpDirectoryThatIsRefusedIsNamedByItsOption(t *testing.T) {
	file := filepath.Join(t.TempDir(), "a-file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newConfiguration(t).load("default", `, "dump_dir": `+strconv.Quote(file)); err == nil || !strings.Contains(err.Error(), "dump_dir: ") {
		t.Errorf("the error is %v", err)
	}
}
