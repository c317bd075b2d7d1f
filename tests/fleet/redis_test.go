//go:build unix

package fleet

import (
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// example starts the example of a fleet with other addresses, an interval of a
// second, and nothing else changed.
func example(t *testing.T, r *gatetest.Redis, up *gatetest.Upstream) *gatetest.Gate {
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
			fmt.Sprintf("REDIS_ADDRESS=127.0.0.1:%d", r.Port), "REDIS_PASSWORD=" + r.Password,
		},
	})}
	g.WaitOutput(gatetest.ReadyLog, 1)
	gatetest.Must(t, os.Symlink(filepath.Join(dir, "gate-admin.sock"), site.AdminSocket()))
	g.Addr = net.JoinHostPort("127.0.0.1", fmt.Sprint(port))
	g.HTTP.Transport.(*http.Transport).TLSClientConfig = &tls.Config{InsecureSkipVerify: true, ServerName: "gate.internal"}
	gatetest.AwaitCertificate(t, g.Addr, g.HTTP.Transport.(*http.Transport).TLSClientConfig)
	return g
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
	gatetest.Until(t, fmt.Sprintf("%d with a token: %s", want, what), func() bool { return overTLS(t, g, token) == want })
}

func TestReplicasShareTheirClientsThroughRedis(t *testing.T) {
	t.Parallel()
	redis := gatetest.NewRedis(t)
	up := gatetest.NewUpstream(t, nil)
	a, b := example(t, redis, up), example(t, redis, up)
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

	redis.Kill()
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
	redis.Start(t)
	for _, g := range []*gatetest.Gate{a, b} {
		g.WaitOutput("the shared clients can be read again", 1)
	}
	awaitOverTLS(t, "a client that was added after the outage", b, adds(t, a, "next"), 200)
	awaitOverTLS(t, "one that is known from before", example(t, redis, up), stays, 200)

	for path, content := range filesIn(t, redis.Dir) {
		for _, secret := range []string{stays, leaves, gatetest.OperatorKey} {
			if strings.Contains(content, secret) {
				t.Errorf("%s has a secret", path)
			}
		}
	}
	for _, g := range []*gatetest.Gate{a, b} {
		for _, secret := range []string{stays, leaves, redis.Password} {
			if strings.Contains(g.Output.String(), secret) {
				t.Errorf("a log has a secret:\n%s", g.Output)
			}
		}
	}
}

// Redis on loopback is open to every user of the host if it has no password.
func TestTheExamplesReplicaDoesNotStartWithoutTheRightPassword(t *testing.T) {
	t.Parallel()
	redis := gatetest.NewRedis(t)
	dir := gatetest.TempDir(t)
	out := gatetest.StartRefused(t, gatetest.Launch{
		Program: gatetest.PluginBinary(t), Dir: dir, Args: []string{"run", "--config", filepath.Join(gatetest.RepoRoot, "examples", "fleet", "Caddyfile")},
		Env: []string{
			"OPENAI_API_KEY=" + gatetest.OperatorKey, "XDG_RUNTIME_DIR=" + dir,
			fmt.Sprintf("REDIS_ADDRESS=127.0.0.1:%d", redis.Port), "REDIS_PASSWORD=wrong",
		},
	})
	if !strings.Contains(out, "WRONGPASS") {
		t.Errorf("Caddy says\n%s", out)
	}
}
