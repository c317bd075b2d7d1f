package faults

import (
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
	"golang.org/x/sys/unix"
)

// silentUpstream is an upstream behind TLS whose connections can die without a
// word, as they do when a machine has slept or a router has forgotten them.
type silentUpstream struct {
	*gatetest.Upstream
	certificate string // of the authority, as PEM

	mu    sync.Mutex
	conns []*net.TCPConn
}

// Accept implements net.Listener.
func (l silentListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.up.mu.Lock()
		l.up.conns = append(l.up.conns, conn.(*net.TCPConn))
		l.up.mu.Unlock()
	}
	return conn, err
}

type silentListener struct {
	net.Listener
	up *silentUpstream
}

func newSilentUpstream(t *testing.T, http2 bool) *silentUpstream {
	t.Helper()
	up := new(silentUpstream)
	// Without keep-alive of its own: a dead peer sends nothing.
	config := net.ListenConfig{KeepAlive: -1}
	listener, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	gatetest.Must(t, err)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if want := map[bool]int{false: 1, true: 2}[http2]; r.ProtoMajor != want {
			t.Errorf("the upstream is asked over %s", r.Proto)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		gatetest.AnswerJSON(w, r)
	}))
	_ = server.Listener.Close()
	server.Listener, server.EnableHTTP2 = silentListener{listener, up}, http2
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	up.Upstream = &gatetest.Upstream{Server: server}
	up.certificate = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	return up
}

// fallSilent has the kernel drop every packet that arrives on the connections
// that are open now: no data is acknowledged, no probe answered, nothing reset.
func (up *silentUpstream) fallSilent(t *testing.T) {
	t.Helper()
	const returnConstant = 0x06 // BPF_RET | BPF_K: how much of a packet to keep
	drop := unix.SockFilter{Code: returnConstant, K: 0}
	up.mu.Lock()
	defer up.mu.Unlock()
	if len(up.conns) == 0 {
		t.Fatal("there is no connection yet")
	}
	for _, conn := range up.conns {
		raw, err := conn.SyscallConn()
		gatetest.Must(t, err)
		gatetest.Must(t, raw.Control(func(fd uintptr) {
			gatetest.Must(t, unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop}))
		}))
	}
	up.conns = nil
}

// atLastAnswered is the time within which the gate works again. It promises 30
// seconds and needs 25; a busy machine may add some.
const atLastAnswered = 40 * time.Second

// TestADeadUpstreamConnectionIsLeftWithinHalfAMinute takes that long.
func TestADeadUpstreamConnectionIsLeftWithinHalfAMinute(t *testing.T) {
	t.Parallel()
	for protocol, http2 := range map[string]bool{"HTTP/1.1": false, "HTTP/2": true} {
		for name, start := range map[string]func(*testing.T, *silentUpstream) *gatetest.Gate{
			"the command": startCommandTrusting, "Caddyfile.example": startExampleTrusting,
		} {
			t.Run(name+" over "+protocol, func(t *testing.T) {
				t.Parallel()
				up := newSilentUpstream(t, http2)
				g := start(t, up)
				g.Works(t)
				up.fallSilent(t)
				began := time.Now()
				for n := 1; ; n++ {
					status, err := tried(t, g.HTTP, g.Post(), atLastAnswered-time.Since(began))
					if err != nil {
						t.Fatalf("no answer to request %d after %v: %v", n, time.Since(began), err)
					}
					if status == http.StatusOK {
						t.Logf("request %d is answered after %v", n, time.Since(began))
						if n == 1 && !http2 {
							return // it went over a connection of its own
						}
						break
					}
				}
				g.Works(t)
			})
		}
		t.Run("control: stock Caddy hangs over "+protocol, func(t *testing.T) {
			t.Parallel()
			up := newSilentUpstream(t, http2)
			dir, port := gatetest.TempDir(t), gatetest.FreePort(t)
			config := filepath.Join(dir, "Caddyfile")
			gatetest.WriteFile(t, config, fmt.Sprintf("{\n\tadmin off\n}\nhttp://127.0.0.1:%d {\n\treverse_proxy %s\n}\n", port, up.URL))
			p := gatetest.Start(t, gatetest.Launch{
				Dir: dir, Env: []string{trusting(t, dir, up)},
				Args: []string{"run", "--adapter", "caddyfile", "--config", config},
			})
			p.WaitOutput(gatetest.ReadyLog, 1)
			post := func() *http.Request {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v1/responses", port), strings.NewReader("{}"))
				gatetest.Must(t, err)
				return r
			}
			client := gatetest.NewClient(t)
			if status, err := tried(t, client, post(), gatetest.Patience); status != http.StatusOK {
				t.Fatalf("it does not even work: %d, %v", status, err)
			}
			up.fallSilent(t)
			if status, err := tried(t, client, post(), atLastAnswered); err == nil {
				t.Errorf("it answers %d: this test shows nothing", status)
			}
		})
	}
}

// tried sends a request and waits for the whole answer, but no longer than this.
func tried(t *testing.T, client *http.Client, r *http.Request, wait time.Duration) (status int, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), wait)
	defer cancel()
	answer, err := client.Do(r.WithContext(ctx))
	if err != nil {
		return 0, err
	}
	defer answer.Body.Close()
	_, err = io.Copy(io.Discard, answer.Body)
	return answer.StatusCode, err
}

// trusting is the variable that has a process trust the upstream's certificate.
func trusting(t *testing.T, dir string, up *silentUpstream) string {
	t.Helper()
	path := filepath.Join(dir, "upstream.pem")
	gatetest.WriteFile(t, path, up.certificate)
	return "SSL_CERT_FILE=" + path
}

func startCommandTrusting(t *testing.T, up *silentUpstream) *gatetest.Gate {
	t.Helper()
	return gatetest.StartCommand(t, up.Upstream, gatetest.Site{}, gatetest.Launch{Env: []string{trusting(t, gatetest.TempDir(t), up)}})
}

func startExampleTrusting(t *testing.T, up *silentUpstream) *gatetest.Gate {
	t.Helper()
	dir := gatetest.TempDir(t)
	example := gatetest.ReadFile(t, filepath.Join(gatetest.RepoRoot, "Caddyfile.example"))
	example = strings.ReplaceAll(example, "https://api.openai.com", up.URL)
	example = strings.ReplaceAll(example, ":18080 {", fmt.Sprintf(":%d {", gatetest.FreePort(t)))
	config := filepath.Join(dir, "Caddyfile")
	gatetest.WriteFile(t, config, example)
	g := &gatetest.Gate{
		Site: gatetest.Site{Dir: dir, Info: filepath.Join(dir, "responses-proxy-gate.json")}, Up: up.Upstream, HTTP: gatetest.NewClient(t),
		Process: gatetest.Start(t, gatetest.Launch{
			Dir: dir, Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey, "XDG_RUNTIME_DIR=" + dir, trusting(t, dir, up)},
			Args: []string{"run", "--adapter", "caddyfile", "--config", config},
		}),
	}
	g.WaitOutput(gatetest.ReadyLog, 1)
	g.ReadInfo()
	return g
}
