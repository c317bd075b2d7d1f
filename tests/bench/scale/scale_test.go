//go:build unix

// Package scale measures what many clients of one gate cost: to start, to
// reload, to stop, for each request and for each scrape of the metrics.
//
//	go test ./tests/bench/scale -run '^$' -bench . -benchtime 1x -timeout 30m
//
// Times are of the processor, in this process: those of the disk and of other
// programs are not the gate's. (ns/op is by the clock, of all that is done for
// one gate, its files included.) With more than one run, each figure is the mean.
package scale

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"golang.org/x/sys/unix"

	_ "github.com/responses-proxy-gate/caddy-responses-proxy-gate"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

func init() { caddy.RegisterModule(new(tap)) }

// tap is a handler in front of the gate that lets a benchmark call the gate
// without a network between.
type tap struct{}

// tapped is what the last request through the tap met, and the request.
var tapped atomic.Pointer[struct {
	gate    caddyhttp.Handler
	request *http.Request
}]

// CaddyModule returns the Caddy module information.
func (*tap) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "http.handlers.scale_tap", New: func() caddy.Module { return new(tap) }}
}

// ServeHTTP implements caddyhttp.MiddlewareHandler.
func (*tap) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	tapped.Store(&struct {
		gate    caddyhttp.Handler
		request *http.Request
	}{next, r})
	return next.ServeHTTP(w, r)
}

// setting is a gate with many clients of one kind.
type setting struct {
	gate  map[string]any
	token string // of one of the clients, once the gate has started
	info  string // the file that has it, if it was generated
}

// configured are clients of the config, each with a server-info file. All
// files are in one directory.
func configured(b *testing.B, dir string, clients int) setting {
	b.Helper()
	s := setting{gate: map[string]any{}, info: filepath.Join(dir, name(clients/2)+".info")}
	var list []any
	for i := range clients {
		list = append(list, map[string]any{"name": name(i), "server_info": map[string]any{"path": filepath.Join(dir, name(i)+".info")}})
	}
	s.gate["client"] = list
	return s
}

// fixed are clients of the config with tokens of the operator's.
func fixed(b *testing.B, dir string, clients int) setting {
	b.Helper()
	s := setting{gate: map[string]any{}, token: token(clients / 2)}
	var list []any
	for i := range clients {
		path := filepath.Join(dir, name(i)+".token")
		gatetest.Must(b, os.WriteFile(path, []byte(token(i)), 0o600))
		list = append(list, map[string]any{"name": name(i), "token": "{file." + path + "}"})
	}
	s.gate["client"] = list
	return s
}

// shared are clients in Caddy's storage, a folder.
func shared(b *testing.B, dir string, clients int) setting {
	b.Helper()
	folder := filepath.Join(dir, "data", "responses_proxy_gate", "default.clients")
	gatetest.Must(b, os.MkdirAll(folder, 0o700))
	for i := range clients {
		digest := sha256.Sum256([]byte(token(i)))
		record := fmt.Sprintf(`{"version":1,"gate":"default","client":%q,"created":"2026-11-24T21:50:11Z","tokens":[{"sha256":%q}]}`,
			name(i), hex.EncodeToString(digest[:]))
		gatetest.Must(b, os.WriteFile(filepath.Join(folder, name(i)+".json"), []byte(record), 0o600))
	}
	gatetest.Must(b, os.WriteFile(filepath.Join(folder, "changed"), []byte("a-mark"), 0o600))
	return setting{gate: map[string]any{"shared_clients": map[string]any{"sync_every": "1h"}}, token: token(clients / 2)}
}

func name(i int) string  { return fmt.Sprintf("client-%05d", i) }
func token(i int) string { return fmt.Sprintf("a-token-of-the-benchmark-with-43-char-%05d", i) }

// config is a whole config. Its server has a number, so that no two are the
// same, and the same port, as in most reloads.
func (s setting) config(b *testing.B, dir string, port, number int) []byte {
	b.Helper()
	gate := map[string]any{
		"handler": "responses_proxy_gate", "upstream_bearer": "{env.OPENAI_API_KEY}",
		"server_info":    map[string]any{"path": filepath.Join(dir, "gate.info")},
		"insecure_allow": []string{"logged_token"},
	}
	for key, value := range s.gate {
		gate[key] = value
	}
	content, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"disabled": true, "config": map[string]any{"persist": false}},
		"storage": map[string]any{"module": "file_system", "root": filepath.Join(dir, "data")},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}},
		"apps": map[string]any{"http": map[string]any{
			"metrics": map[string]any{},
			"servers": map[string]any{fmt.Sprintf("s%d", number): map[string]any{
				"listen": []string{fmt.Sprintf("127.0.0.1:%d", port)}, "automatic_https": map[string]any{"disable": true},
				"routes": []any{
					map[string]any{"match": []any{map[string]any{"path": []string{"/metrics"}}}, "handle": []any{map[string]any{"handler": "metrics"}}},
					map[string]any{"handle": []any{
						map[string]any{"handler": "scale_tap"},
						gate,
						map[string]any{"handler": "static_response", "body": "passed"},
						map[string]any{"handler": "reverse_proxy", "upstreams": []any{map[string]any{"dial": "127.0.0.1:1"}}}, // (nobody gets there)
					}},
				},
			}},
		}},
	})
	gatetest.Must(b, err)
	return content
}

func BenchmarkClients(b *testing.B) {
	for _, kind := range []struct {
		name string
		make func(*testing.B, string, int) setting
	}{{"configured", configured}, {"fixed", fixed}, {"shared", shared}} {
		for _, clients := range []int{1, 1000, 2000, 10_000} {
			b.Run(fmt.Sprintf("%s/%d", kind.name, clients), func(b *testing.B) {
				all := make(sums)
				for b.Loop() {
					once(b, kind.make, clients, all)
				}
				for unit, sum := range all {
					b.ReportMetric(sum/float64(b.N), unit)
				}
			})
		}
	}
}

// sums are what the runs of a benchmark have measured, by unit.
type sums map[string]float64

// once starts, uses, reloads and stops one gate.
func once(b *testing.B, kind func(*testing.B, string, int) setting, clients int, all sums) {
	b.Helper()
	dir := gatetest.TempDir(b)
	b.Setenv("OPENAI_API_KEY", gatetest.OperatorKey)
	b.Setenv("XDG_CONFIG_HOME", dir)
	b.Setenv("XDG_DATA_HOME", dir)
	s := kind(b, dir, clients)
	measured := func(unit string, f func()) {
		b.Helper()
		before := processorTime(b)
		f()
		all[unit] += (processorTime(b) - before).Seconds()
	}
	port := gatetest.FreePort(b)
	first, second := s.config(b, dir, port, 1), s.config(b, dir, port, 2)
	measured("start-cpu-s", func() { gatetest.Must(b, caddy.Load(first, true)) })
	base := gatetest.ReadInfo(b, filepath.Join(dir, "gate.info")).BaseURL
	if s.info != "" {
		s.token = gatetest.ReadInfo(b, s.info).AuthToken
	}
	all["cpu-ns/request"] += float64(perRequest(b, base, s.token).Nanoseconds())
	all["metrics-bytes"] += float64(len(ask(b, http.MethodGet, base[:len(base)-len("/v1")]+"/metrics", "")))
	began := time.Now()
	measured("reload-cpu-s", func() { gatetest.Must(b, caddy.Load(second, true)) })
	all["reload-s"] += time.Since(began).Seconds()
	base = gatetest.ReadInfo(b, filepath.Join(dir, "gate.info")).BaseURL
	if got := askReloaded(b, base+"/responses", s.token); got != "passed" {
		b.Fatalf("after the reload, a client gets %q", got)
	}
	measured("stop-cpu-s", func() { gatetest.Must(b, caddy.Stop()) })
	if s.info != "" {
		if _, err := os.Stat(s.info); err == nil {
			b.Error("a server-info file outlives the gate")
		}
	}
}

// perRequest is what the gate takes for one request of a client's.
func perRequest(b *testing.B, base, token string) time.Duration {
	b.Helper()
	// One request through the network, for Caddy's own context of a request.
	if got := ask(b, http.MethodPost, base+"/responses", token); got != "passed" {
		b.Fatalf("a client gets %q", got)
	}
	gate, r := tapped.Load().gate, tapped.Load().request
	header := r.Header.Clone()
	header.Set("X-Proxy-Token", token)
	const requests = 1000
	began := processorTime(b)
	for range requests {
		r := r.WithContext(context.WithoutCancel(r.Context()))
		r.Header = header.Clone()
		w := httptest.NewRecorder()
		if err := gate.ServeHTTP(w, r); err != nil || w.Code != http.StatusOK {
			b.Fatalf("a client gets %d, %v", w.Code, err)
		}
	}
	return (processorTime(b) - began) / requests
}

// ask sends a request, and returns the answer's body.
func ask(b *testing.B, method, url, token string) string {
	b.Helper()
	body, err := try(b, method, url, token)
	gatetest.Must(b, err)
	return body
}

// askReloaded asks after a reload. Caddy's Load returns a moment before the old
// server closes its listener, and what has connected to that is cut off. (So it
// is without a gate.)
func askReloaded(b *testing.B, url, token string) string {
	b.Helper()
	var body string
	var err error
	for range 100 {
		if body, err = try(b, http.MethodPost, url, token); err == nil {
			return body
		}
	}
	b.Fatal(err)
	return ""
}

// try sends a request, and returns the answer's body.
func try(b *testing.B, method, url, token string) (string, error) {
	b.Helper()
	r, err := http.NewRequest(method, url, nil)
	gatetest.Must(b, err)
	if token != "" {
		r.Header.Set("X-Proxy-Token", token)
	}
	r.Close = true // (a reload ends idle connections)
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		return "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return string(body), err
}

// processorTime is what this process has used.
func processorTime(b *testing.B) time.Duration {
	b.Helper()
	var used unix.Rusage
	gatetest.Must(b, unix.Getrusage(unix.RUSAGE_SELF, &used))
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}
