//go:build unix

package observe

import (
	"fmt"
	"net/http"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const prefix = "caddy_responses_proxy_gate_"

// counts are the gate's series in Caddy's text format, without their prefix.
func counts(t *testing.T, text string) map[string]float64 {
	t.Helper()
	found := make(map[string]float64)
	for line := range strings.Lines(text) {
		series, ours := strings.CutPrefix(strings.TrimSpace(line), prefix)
		if !ours {
			continue
		}
		i := strings.LastIndexByte(series, ' ')
		value, err := strconv.ParseFloat(series[i+1:], 64)
		if err != nil {
			t.Fatalf("%v in %s", err, line)
		}
		found[series[:i]] = value
	}
	return found
}

// scrape reads the metrics at the admin endpoint.
func scrape(t *testing.T, g *gatetest.Gate) map[string]float64 {
	t.Helper()
	got := g.AdminDo(t, http.MethodGet, "/metrics", "", "")
	if got.Status != http.StatusOK {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	for name, secret := range map[string]string{"token": g.Token, "key": gatetest.OperatorKey, "path": "/v1/"} {
		if secret != "" && strings.Contains(strings.Join(gatetest.LinesWith(got.Body, prefix), "\n"), secret) {
			t.Errorf("the metrics have the %s", name)
		}
	}
	return counts(t, got.Body)
}

// reaches waits until a series has a value: requests are counted when they
// have ended, which is a moment after their answers have.
func reaches(t *testing.T, g *gatetest.Gate, series string, want float64) {
	t.Helper()
	var got float64
	defer func() { t.Logf("%s is %v", series, got) }()
	gatetest.Until(t, fmt.Sprintf("%s to be %v", series, want), func() bool {
		got = scrape(t, g)[series]
		return got == want
	})
}

func requests(gate, client, code string) string {
	return fmt.Sprintf("requests_total{client=%q,code=%q,gate=%q}", client, code, gate)
}

func TestMetricsOfTwoGatesAreRightAfterManyReloads(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	site := gatetest.Site{Gate: "\t\tname first\n\t\tclient ci {\n\t\t\tserver_info CI\n\t\t}"}
	site.Dir = gatetest.TempDir(t)
	site.Gate = strings.ReplaceAll(site.Gate, "CI", filepath.Join(site.Dir, "ci.json"))
	second := filepath.Join(site.Dir, "second.json")
	port := gatetest.FreePort(t)
	// (a second site, in front of the first one)
	site.Global = fmt.Sprintf("}\nhttp://:%d {\n\tbind 127.0.0.1\n\tresponses_proxy_gate {\n\t\tname second\n"+
		"\t\tupstream_bearer {env.OPENAI_API_KEY}\n\t\tserver_info %s\n\t}\n\treverse_proxy %s\n", port, second, up.URL)
	g := gatetest.StartReloadable(t, up, site)

	stream := gatetest.NewEventStream()
	up.SetAnswer(stream.Serve)
	response, reader := gatetest.OpenStream(t, g.HTTP, g.Post(gatetest.WithDeadline(t)))
	stream.Send(t)
	gatetest.ReadEvent(t, reader, 1)
	up.SetAnswer(gatetest.AnswerJSON)

	const reloads = 30
	client := gatetest.ReadInfo(t, filepath.Join(site.Dir, "ci.json")).AuthToken
	info := gatetest.ReadInfo(t, second)
	other := &gatetest.Gate{
		Process: g.Process, Site: g.Site, Info: info, Token: info.AuthToken, Addr: fmt.Sprintf("127.0.0.1:%d", info.Port),
		Up: up, HTTP: g.HTTP,
	}
	other.Reloaded.Store(true)
	for i := range reloads {
		g.Works(t)
		g.Do(t, gatetest.SetHeader("Authorization", "Bearer "+client), gatetest.SetHeader("Content-Type", "application/json"))
		g.Do(t, gatetest.SetHeader("Origin", "https://attacker.example"))
		other.Do(t, gatetest.SetHeader("Authorization", "Bearer "+g.Token))
		next := g.Site
		next.Gate += fmt.Sprintf("\n\t\tallow_host reload%d.example", i)
		g.MustReload(t, next)
	}
	other.Works(t)
	want := map[string]float64{
		requests("first", "first", "forwarded"):                               reloads,
		requests("first", "ci", "forwarded"):                                  reloads,
		requests("first", "", "origin_not_allowed"):                           reloads,
		requests("second", "", "invalid_token"):                               reloads,
		requests("second", "second", "forwarded"):                             1,
		`requests_in_flight{client="first",gate="first"}`:                     1,
		`upstream_responses_total{class="2xx",client="first",gate="first"}`:   reloads,
		`upstream_responses_total{class="2xx",client="ci",gate="first"}`:      reloads,
		`upstream_responses_total{class="2xx",client="second",gate="second"}`: 1,
	}
	reaches(t, g, requests("second", "second", "forwarded"), 1)
	for series, value := range scrape(t, g) {
		if value != want[series] {
			t.Errorf("%s is %v, want %v", series, value, want[series])
		}
	}

	_ = response.Body.Close() // the caller leaves
	reaches(t, g, requests("first", "first", "client_gone"), 1)
	reaches(t, g, `requests_in_flight{client="first",gate="first"}`, 0)

	without := g.Site
	without.Gate = "\t\tname first"
	g.MustReload(t, without)
	for series := range scrape(t, g) {
		if strings.Contains(series, `"ci"`) {
			t.Errorf("the client is gone, and %s is not", series)
		}
	}
}

// shipped is the example of a monitored gate, on other ports and with another
// upstream, and nothing else changed.
func shipped(t *testing.T) (g *gatetest.Gate, metrics string) {
	t.Helper()
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux can a variable (SSL_CERT_FILE) make Caddy trust the stand-in for api.openai.com")
	}
	up, certificate := gatetest.NewTLSUpstream(t)
	dir := gatetest.TempDir(t)
	config := gatetest.ReadFile(t, filepath.Join(gatetest.RepoRoot, "examples", "monitoring", "Caddyfile"))
	ports := map[string]int{":18080 {": gatetest.FreePort(t), ":9180 {": gatetest.FreePort(t)}
	for shipped, port := range ports {
		if strings.Count(config, shipped) != 1 {
			t.Fatalf("the example has not one site on %s", shipped)
		}
		config = strings.Replace(config, shipped, fmt.Sprintf(":%d {", port), 1)
	}
	config = strings.Replace(config, "https://api.openai.com", up.URL, 1)
	path := filepath.Join(dir, "Caddyfile")
	gatetest.WriteFile(t, path, config)
	gatetest.WriteFile(t, filepath.Join(dir, "upstream.pem"), string(certificate))
	p := gatetest.Start(t, gatetest.Launch{
		Dir: dir,
		Env: []string{
			"OPENAI_API_KEY=" + gatetest.OperatorKey, "XDG_RUNTIME_DIR=" + dir, "GATE_LOG_DIR=" + dir,
			"SSL_CERT_FILE=" + filepath.Join(dir, "upstream.pem"),
		},
		Args: []string{"run", "--adapter", "caddyfile", "--config", path},
	})
	p.WaitOutput(gatetest.ReadyLog, 1)
	g = &gatetest.Gate{Process: p, Up: up, HTTP: gatetest.NewClient(t)}
	g.Site = gatetest.Site{Dir: dir, Info: filepath.Join(dir, "responses-proxy-gate.json")}
	p.WaitOutput("server-info written", 1)
	g.Info = gatetest.ReadInfo(t, g.Site.Info)
	g.Token, g.Addr = g.Info.AuthToken, fmt.Sprintf("127.0.0.1:%d", g.Info.Port)
	return g, fmt.Sprintf("127.0.0.1:%d", ports[":9180 {"])
}

func TestTheMonitoredExampleShowsItsMetricsToPrometheusAndToNoWebPage(t *testing.T) {
	t.Parallel()
	g, metrics := shipped(t)
	var callers sync.WaitGroup
	for range 8 {
		callers.Go(func() {
			for range 5 {
				if got := g.Do(t); got.Status != http.StatusOK {
					t.Errorf("%d %s", got.Status, got.Body)
				}
			}
		})
	}
	callers.Wait()

	get := func(host string) gatetest.Answer {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+metrics+"/metrics", nil)
		gatetest.Must(t, err)
		if host != "" {
			r.Host = host
		}
		return gatetest.Do(t, g.HTTP, r)
	}
	gatetest.Until(t, "all requests to be counted", func() bool {
		return counts(t, get("").Body)[requests("default", "default", "forwarded")] == 40
	})
	if got := get("attacker.example:9180"); strings.Contains(got.Body, prefix) {
		t.Error("a page that comes by a rebound name can read the metrics")
	}
}
