//go:build unix

package budget

import (
	"fmt"
	"net/http"
	"os"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAKilledCaddyLosesAtMostWhatItSpentInTheLastSeconds(t *testing.T) {
	t.Parallel()
	folder := gatetest.TempDir(t)
	b := newBill(t)
	first := gatetest.StartReloadable(t, b.Upstream, site(folder, perDay))
	for range 3 {
		ask(t, first)
	}
	awaitSaved(t, folder, 3*cost)
	first.Kill()
	second := gatetest.StartReloadable(t, b.Upstream, site(folder, perDay))
	if got := spent(t, second); got.Tokens != 3*cost || got.Requests != 3 {
		t.Errorf("after kill -9, it knows of %+v, want %d tokens", got, 3*cost)
	}
	ask(t, second)
	second.Signal(os.Interrupt)
	if code := second.Wait(); code != 0 {
		t.Errorf("it ended with %d", code)
	}
	third := gatetest.StartReloadable(t, b.Upstream, site(folder, perDay))
	if got := spent(t, third); got.Tokens != 4*cost {
		t.Errorf("after an orderly end at once, it knows of %+v, want %d tokens", got, 4*cost)
	}
}

func TestTwoCaddysOnOneFolderAddUp(t *testing.T) {
	t.Parallel()
	folder := gatetest.TempDir(t)
	addUp(t, "storage file_system "+folder, nil)
}

func TestTwoCaddysOnRedisAddUpAndSurviveItsOutage(t *testing.T) {
	t.Parallel()
	redis := gatetest.NewRedis(t)
	addUp(t, fmt.Sprintf("storage redis {\n\thost 127.0.0.1\n\tport %d\n\tpassword %s\n}", redis.Port, redis.Password), redis)
}

// addUp has two replicas share a budget.
func addUp(t *testing.T, storage string, redis *gatetest.Redis) {
	t.Helper()
	b := newBill(t)
	start := func() *gatetest.Gate {
		s := site("", perDay)
		s.Global = storage
		if redis == nil {
			return gatetest.StartReloadable(t, b.Upstream, s)
		}
		return startWithPlugins(t, b.Upstream, s)
	}
	first, second := start(), start()
	for range 3 {
		ask(t, first)
		ask(t, second)
	}
	for _, g := range []*gatetest.Gate{first, second} {
		awaitSpent(t, g, 6*cost)
	}
	if redis != nil {
		redis.Kill()
		for _, g := range []*gatetest.Gate{first, second} {
			ask(t, g)
			g.WaitOutput("does not take or tell what is spent", 1)
			if got := spent(t, g).Tokens; got != 7*cost {
				t.Errorf("without Redis, a replica knows of %d", got)
			}
		}
		redis.Start(t)
		for _, g := range []*gatetest.Gate{first, second} {
			g.WaitOutput("takes and tells what is spent again", 1)
			awaitSpent(t, g, 8*cost)
		}
	}
	for range 10 {
		ask(t, first)
		ask(t, second)
	}
	// What the other one spends within seven seconds is not known here.
	if got, most := b.tokens.Load(), int64(2*mostOfOne); got > most {
		t.Errorf("%d were spent, and %d are the most", got, most)
	}
	for _, g := range []*gatetest.Gate{first, second} {
		if got := ask(t, g); code(got) != "budget_exhausted" {
			t.Errorf("a replica answers %d %s", got.Status, got.Body)
		}
	}
	// A reset forgives what is known, and is known to both.
	awaitSpent(t, second, b.tokens.Load())
	if got := second.AdminDo(t, http.MethodPost, adminapi.SpendingPath("default", "default")+"/reset", "", ""); got.Status != 200 {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	awaitSpent(t, first, 0)
	if got := ask(t, first); got.Status != 200 {
		t.Errorf("after a reset, a replica answers %d %s", got.Status, got.Body)
	}
}

// startWithPlugins starts a gate in a Caddy that has a storage for Redis.
func startWithPlugins(t *testing.T, up *gatetest.Upstream, s gatetest.Site) *gatetest.Gate {
	t.Helper()
	s.Admin = "unix"
	s = s.With(t, up)
	launch := s.Launch(t)
	launch.Program = gatetest.PluginBinary(t)
	g := &gatetest.Gate{Site: s, Up: up, HTTP: gatetest.NewClient(t), Process: gatetest.Start(t, launch)}
	g.WaitOutput(gatetest.ReadyLog, 1)
	g.ReadInfo()
	return g
}
