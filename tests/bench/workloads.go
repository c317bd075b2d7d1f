//go:build unix

package main

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"
)

// workload is one kind of traffic.
type workload struct {
	name     string
	title    string
	upstream string // the kind of upstream behind the peer
	load     load
	can      func(*peer) bool // who can do this; everyone if nil
	refusal  string           // the kind of refusal that it asks for
	status   int              // of refusals
}

// load is how traffic is made.
type load interface {
	run(ctx context.Context, m *measurement) error
}

// codexRequest is the size of a small request of Codex's, in bytes: its
// instructions and tools are in each.
const codexRequest = 40_000

// refusals are the requests that no peer with checks lets through.
var refusals = []struct {
	kind, title string
	request     request
	status      int
}{
	{"origin", "an Origin that is not allowed", request{headers: []string{"Origin: https://attacker.example"}}, 403},
	{"type", "a Content-Type that web pages can send", request{contentType: "text/plain"}, 415},
	{"missing", "no token", request{noToken: true}, 401},
	{"wrong", "a wrong token", request{token: "bench-token-guessed-guessed-guessed-guessed"}, 401},
	{"route", "a path that is not allowed", request{path: "/v1/files"}, 403},
}

// allWorkloads are those of a full run, in their order.
func allWorkloads() []workload {
	var all []workload
	for _, n := range []int{1, 16, 64} {
		all = append(all, workload{
			name: fmt.Sprintf("json-%d", n), title: fmt.Sprintf("small JSON, %s", connections(n)),
			upstream: "json", load: closedLoop{connections: n, status: 200},
		})
	}
	all = append(all,
		workload{
			name: "codex-16", title: "bodies of 40 KB, as Codex sends them, 16 connections",
			upstream: "json", load: closedLoop{connections: 16, status: 200, request: request{size: codexRequest}},
		},
		workload{
			name: "upload-4", title: "uploads of 32 MiB, 4 connections",
			upstream: "json", load: closedLoop{connections: 4, status: 200, request: request{size: 32 << 20}},
		})
	for _, body := range []struct {
		name, title string
		messages    bool
	}{{"text", "one long text", false}, {"messages", "250,000 short messages", true}} {
		all = append(all, workload{
			name: "judge-" + body.name, title: "bodies of 64 MiB to judge: " + body.title + ", 1 connection", can: isGateWithOrWithoutRules,
			upstream: "json", load: closedLoop{connections: 1, status: 200, request: request{size: 64 << 20, messages: body.messages}},
		})
	}
	for _, n := range []int{200, 1000, 2000} {
		all = append(all, workload{
			name: fmt.Sprintf("sse-%d", n), title: fmt.Sprintf("%d streams of small events at once", n),
			upstream: "events", load: streams{count: n, open: openEvents},
		})
	}
	all = append(all, workload{
		name: "events-1000", title: "1000 streams that small requests ask for: the events alone",
		upstream: "events", load: streams{count: 1000, open: openBriefly},
	}, workload{
		name: "ws-500", title: "500 WebSockets with the same events",
		upstream: "websocket", load: streams{count: 500, open: openWebSocket}, can: func(p *peer) bool { return p.websockets },
	})
	for _, r := range refusals {
		all = append(all, workload{
			name: "refuse-" + r.kind, title: "refused: " + r.title + ", 16 connections", refusal: r.kind, status: r.status,
			upstream: "json", load: closedLoop{connections: 16, status: r.status, request: r.request},
			can: func(p *peer) bool { return slices.Contains(p.refuses, r.kind) },
		})
	}
	return append(all,
		workload{name: "burst-64", title: "64 connections at once to a fresh process", upstream: "json", load: burst{64}},
		workload{
			name: "tls-16", title: "small JSON, 16 connections, TLS to the upstream",
			upstream: "tls", load: closedLoop{connections: 16, status: 200}, can: func(p *peer) bool { return p.tls },
		},
		workload{
			name: "h2-16", title: "small JSON, 16 connections, HTTP/2 to the upstream",
			upstream: "h2", load: closedLoop{connections: 16, status: 200}, can: func(p *peer) bool { return p.http2 },
		})
}

// isGateWithOrWithoutRules reports whether a peer has part in what rules cost:
// those with them, and who differs from them in nothing else.
func isGateWithOrWithoutRules(p *peer) bool {
	name, _, _ := strings.Cut(p.name, "=")
	return slices.Contains([]string{"stock", "gate", "budget", "rules"}, name)
}

func connections(n int) string {
	if n == 1 {
		return "1 connection"
	}
	return fmt.Sprintf("%d connections", n)
}

// chooseWorkloads picks workloads by name or pattern.
func chooseWorkloads(all []workload, patterns string) ([]workload, error) {
	if patterns == "" {
		return all, nil
	}
	var chosen []workload
	wanted := strings.Split(patterns, ",")
	for _, pattern := range wanted {
		if !slices.ContainsFunc(all, func(w workload) bool { return matches(pattern, w.name) }) {
			var names []string
			for _, w := range all {
				names = append(names, w.name)
			}
			return nil, fmt.Errorf("no workload %q; there are %s", pattern, strings.Join(names, ","))
		}
	}
	for _, w := range all {
		if slices.ContainsFunc(wanted, func(pattern string) bool { return matches(pattern, w.name) }) {
			chosen = append(chosen, w)
		}
	}
	return chosen, nil
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// suits reports whether a peer has part in a workload.
func (w workload) suits(p *peer) bool {
	if p.only != nil && !slices.ContainsFunc(p.only, func(pattern string) bool { return matches(pattern, w.name) }) {
		return false
	}
	return w.can == nil || w.can(p)
}

// turns groups peers by who is measured at the same time, taking turns.
func (w workload) turns(peers []*peer) [][]*peer {
	if _, ok := w.load.(closedLoop); ok && len(peers) > 0 {
		return [][]*peer{peers}
	}
	return slices.Collect(slices.Chunk(peers, 1))
}

// lasts is about how long one measurement takes, start and end of the peer included.
func (w workload) lasts(duration, warmUp time.Duration) time.Duration {
	const startAndStop = 400 * time.Millisecond
	switch load := w.load.(type) {
	case streams:
		return startAndStop + load.ramp() + streamLength
	case burst:
		return startAndStop + 50*time.Millisecond
	default:
		return startAndStop + w.part(warmUp+duration)
	}
}

// part is how much of the time of a throughput a workload is given: refusals
// are many and all alike.
func (w workload) part(d time.Duration) time.Duration {
	if w.refusal != "" {
		return d / 2
	}
	return d
}
