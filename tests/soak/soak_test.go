//go:build unix

// Package soak lets callers of every kind use a gate that reloads and rotates
// all the while: for ten seconds, or for as long as SOAK or -soak says.
//
//	go test -v ./tests/soak -soak 1h
package soak

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

var soak = flag.Duration("soak", 10*time.Second, "how long; also from the environment variable SOAK")

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

// duration is how long the test lasts.
func duration(t *testing.T) time.Duration {
	t.Helper()
	if text := os.Getenv("SOAK"); text != "" {
		d, err := time.ParseDuration(text)
		gatetest.Must(t, err)
		return d
	}
	return *soak
}

const (
	reloadEvery = 500 * time.Millisecond
	maxBody     = 2 << 20
)

// variant is the gate's config with another harmless option in it.
func variant(s gatetest.Site, n int) gatetest.Site {
	s.Gate += fmt.Sprintf("\nallow_origin https://app%d.example", n)
	return s
}

func TestMixedLoadWithReloadsAndRotationsFailsNobodyAndLeavesNothingBehind(t *testing.T) {
	lasts := duration(t)
	if deadline, ok := t.Deadline(); ok && time.Until(deadline) < lasts+2*gatetest.Patience {
		t.Fatalf("it lasts %v, and go test's -timeout is shorter; give it -timeout %v", lasts, lasts+5*time.Minute)
	}
	up := gatetest.NewLoadUpstream(t)
	g := gatetest.StartReloadable(t, nil, gatetest.Site{
		To:     up.URL,
		Before: fmt.Sprintf("request_body {\nmax_size %d\n}", maxBody),
		Gate:   "allow_route POST /v1/responses\nallow_route GET /v1/responses\nrotate_every 1s 500ms",
		// Caddy keeps a former config's idle upstream connections for as long
		// as keepalive says, two minutes by default.
		Proxy: "stream_close_delay 1h\ntransport http {\nkeepalive 1s\n}",
	})
	g.MustReload(t, variant(g.Site, 0)) // what Caddy makes once is there
	g.Works(t)
	g.HTTP.CloseIdleConnections()
	before := gatetest.ResourcesOf(t, g)
	load := startLoad(t, g)

	end, report := time.After(lasts), time.NewTicker(max(lasts/10, 5*time.Second))
	defer report.Stop()
	pace := time.NewTicker(reloadEvery)
	defer pace.Stop()
	began, reloads := time.Now(), 0
	for running := true; running && !t.Failed(); {
		select {
		case <-end:
			running = false
		case <-report.C:
			t.Logf("after %v: %d reloads, %s", time.Since(began).Round(time.Second), reloads, load)
		case <-pace.C:
			reloads++
			g.MustReload(t, variant(g.Site, reloads))
		}
	}
	load.end()
	t.Logf("in %v: %d reloads, %s", time.Since(began).Round(time.Second), reloads, load)
	before.MustComeBack(t, g)

	for kind, n := range load.counts() {
		if n == 0 {
			t.Errorf("there was no %s", kind)
		}
	}
	if rotated := strings.Count(g.Output.String(), "token rotated"); rotated < int(lasts/time.Second)/2 {
		t.Errorf("%d rotations in %v", rotated, lasts)
	}
	load.noTokenIn(g.Output.String())
	g.ReadInfo()
	g.Works(t)
}
