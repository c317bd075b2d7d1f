//go:build unix

package budget

import (
	"context"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// The formula of docs/budgets.md, for requests that cost no more than is
// reserved for them: one request beyond the limit, for each process.
const mostOfOne = limit + cost

func TestNoAttackSpendsMoreThanTheFormula(t *testing.T) {
	t.Parallel()
	for name, attack := range map[string]func(t *testing.T, b *bill, g *gatetest.Gate){
		"one after another": func(t *testing.T, _ *bill, g *gatetest.Gate) {
			for range 30 {
				ask(t, g)
			}
		},
		"many at the edge": func(t *testing.T, _ *bill, g *gatetest.Gate) {
			var group sync.WaitGroup
			for range 60 {
				group.Go(func() { ask(t, g) })
			}
			group.Wait()
			for range 20 { // what is left after the reservations
				ask(t, g)
			}
		},
		"gone before the end, a hundred times": func(t *testing.T, b *bill, g *gatetest.Gate) {
			b.stay.Store(true)
			for range 100 {
				leaveEarly(t, g)
			}
		},
		"gone before the answer begins, a hundred times": func(t *testing.T, b *bill, g *gatetest.Gate) {
			b.think.Store(true)
			for range 100 {
				leaveAtOnce(t, b, g)
			}
		},
		"compression, asked for": func(t *testing.T, _ *bill, g *gatetest.Gate) {
			for range 30 {
				ask(t, g, gatetest.SetHeader("Accept-Encoding", "gzip"))
			}
		},
		"compression, unasked": func(t *testing.T, b *bill, g *gatetest.Gate) {
			b.force.Store(true)
			for range 30 {
				ask(t, g)
			}
		},
		"other routes": func(t *testing.T, _ *bill, g *gatetest.Gate) {
			for range 30 {
				ask(t, g, func(r *http.Request) { r.URL.Path = "/v1/images/generations" })
			}
		},
		"a ceiling that is named twice": func(t *testing.T, _ *bill, g *gatetest.Gate) {
			for range 30 {
				ask(t, g, func(r *http.Request) {
					twice := `{"max_output_tokens":1,"max_output_tokens":100}`
					r.Body, r.ContentLength = io.NopCloser(strings.NewReader(twice)), int64(len(twice))
				})
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			control := newBill(t)
			attack(t, control, gatetest.StartGate(t, control.Upstream, gatetest.Site{Gate: site("", "").Gate}))
			if got := control.tokens.Load(); got <= mostOfOne {
				t.Errorf("without a budget, the attack spends %d only", got)
			}
			b := newBill(t)
			g := gatetest.StartReloadable(t, b.Upstream, site(gatetest.TempDir(t), perDay))
			attack(t, b, g)
			if got := b.tokens.Load(); got > mostOfOne {
				t.Errorf("the attack spends %d, and %d are the most", got, mostOfOne)
			}
			if billed, counted := b.tokens.Load(), spent(t, g).Tokens; counted < billed {
				t.Errorf("%d were billed, and %d counted", billed, counted)
			}
			t.Logf("billed %d, counted %+v; without a budget %d", b.tokens.Load(), spent(t, g), control.tokens.Load())
		})
	}
}

// leaveEarly reads all of an answer but its end.
func leaveEarly(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	r := g.Post(func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	})
	response, err := g.HTTP.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	if response.StatusCode == http.StatusOK {
		_, err = io.ReadFull(response.Body, make([]byte, len(delta)))
	}
	if err != nil {
		t.Error(err)
	}
	_ = response.Body.Close()
}

// leaveAtOnce makes a request, and leaves when the upstream has it.
func leaveAtOnce(t *testing.T, b *bill, g *gatetest.Gate) {
	t.Helper()
	before := b.tokens.Load()
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	r := g.Post(func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}).WithContext(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if response, err := g.HTTP.Do(r); err == nil {
			_ = response.Body.Close()
		}
	}()
	gatetest.Until(t, "the upstream to have the request, or the budget to refuse it", func() bool {
		select {
		case <-ended:
			return true
		default:
			return b.tokens.Load() > before
		}
	})
	leave()
	<-ended
}

func TestAWebSocketIsNoWayAroundABudget(t *testing.T) {
	t.Parallel()
	handshake := []func(*http.Request){
		func(r *http.Request) { r.Method, r.Body, r.ContentLength = http.MethodGet, nil, 0 },
		gatetest.NoHeader("Content-Type"), gatetest.SetHeader("Connection", "Upgrade"), gatetest.SetHeader("Upgrade", "websocket"),
		gatetest.SetHeader("Sec-WebSocket-Version", "13"), gatetest.SetHeader("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
	}
	b := newBill(t)
	control := gatetest.StartGate(t, b.Upstream, gatetest.Site{Gate: site("", "").Gate})
	if got := control.Do(t, handshake...); got.Status != 200 {
		t.Errorf("without a budget, the handshake gets %d", got.Status)
	}
	b.Forget()
	g := gatetest.StartGate(t, b.Upstream, site(gatetest.TempDir(t), perDay))
	if got := g.Do(t, handshake...); got.Status != http.StatusUpgradeRequired || code(got) != "websocket_not_counted" {
		t.Errorf("it gets %d %s", got.Status, code(got))
	}
	if seen := b.Requests(); len(seen) > 0 {
		t.Errorf("the upstream saw %v", seen)
	}
}

func TestWhatIsSpentSurvivesTheStorage(t *testing.T) {
	t.Parallel()
	for name, harm := range map[string]func(t *testing.T, folder, backup string){
		"removed": func(t *testing.T, folder, _ string) {
			gatetest.Must(t, os.RemoveAll(filepath.Join(folder, "responses_budget")))
		},
		"restored from a backup": func(t *testing.T, folder, backup string) {
			gatetest.Must(t, os.RemoveAll(filepath.Join(folder, "responses_budget")))
			gatetest.Must(t, exec.Command("cp", "-a", filepath.Join(backup, "responses_budget"), folder).Run())
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder, backup := gatetest.TempDir(t), gatetest.TempDir(t)
			b := newBill(t)
			g := gatetest.StartReloadable(t, b.Upstream, site(folder, perDay))
			ask(t, g)
			awaitSaved(t, folder, cost)
			gatetest.Must(t, exec.Command("cp", "-a", filepath.Join(folder, "responses_budget"), backup).Run())
			for range 4 {
				ask(t, g)
			}
			awaitSaved(t, folder, b.tokens.Load())
			harm(t, folder, backup)
			for range 20 {
				ask(t, g)
			}
			awaitSaved(t, folder, b.tokens.Load())
			g.Kill()
			after := gatetest.StartReloadable(t, b.Upstream, site(folder, perDay))
			for range 20 {
				ask(t, after)
			}
			if got := b.tokens.Load(); got > mostOfOne {
				t.Errorf("%d were spent, and %d are the most", got, mostOfOne)
			}
		})
	}
}
