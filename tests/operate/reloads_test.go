//go:build unix

package operate

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// reloadable is a gate for callers of every kind.
func reloadable(t *testing.T) (*gatetest.Gate, *gatetest.LoadUpstream) {
	up := gatetest.NewLoadUpstream(t)
	g := gatetest.StartReloadable(t, nil, gatetest.Site{
		To:   up.URL,
		Gate: "allow_route POST /v1/responses\nallow_route GET /v1/responses\nallow_origin https://app0.example",
		// Caddy keeps a former config's idle upstream connections for as long
		// as keepalive says, two minutes by default.
		Proxy: "stream_close_delay 1h\ntransport http {\nkeepalive 1s\n}",
	})
	return g, up
}

// variant is the gate's config with another harmless option in it.
func variant(g *gatetest.Gate, i int) gatetest.Site {
	s := g.Site
	s.Gate = strings.Replace(s.Gate, "app0", fmt.Sprint("app", i), 1)
	return s
}

// inForce fails the test unless the config of a variant runs.
func inForce(t *testing.T, g *gatetest.Gate, i int) {
	t.Helper()
	origin := fmt.Sprintf("https://app%d.example", i)
	if got := g.Do(t, gatetest.SetHeader("Origin", origin)); got.Status != 200 {
		t.Fatalf("reload %d is not in force: %d %s", i, got.Status, got.Body)
	}
}

// originPath is where the gate's first allow_origin stands in the config.
const originPath = "/config/apps/http/servers/srv0/routes/0/handle/0/allow_origin/0"

func TestAHundredReloadsFailNoRequestAndCutNoStream(t *testing.T) {
	t.Parallel()
	g, up := reloadable(t)
	g.MustReload(t, variant(g, 0)) // what Caddy makes once is there
	before := gatetest.ResourcesOf(t, g)
	file := gatetest.ReadFile(t, g.Site.InfoPath())
	load := startLoad(t, g, up, 64, 50, 50)
	g.Reloaded.Store(true)
	pace := time.NewTicker(100 * time.Millisecond)
	defer pace.Stop()
	for i := 1; i <= 100 && !t.Failed(); i++ {
		switch {
		case i%20 == 0:
			gatetest.WriteFile(t, g.Site.ConfigPath(), variant(g, i).Caddyfile())
			out, code := gatetest.Run(t, gatetest.Launch{
				Dir: g.Site.Dir, Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey},
				Args: []string{"reload", "--config", g.Site.ConfigPath(), "--adapter", "caddyfile"},
			})
			if code != 0 {
				t.Fatalf("caddy reload: %d\n%s", code, out)
			}
		case i%2 == 0:
			if got := g.AdminDo(t, "PATCH", originPath, "application/json", fmt.Sprintf("%q", fmt.Sprintf("https://app%d.example", i))); got.Status != 200 {
				t.Fatalf("PATCH: %d %s", got.Status, got.Body)
			}
		default:
			if got := g.Reload(t, variant(g, i)); got.Status != 200 {
				t.Fatalf("load: %d %s", got.Status, got.Body)
			}
		}
		inForce(t, g, i)
		<-pace.C
	}
	load.end()
	if gatetest.ReadFile(t, g.Site.InfoPath()) != file {
		t.Error("the reloads rewrote server-info, in which nothing changed")
	}
	before.MustComeBack(t, g)
}

func TestReloadsBySignalFailNoRequestAndCutNoStream(t *testing.T) {
	t.Parallel()
	g, up := reloadable(t)
	load := startLoad(t, g, up, 8, 8, 8)
	g.Reloaded.Store(true)
	for i := 1; i <= 10 && !t.Failed(); i++ {
		gatetest.WriteFile(t, g.Site.ConfigPath(), variant(g, i).Caddyfile())
		g.Signal(syscall.SIGUSR1)
		g.WaitOutput("successfully reloaded config from file", i)
		inForce(t, g, i)
	}
	load.end()
}
