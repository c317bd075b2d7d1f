//go:build unix

package codex

import (
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// gracePeriod is how long the command lets requests go on after a stop.
const gracePeriod = 5 * time.Second

// ends are the ways to end the proxy, which must have --http-shutdown.
var ends = map[string]func(*testing.T, *proxy){
	"SIGTERM":                        func(t *testing.T, p *proxy) { p.signal(t, syscall.SIGTERM) },
	"SIGHUP, as its terminal closes": func(t *testing.T, p *proxy) { p.signal(t, syscall.SIGHUP) },
	"SIGINT":                         func(t *testing.T, p *proxy) { p.signal(t, syscall.SIGINT) },
	"the shutdown verb": func(t *testing.T, p *proxy) {
		if got := verb(t, "shutdown", p.infoPath); got.code != 0 {
			t.Errorf("shutdown: exit code %d, want 0; stderr: %s", got.code, got.stderr)
		}
	},
	"GET /shutdown, as the original has it": func(t *testing.T, p *proxy) {
		if got := (call{method: http.MethodGet, target: "/shutdown"}).exchange(t, p, patience); got.status != http.StatusOK {
			t.Errorf("GET /shutdown: status %d, want 200", got.status)
		}
	},
}

// wantEnd checks that the proxy is gone as it should be.
func wantEnd(t *testing.T, p *proxy) {
	t.Helper()
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if !gatetest.Missing(p.infoPath) {
		t.Error("the server-info file is still there")
	}
}

func TestTheProxyEndsWithCode0AndTakesItsFileAway(t *testing.T) {
	// A signal that is ignored here, as under nohup, would be in the proxy, too.
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, syscall.SIGHUP)
	defer signal.Stop(heard)
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			p := startOurs(t, newUpstream(t).responsesURL(), "--http-shutdown")
			end(t, p)
			wantEnd(t, p)
		})
	}
}

func TestAProxyUnderNohupOutlivesItsTerminal(t *testing.T) {
	upstream := newUpstream(t)
	info := filepath.Join(t.TempDir(), "info.json")
	p := &proxy{process: start(t, command(t, t.TempDir(), "sh", "-c", `trap "" HUP; exec "$0" "$@"`, gatetest.CaddyBinary,
		"responses-proxy", "--server-info", info, "--upstream-url", upstream.responsesURL())), infoPath: info}
	p.giveKey(t)
	p.await(t, "responses-proxy listening on 127.0.0.1:")
	p.readInfo(t)
	p.signal(t, syscall.SIGHUP)
	if got := turn().exchange(t, p, patience); got.status != http.StatusOK {
		t.Errorf("afterwards, a turn gets %d", got.status)
	}
	p.signal(t, syscall.SIGTERM)
	wantEnd(t, p)
}

func TestAHungRequestDelaysTheEndByNoMoreThanTheGracePeriod(t *testing.T) {
	hangs := map[string]func(*testing.T, *proxy){
		"a stream": func(t *testing.T, p *proxy) {
			if _, err := post(t, p); err != nil {
				t.Fatal(err)
			}
		},
		"a WebSocket": func(t *testing.T, p *proxy) {
			header := http.Header{"X-Proxy-Token": {p.token}}
			conn, _, err := websocket.Dial(t.Context(), p.baseURL()+"/responses", &websocket.DialOptions{HTTPHeader: header})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = conn.CloseNow() })
		},
		"a caller who sends no body": func(t *testing.T, p *proxy) {
			c := turn()
			c.method = http.MethodPost
			halfSent(t, p, c)
		},
	}
	for name, hang := range hangs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			upstream := newUpstream(t)
			upstream.forget(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					upstream.serveWebSocket(w, r, new(seen))
					return
				}
				w.Header().Set("Content-Type", "text/event-stream")
				_ = http.NewResponseController(w).Flush()
				<-r.Context().Done()
			})
			p := startOurs(t, upstream.responsesURL(), "--websocket")
			hang(t, p)
			begin := time.Now()
			p.signal(t, syscall.SIGTERM)
			wantEnd(t, p)
			if took := time.Since(begin); took > 2*gracePeriod { // twice, for a busy machine
				t.Errorf("the proxy took %v to end, want about %v at most", took, gracePeriod)
			} else {
				t.Logf("the proxy took %v to end", took)
			}
		})
	}
}

func TestShutdownNeedsTheToken(t *testing.T) {
	p := startOurs(t, newUpstream(t).responsesURL(), "--http-shutdown")
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		got := call{method: method, target: "/shutdown", noToken: true}.exchange(t, p, patience)
		if got.status != http.StatusUnauthorized {
			t.Errorf("%s /shutdown without the token: status %d, want 401", method, got.status)
		}
	}
	if got := verb(t, "status", p.infoPath); got.code != 0 {
		t.Errorf("the proxy is gone: status exits with %d: %s", got.code, got.stderr)
	}
}

func TestTheOriginalEndsForAnybodyWhoAsks(t *testing.T) {
	p := startOriginal(t, newUpstream(t).responsesURL(), "--http-shutdown")
	if got := (call{method: http.MethodGet, target: "/shutdown"}).exchange(t, p, patience); got.status != http.StatusOK {
		t.Errorf("GET /shutdown: status %d, want 200", got.status)
	}
	if code := p.Wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
	if gatetest.Missing(p.infoPath) {
		t.Error("the original takes its server-info file away now: say so in docs/compatibility.md")
	}
}

func TestTheOriginalIsKilledByTheSignalThatEndsOurs(t *testing.T) {
	p := startOriginal(t, newUpstream(t).responsesURL())
	p.signal(t, syscall.SIGTERM)
	if code := p.Wait(); code != -1 {
		t.Errorf("exit code %d, want none", code)
	}
	if gatetest.Missing(p.infoPath) {
		t.Error("the original takes its server-info file away now: say so in docs/compatibility.md")
	}
}

func TestOnlyOursKeepsOtherUsersOutOfTheServerInfo(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	for name, test := range map[string]struct {
		p    *proxy
		mode os.FileMode
	}{
		"ours":         {startOurs(t, upstream.responsesURL()), 0o600},
		"the original": {startOriginal(t, upstream.responsesURL()), 0o644},
	} {
		info, err := os.Stat(test.p.infoPath)
		if err != nil {
			t.Fatal(err)
		}
		if got := info.Mode().Perm(); got != test.mode {
			t.Errorf("%s: the server-info file has mode %04o, want %04o", name, got, test.mode)
		}
	}
}

func TestAPortThatIsTakenIsRefused(t *testing.T) {
	upstream := newUpstream(t)
	first := startOurs(t, upstream.responsesURL())
	p := start(t, command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy", "--port", portOf(first)))
	if code := p.Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
}
