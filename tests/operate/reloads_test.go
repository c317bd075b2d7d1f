//go:build unix

package operate

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// reloadable is a gate for callers of every kind.
func reloadable(t *testing.T) (*gatetest.Gate, *loadUpstream) {
	up := newLoadUpstream(t)
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
	before := resourcesOf(t, g)
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
	before.mustComeBack(t, g)
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

// resources are what a process holds.
type resources struct {
	goroutines, files int
	heap              int // bytes, after a collection
}

var (
	goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)
	heapAlloc      = regexp.MustCompile(`# HeapAlloc = (\d+)`)
)

func resourcesOf(t *testing.T, g *gatetest.Gate) resources {
	t.Helper()
	number := func(pattern *regexp.Regexp, path string) int {
		profile := g.AdminDo(t, http.MethodGet, path, "", "")
		found := pattern.FindStringSubmatch(profile.Body)
		if found == nil {
			t.Fatalf("%s: %d %.200s", path, profile.Status, profile.Body)
		}
		n, _ := strconv.Atoi(found[1])
		return n
	}
	r := resources{
		heap:       number(heapAlloc, "/debug/pprof/heap?gc=1&debug=1"),
		goroutines: number(goroutineTotal, "/debug/pprof/goroutine?debug=1"),
	}
	if runtime.GOOS == "linux" {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.PID()))
		gatetest.Must(t, err)
		r.files = len(files)
	}
	return r
}

// Some of Caddy's and net/http's goroutines, connections and buffers come and
// go; one leaked by each of a hundred reloads is far above these.
const (
	goroutineSlack = 20
	fileSlack      = 20
	heapSlack      = 16 << 20
)

// mustComeBack waits until the process holds no more than it did.
func (before resources) mustComeBack(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	var now resources
	for deadline := time.Now().Add(gatetest.Patience); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		now = resourcesOf(t, g)
		if now.goroutines <= before.goroutines+goroutineSlack && now.files <= before.files+fileSlack && now.heap <= before.heap+heapSlack {
			t.Logf("before the reloads %+v, after %+v", before, now)
			return
		}
	}
	profile := g.AdminDo(t, http.MethodGet, "/debug/pprof/goroutine?debug=1", "", "")
	t.Errorf("before the reloads the process held %+v, after them %+v\n%.8000s", before, now, profile.Body)
}
