//go:build unix

package fleet

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// redisServer is a Redis with a password, on a loopback port.
type redisServer struct {
	*gatetest.Process
	binary, dir, password string
	port                  int
}

// needsRedis is the path of redis-server. Without it, the test is skipped, or
// fails if CI or REQUIRE_REDIS is set.
func needsRedis(t *testing.T) string {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err == nil {
		return binary
	}
	if os.Getenv("CI") != "" || os.Getenv("REQUIRE_REDIS") != "" {
		t.Fatal(err)
	}
	t.Skip(err)
	return ""
}

func newRedis(t *testing.T) *redisServer {
	t.Helper()
	password, _ := newToken()
	r := &redisServer{binary: needsRedis(t), dir: gatetest.TempDir(t), password: password, port: gatetest.FreePort(t)}
	r.start(t)
	return r
}

// start starts it, as examples/fleet wants it: what it has acknowledged is on disk.
func (r *redisServer) start(t *testing.T) {
	t.Helper()
	config := fmt.Sprintf("bind 127.0.0.1\nport %d\ndir %s\nrequirepass %s\nappendonly yes\nappendfsync always\nmaxmemory-policy noeviction\n", r.port, r.dir, r.password)
	r.Process = gatetest.Start(t, gatetest.Launch{Program: r.binary, Dir: r.dir, Args: []string{"-"}, Stdin: strings.NewReader(config)})
	r.WaitOutput("Ready to accept connections", 1)
}

func (r *redisServer) kill(t *testing.T) {
	t.Helper()
	gatetest.Must(t, r.Cmd.Process.Kill())
	<-r.Done
}

// example starts the example of a fleet with other addresses, an interval of a
// second, and nothing else changed.
func (r *redisServer) example(t *testing.T, up *gatetest.Upstream) *gatetest.Gate {
	t.Helper()
	example, err := os.ReadFile(filepath.Join(gatetest.RepoRoot, "examples", "fleet", "Caddyfile"))
	gatetest.Must(t, err)
	config, port := string(example), gatetest.FreePort(t)
	for from, to := range map[string]string{
		"https://gate.internal:18443 {": fmt.Sprintf("https://gate.internal:%d {\n\tbind 127.0.0.1", port),
		"https://api.openai.com":        up.URL,
		"\t\tshared_clients\n":          "\t\tshared_clients 1s\n",
		"\t\t\ttls_timeout 10s\n":       "", // the stand-in has no TLS
	} {
		if strings.Count(config, from) != 1 {
			t.Fatalf("the example has %q %d times", from, strings.Count(config, from))
		}
		config = strings.Replace(config, from, to, 1)
	}
	dir := gatetest.TempDir(t)
	site := gatetest.Site{Dir: dir}.With(t, up)
	gatetest.WriteFile(t, site.ConfigPath(), config)
	g := &gatetest.Gate{Site: site, Up: up, HTTP: gatetest.NewClient(t), Process: gatetest.Start(t, gatetest.Launch{
		Program: gatetest.PluginBinary(t), Dir: dir, Args: []string{"run", "--config", site.ConfigPath()},
		Env: []string{
			"OPENAI_API_KEY=" + gatetest.OperatorKey, "XDG_RUNTIME_DIR=" + dir,
			fmt.Sprintf("REDIS_ADDRESS=127.0.0.1:%d", r.port), "REDIS_PASSWORD=" + r.password,
		},
	})}
	g.WaitOutput(gatetest.ReadyLog, 1)
	gatetest.Must(t, os.Symlink(filepath.Join(dir, "gate-admin.sock"), site.AdminSocket()))
	g.Addr = net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	g.HTTP.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true, ServerName: "gate.internal"}
	awaitCertificate(t, g)
	return g
}

// awaitCertificate waits until the replica has its certificate, which it gets
// after it has started.
func awaitCertificate(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		conn, err := tls.Dial("tcp", g.Addr, g.HTTP.Transport.(*http.Transport).TLSClientConfig)
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Since(began) > gatetest.Patience {
			t.Fatal(err)
		}
	}
}

// overTLS is what a request with a token gets, as the load balancer sends it.
func overTLS(t *testing.T, g *gatetest.Gate, token string) int {
	t.Helper()
	return g.Do(t, gatetest.SetHeader("Authorization", "Bearer "+token), func(r *http.Request) {
		r.URL.Scheme, r.Host = "https", "gate.internal"
	}).Status
}

func awaitOverTLS(t *testing.T, what string, g *gatetest.Gate, token string, want int) {
	t.Helper()
	for began := time.Now(); overTLS(t, g, token) != want; time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > gatetest.Patience {
			t.Fatalf("%s: the token does not get %d within %v", what, want, gatetest.Patience)
		}
	}
}

func TestReplicasShareTheirClientsThroughRedis(t *testing.T) {
	t.Parallel()
	redis := newRedis(t)
	up := gatetest.NewUpstream(t, nil)
	a, b := redis.example(t, up), redis.example(t, up)
	stays, leaves := adds(t, a, "stays"), adds(t, b, "leaves")
	for _, g := range []*gatetest.Gate{a, b} {
		awaitOverTLS(t, "a client that was added", g, stays, 200)
		awaitOverTLS(t, "a client that was added", g, leaves, 200)
	}
	does(t, a, http.MethodDelete, "leaves", "")
	if got := overTLS(t, a, leaves); got != 401 {
		t.Errorf("a client that was removed here gets %d", got)
	}
	awaitOverTLS(t, "a client that was removed elsewhere", b, leaves, 401)

	redis.kill(t)
	for _, g := range []*gatetest.Gate{a, b} {
		g.WaitOutput("those that are known pass as before", 1)
		token, digest := newToken()
		if status, answer, err := ask(adminOf(t, g), http.MethodPut, "new", `{"sha256":"`+digest+`"}`); err != nil || status != http.StatusServiceUnavailable {
			t.Errorf("adding a client without Redis: %d %s, %v", status, answer, err)
		}
		for what, want := range map[string]int{stays: 200, leaves: 401, token: 401} {
			if got := overTLS(t, g, what); got != want {
				t.Errorf("without Redis, a token gets %d, want %d", got, want)
			}
		}
	}
	redis.start(t)
	for _, g := range []*gatetest.Gate{a, b} {
		g.WaitOutput("the shared clients can be read again", 1)
	}
	awaitOverTLS(t, "a client that was added after the outage", b, adds(t, a, "next"), 200)
	awaitOverTLS(t, "one that is known from before", redis.example(t, up), stays, 200)

	for path, content := range filesIn(t, redis.dir) {
		for _, secret := range []string{stays, leaves, gatetest.OperatorKey} {
			if strings.Contains(content, secret) {
				t.Errorf("%s has a secret", path)
			}
		}
	}
	for _, g := range []*gatetest.Gate{a, b} {
		for _, secret := range []string{stays, leaves, redis.password} {
			if strings.Contains(g.Output.String(), secret) {
				t.Errorf("a log has a secret:\n%s", g.Output)
			}
		}
	}
}

// Redis on loopback is open to every user of the host if it has no password.
func TestTheExamplesReplicaDoesNotStartWithoutTheRightPassword(t *testing.T) {
	t.Parallel()
	redis := newRedis(t)
	dir := gatetest.TempDir(t)
	out := gatetest.StartRefused(t, gatetest.Launch{
		Program: gatetest.PluginBinary(t), Dir: dir, Args: []string{"run", "--config", filepath.Join(gatetest.RepoRoot, "examples", "fleet", "Caddyfile")},
		Env: []string{
			"OPENAI_API_KEY=" + gatetest.OperatorKey, "XDG_RUNTIME_DIR=" + dir,
			fmt.Sprintf("REDIS_ADDRESS=127.0.0.1:%d", redis.port), "REDIS_PASSWORD=wrong",
		},
	})
	if !strings.Contains(out, "WRONGPASS") {
		t.Errorf("Caddy says\n%s", out)
	}
}
