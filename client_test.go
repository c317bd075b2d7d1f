package responsesproxygate

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// clientToken is what a client of a loaded gate is told.
func clientToken(h *Handler, name string) string {
	for _, c := range h.policy.tokens.callers {
		if c.name == name {
			return c.told().Reveal()
		}
	}
	return ""
}

// passes reports whether a gate lets a request with this token pass, and whom
// handlers behind it take it for.
func passes(t *testing.T, h *Handler, token string) (user string, ok bool) {
	t.Helper()
	r := goodRequest()
	r.Header["Authorization"] = []string{"Bearer " + token}
	replacer := caddy.NewReplacer()
	r = caddyhttp.PrepareRequest(r, replacer, httptest.NewRecorder(), nil)
	err := h.ServeHTTP(httptest.NewRecorder(), r, caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		user, _ = replacer.GetString("http.auth.user.id")
		ok = true
		w.WriteHeader(http.StatusOK)
		return nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	return user, ok
}

func TestEachClientHasATokenAndANameOfItsOwn(t *testing.T) {
	t.Setenv("GATE_TEST_TOKEN", "0123456789abcdefghijklmnopqrstuvwxyz")
	h := newConfiguration(t).mustLoad(t, "shared", `, "token": "{env.GATE_TEST_KEY}", "client": [
		{"name": "codex"}, {"name": "ci", "token": "{env.GATE_TEST_TOKEN}"}]`)
	seen := make(map[string]bool)
	for _, name := range []string{"shared", "codex", "ci"} {
		token := clientToken(h, name)
		if user, ok := passes(t, h, token); !ok || user != name || seen[token] {
			t.Errorf("the token of %s passes: %t, as %q", name, ok, user)
		}
		seen[token] = true
	}
	if _, ok := passes(t, h, "guess"); ok {
		t.Error("a guess passes")
	}
}

func TestAGateWithClientsHasNoTokenThatNobodyWasTold(t *testing.T) {
	h := newConfiguration(t).mustLoad(t, "named-only", `, "client": [{"name": "codex"}]`)
	if n := len(h.policy.tokens.callers); n != 1 || h.policy.tokens.callers[0].name != "codex" {
		t.Errorf("it has %d callers", n)
	}
}

func TestTakingAClientOutEndsItsAccessAndNoOthers(t *testing.T) {
	running := newConfiguration(t)
	old := running.mustLoad(t, "removal", `, "client": [{"name": "leaves"}, {"name": "stays"}]`)
	leaves, stays := clientToken(old, "leaves"), clientToken(old, "stays")
	next := newConfiguration(t)
	h := next.mustLoad(t, "removal", `, "client": [{"name": "stays"}, {"name": "joins"}]`)
	if _, ok := passes(t, h, leaves); ok {
		t.Error("a client that was taken out passes")
	}
	if _, ok := passes(t, h, stays); !ok {
		t.Error("a client that stays is refused")
	}
	for _, c := range h.policy.tokens.callers {
		c.start(h.config)
	}
	session, done := old.policy.tokens.callers[0].sessions.begin(t.Context())
	other, otherDone := old.policy.tokens.callers[1].sessions.begin(t.Context())
	defer done()
	defer otherDone()
	running.discard()
	if session.Err() == nil {
		t.Error("its WebSocket goes on")
	}
	if other.Err() != nil {
		t.Error("another client's WebSocket ends")
	}
	if _, ok := passes(t, old, leaves); ok {
		t.Error("a connection from before the reload still passes")
	}
	if _, ok := passes(t, old, stays); !ok {
		t.Error("a request under way is refused")
	}
	again := newConfiguration(t).mustLoad(t, "removal", `, "client": [{"name": "leaves"}]`)
	if clientToken(again, "leaves") == leaves {
		t.Error("a client that comes back has its former token")
	}
}

// At an exit, or when the whole gate goes, reverse_proxy ends WebSockets
// itself, with a close frame.
func TestAGateThatGoesWholeLeavesItsWebSocketsToReverseProxy(t *testing.T) {
	running := newConfiguration(t)
	h := running.mustLoad(t, "whole", `, "client": [{"name": "a"}, {"name": "b"}]`)
	for _, c := range h.policy.tokens.callers {
		c.start(h.config)
	}
	session, done := h.policy.tokens.callers[0].sessions.begin(t.Context())
	defer done()
	running.discard()
	if session.Err() != nil {
		t.Error("it ends before reverse_proxy could say goodbye")
	}
}

func TestClientsThatCouldBeMistakenForAnotherAreRefused(t *testing.T) {
	t.Setenv("GATE_TEST_TOKEN", "0123456789abcdefghijklmnopqrstuvwxyz")
	path := filepath.Join(t.TempDir(), "info.json")
	for name, c := range map[string]struct{ members, says string }{
		"without a name":            {`"client": [{}]`, `client "": use letters`},
		"with a space in the name":  {`"client": [{"name": "a b"}]`, `client "a b": use letters`},
		"of the gate's name":        {`"client": [{"name": "mistaken"}]`, "the gate's own name"},
		"named twice":               {`"client": [{"name": "a"}, {"name": "a"}]`, "client a: named twice"},
		"with one file":             {fmt.Sprintf(`"client": [{"name": "a", "server_info": {"path": %q}}, {"name": "b", "server_info": {"path": %[1]q}}]`, path), "client a has the same file"},
		"with the gate's file":      {fmt.Sprintf(`"server_info": {"path": %q}, "client": [{"name": "b", "server_info": {"path": %[1]q}}]`, path), "the gate mistaken has the same file"},
		"with one fixed token":      {`"client": [{"name": "a", "token": "{env.GATE_TEST_TOKEN}"}, {"name": "b", "token": "{env.GATE_TEST_TOKEN}"}]`, "client b: token: a has the same one"},
		"with a negative end":       {`"client": [{"name": "a", "expires": -1}]`, "client a: expires is negative"},
		"with a literal token":      {`"client": [{"name": "a", "token": "0123456789abcdefghijklmnopqrstuvwxyz"}]`, "client a: token: the secret itself is in the config"},
		"and a shutdown for nobody": {`"client": [{"name": "a"}], "shutdown_endpoint": "/shutdown"`, "shutdown_endpoint: it takes the gate's own token"},
		"rotated without a file":    {`"client": [{"name": "a"}], "rotate_every": {"interval": "1h"}`, "rotate_every: a has no server_info"},
		"rotated with fixed tokens": {`"client": [{"name": "a", "token": "{env.GATE_TEST_TOKEN}"}], "rotate_every": {"interval": "1h"}`, "fixed tokens cannot be rotated"},
		"rotated too often":         {`"client": [{"name": "a"}], "rotate_every": {"interval": "1ms"}`, "rotate once a second at most"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := newConfiguration(t).load("mistaken", ", "+c.members)
			refusedWith(t, err, c.says)
			for _, client := range []string{"", "a", "b"} {
				if n, _ := callers.References(callerID{"mistaken", client}); n != 0 {
					t.Errorf("%d references to client %q are left", n, client)
				}
			}
		})
	}
}

func TestTwoGatesOfOneNameAreRefusedWhateverTheirClients(t *testing.T) {
	c := newConfiguration(t)
	c.mustLoad(t, "twins", `, "client": [{"name": "a"}]`)
	_, err := c.load("twins", `, "client": [{"name": "b"}]`)
	refusedWith(t, err, "another gate in this config has the same name")
}

func TestAReloadMayGiveTheFileToAnotherOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	dir := t.TempDir()
	for at := dir; at != "/tmp" && at != "/"; at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	path := filepath.Join(dir, "info.json")
	state, err := openCaller(callerID{gate: "given-back"}, 1)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := closeCaller(1, state); err != nil {
			t.Error(err)
		}
	}()
	for _, owner := range []string{"65534:65534", "", "65533:65533", "65534:65534", ""} {
		file, err := infofile.New(path, owner)
		if err != nil {
			t.Fatal(err)
		}
		if former := callerAt(file.Resolved(), nil); former != nil {
			file.TakeOver(former.toldBy())
		}
		if err := file.Check(); err != nil {
			t.Fatalf("owner %q: %v", owner, err)
		}
		if err := state.claimFile(1, file); err != nil {
			t.Fatal(err)
		}
		if err := state.publish(1, publication{file: file, info: infofile.Info{Port: 1, PID: 1, BaseURL: "http://127.0.0.1/v1"}}); err != nil {
			t.Fatalf("owner %q: %v", owner, err)
		}
	}
}

// ownToken is what callers of a gate without clients are told.
func ownToken(h *Handler) string { return clientToken(h, h.Name) }

// A rotation holds its caller's state for as long as a disk takes, which may
// hang.
func TestNoRequestWaitsForARotation(t *testing.T) {
	options := map[string]string{"alone": ""}
	if runtime.GOOS != "windows" { // where there are no dumps
		options["that is dumped"] = `, "dump_dir": ` + strconv.Quote(filepath.Join(t.TempDir(), "dumps"))
	}
	for name, more := range options {
		h := newConfiguration(t).mustLoad(t, "waiting", `, "token": "{env.GATE_TEST_KEY}", "client": [{"name": "codex"}]`+more)
		token := clientToken(h, "codex")
		for _, c := range h.callers {
			c.mu.Lock()
		}
		answered := make(chan bool)
		go func() {
			_, ok := passes(t, h, token)
			answered <- ok
		}()
		select {
		case ok := <-answered:
			if !ok {
				t.Errorf("a request %s does not pass", name)
			}
		case <-time.After(10 * time.Second):
			t.Errorf("a request %s waits", name)
		}
		for _, c := range h.callers {
			c.mu.Unlock()
		}
	}
}
