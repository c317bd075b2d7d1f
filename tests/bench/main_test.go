//go:build unix

package main

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// One short round with few connections through everything that is on this
// machine: so that the suite is known to work on the day it is needed.
func TestASmallRunCountsEverythingAndReportsIt(t *testing.T) {
	if testing.Short() {
		t.Skip("it builds Caddy and measures it and its peers")
	}
	dir, err := os.MkdirTemp("", "gate-bench") // (t.TempDir is too long for a socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	caddy, err := findCaddy(t.Context(), dir, false)
	if err != nil {
		t.Fatal(err)
	}
	o := options{rounds: 1, duration: 200 * time.Millisecond, out: filepath.Join(dir, "out"), to: "stock"}
	b, err := newBench(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.upstreams.close) // after the parallel tests below
	peers, missing := findPeers(caddy)
	if os.Getenv("REQUIRE_BENCH_PEERS") != "" && len(missing) > 0 {
		t.Error(missing)
	}
	workloads, err := chooseWorkloads(allWorkloads(), "json-16,upload-4,judge-*,sse-1000,events-1000,ws-500,refuse-*,burst-64,tls-16,h2-16")
	if err != nil {
		t.Fatal(err)
	}
	for i := range workloads {
		switch load := workloads[i].load.(type) {
		case closedLoop:
			load.connections = 2
			load.request.size = min(load.request.size, 1<<20)
			workloads[i].load = load
		case streams:
			load.count = 5
			workloads[i].load = load
		case burst:
			workloads[i].load = burst{5}
		}
	}

	for _, w := range workloads {
		suited := slices.DeleteFunc(slices.Clone(peers), func(p *peer) bool { return !w.suits(p) })
		for _, group := range w.turns(suited) {
			t.Run(w.name+"/"+peerNames(group), func(t *testing.T) {
				t.Parallel()
				for n, r := range b.measure(t.Context(), group, w, 1) {
					t.Run(r.Peer, func(t *testing.T) { checkFigures(t, group[n], w, r) })
				}
			})
		}
	}
}

func checkFigures(t *testing.T, p *peer, w workload, r result) {
	t.Helper()
	if r.Peer != p.name || r.Workload != w.name {
		t.Errorf("the result is said to be %s of %s", r.Workload, r.Peer)
	}
	if r.Failure != "" {
		t.Fatalf("%s\n%s", r.Failure, r.Printed)
	}
	want := map[string]float64{hung: 0}
	switch w.load.(type) {
	case streams:
		want[eventsReceived], want[lostEvents], want[truncated] = 5*eventsPerStream, 0, 0
	case burst:
		want[requestsDone], want[errorsSeen] = 5, 0
	default:
		want[errorsSeen] = 0
		if r.Figures[requestsDone] < 1 || r.Figures[perSecond] <= 0 || r.Figures[latency+"_p50"] <= 0 {
			t.Errorf("nothing done: %v", r.Figures)
		}
	}
	if p.name == "original" && w.name == "burst-64" {
		want = nil // it hangs, more often than not
	}
	for figure, value := range want {
		if got, ok := r.Figures[figure]; !ok || got != value {
			t.Errorf("%s: %v, want %v\n%s", figure, got, value, r.Printed)
		}
	}
	if p.program == "" || !haveProc() {
		return
	}
	for _, figure := range []string{rssIdle, rssPeak, threadsAtMost} {
		if r.Figures[figure] <= 0 {
			t.Errorf("no %s of a real process", figure)
		}
	}
}

func haveProc() bool {
	_, err := os.Stat("/proc/self/stat")
	return err == nil
}

// madeUp are results of three rounds with known medians.
func madeUp() report {
	var rs results
	add := func(workload, peer string, figure string, values ...float64) {
		for round, value := range values {
			rs = append(rs, result{Workload: workload, Peer: peer, Round: round + 1, Figures: map[string]float64{figure: value}})
		}
	}
	add("json-16", "stock", perSecond, 1000, 2000, 4000)
	add("json-16", "bare", perSecond, 1100, 2200, 4400)
	add("json-16", "command", perSecond, 1500, 3000, 4000) // ratios 1.5, 1.5, 1
	add("json-16", "original", perSecond, 500, 1500, 2000) // of command to it 3, 2, 2
	add("json-64", "stock", perSecond, 1000, 1000, 1000)
	add("json-64", "command", perSecond, 1500, 1499, 1600)
	add("json-16", "stock", cpuPerRequest, 100, 100, 100)
	add("json-16", "gate", cpuPerRequest, 104, 106, 105)
	add("json-16", "budget", cpuPerRequest, 106, 110, 110)
	add("events-1000", "gate", cpuPerEvent, 50, 50, 60)
	add("events-1000", "budget", cpuPerEvent, 52, 51, 61)
	add("sse-1000", "command", firstEvent+"_p50", 1, 1, 1)
	add("sse-1000", "original", firstEvent+"_p50", 3000, 3000, 3000)
	add("sse-2000", "command", rssPeak, 100, 100, 100)
	add("sse-2000", "original", rssPeak, 200, 300, 400)
	for _, r := range refusals {
		for _, peer := range []string{"byhand", "gate", "command"} {
			add("refuse-"+r.kind, peer, perSecond, 100, 100, 100)
		}
	}
	peers, _ := findPeers("caddy")
	peers, err := choosePeers(peers, "stock,bare,gate,command,command=/builds/older")
	if err != nil {
		panic(err)
	}
	return report{
		environment: environment{Date: "2026-01-02"}, peers: append(peers, &peer{name: "original"}),
		workloads: allWorkloads(), results: rs, to: "stock",
	}
}

func TestAReportSaysTheMediansAndTheirRatiosAndCanBeReadAgain(t *testing.T) {
	r := madeUp()
	dir := t.TempDir()
	if err := r.write(dir); err != nil {
		t.Fatal(err)
	}
	tables, err := os.ReadFile(filepath.Join(dir, "tables.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"|  | stock | bare | gate | command | command=older | original |",
		"| requests/s, 16 connections | 2000 | 2200 (×1.10) |  | 3000 (×1.50) |  | 1500 (×0.50) |",
		"| CPU µs/request, 16 connections | 100 |  | 105 (×1.05) |  |  |  |",
		"### Small JSON, 16 connections",
	} {
		if !strings.Contains(string(tables), want) {
			t.Errorf("no %q in\n%s", want, tables)
		}
	}
	checkChart(t, filepath.Join(dir, "chart.svg"), "stock", "command", "original", " 3000", "Memory with 2000 streams")

	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	_ = encoder.Encode(r.environment)
	for _, one := range r.results {
		_ = encoder.Encode(one)
	}
	path := filepath.Join(dir, "results.jsonl")
	if err := os.WriteFile(path, lines.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	again, err := readReport(path)
	if err != nil {
		t.Fatal(err)
	}
	again.to = "stock"
	if got, ok := again.results.ratio("json-16", perSecond, "command", "stock"); !ok || got != 1.5 {
		t.Errorf("read again, the ratio is %v, want 1.5", got)
	}
	if got := again.tables(); !strings.Contains(got, "| 3000 (×1.50) |") {
		t.Errorf("read again, the tables are\n%s", got)
	}
}

// checkChart wants well-formed SVG with these texts in it.
func checkChart(t *testing.T, path string, texts ...string) {
	t.Helper()
	svg, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for decoder := xml.NewDecoder(bytes.NewReader(svg)); ; {
		token, err := decoder.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("the chart is not XML: %v", err)
		}
		if text, ok := token.(xml.CharData); ok {
			found = append(found, string(text))
		}
	}
	for _, want := range texts {
		if !strings.Contains(strings.Join(found, "\n"), want) {
			t.Errorf("no %q in the chart", want)
		}
	}
}

func TestTheCheckFailsWithTheGoalsThatAreMissed(t *testing.T) {
	var out bytes.Buffer
	r := madeUp()
	if err := check(&out, r.results); err != nil {
		t.Fatalf("%v, though all goals are met:\n%s", err, out.String())
	}
	for name, spoil := range map[string]struct {
		result result
		says   string
	}{
		"a slower command":    {result{"json-64", "command", 4, map[string]float64{perSecond: 1}, "", ""}, "MISSED json-64: requests_per_second, command / stock: 1.4995"},
		"a hung connection":   {result{"burst-64", "gate", 1, map[string]float64{hung: 1}, "", ""}, "MISSED burst-64, gate, round 1: 1 hung_connections"},
		"a lost event":        {result{"sse-200", "command", 1, map[string]float64{lostEvents: 2}, "", ""}, "MISSED sse-200, command, round 1: 2 lost_events"},
		"a peer that crashed": {result{"ws-500", "example", 2, nil, "ended in the middle of it", ""}, "MISSED ws-500, example, round 2: ended in the middle of it"},
	} {
		t.Run(name, func(t *testing.T) {
			results := append(results{}, r.results...)
			if name == "a slower command" {
				results = append(results, result{"json-64", "stock", 4, map[string]float64{perSecond: 1000}, "", ""})
			}
			var out bytes.Buffer
			err := check(&out, append(results, spoil.result))
			if err == nil || strings.Count(out.String(), "MISSED") != 1 {
				t.Errorf("error %v, want one goal missed:\n%s", err, out.String())
			}
			if says, _, _ := strings.Cut(spoil.says, ": 1.4995"); !strings.Contains(out.String(), says) {
				t.Errorf("no %q in\n%s", says, out.String())
			}
		})
	}
	t.Run("nothing measured", func(t *testing.T) {
		var out bytes.Buffer
		if err := check(&out, nil); err == nil || !strings.Contains(out.String(), "not measured") {
			t.Errorf("error %v:\n%s", err, out.String())
		}
	})
}
