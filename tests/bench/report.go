//go:build unix

package main

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
)

// report is what a run says.
type report struct {
	environment environment
	peers       []*peer
	workloads   []workload
	results     results
	to          string // peer that ratios compare with
}

// readReport reads what an earlier run wrote.
func readReport(path string) (report, error) {
	var r report
	text, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, 1<<20)
	seen := map[string]bool{}
	known, _ := findPeers("caddy")
	for lines.Scan() {
		if r.environment.Date == "" {
			if err := json.Unmarshal(lines.Bytes(), &r.environment); err != nil {
				return r, fmt.Errorf("%s: %w", path, err)
			}
			continue
		}
		var one result
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return r, fmt.Errorf("%s: %w", path, err)
		}
		r.results = append(r.results, one)
		seen[one.Workload], seen["peer "+one.Peer] = true, true
	}
	for _, w := range allWorkloads() {
		if seen[w.name] {
			r.workloads = append(r.workloads, w)
		}
	}
	for _, p := range known {
		if seen["peer "+p.name] {
			r.peers = append(r.peers, p)
			delete(seen, "peer "+p.name)
		}
	}
	for _, one := range r.results { // other builds, or what is not on this machine
		if seen["peer "+one.Peer] {
			r.peers = append(r.peers, &peer{name: one.Peer})
			delete(seen, "peer "+one.Peer)
		}
	}
	return r, lines.Err()
}

// column is a figure in a table.
type column struct {
	title, figure string
	ratio         bool
	sum           bool // over the rounds, not the median: what must never happen
}

var failureColumns = []column{{title: "errors", figure: errorsSeen, sum: true}, {title: "hung", figure: hung, sum: true}}

// columns are those of a workload's table.
func (w workload) columns() []column {
	machine := []column{{title: "peak RSS, MiB", figure: rssPeak, ratio: true}, {title: "threads", figure: threadsAtMost}}
	switch load := w.load.(type) {
	case streams:
		return append(append([]column{
			{title: "first event p50, ms", figure: firstEvent + "_p50", ratio: true},
			{title: "p99", figure: firstEvent + "_p99"},
			{title: "event delay p50, ms", figure: eventDelay + "_p50"},
			{title: "p99", figure: eventDelay + "_p99"},
			{title: "CPU µs/event", figure: cpuPerEvent, ratio: true},
		}, machine...), []column{
			{title: "KiB/stream", figure: kibPerStream},
			{title: "events lost", figure: lostEvents, sum: true},
			{title: "cut", figure: truncated, sum: true},
			{title: "hung", figure: hung, sum: true},
		}...)
	case burst:
		return append([]column{
			{title: "answered", figure: requestsDone},
			{title: "p50, ms", figure: latency + "_p50", ratio: true},
			{title: "last, ms", figure: latency + "_max"},
		}, failureColumns...)
	case closedLoop:
		rate := []column{{title: "req/s", figure: perSecond, ratio: true}}
		if load.request.size >= 1<<20 {
			rate = []column{{title: "MiB/s", figure: mibPerSecond, ratio: true}}
		}
		rate = append(rate, column{title: "p50, ms", figure: latency + "_p50"}, column{title: "p99", figure: latency + "_p99"},
			column{title: "CPU µs/request", figure: cpuPerRequest, ratio: true})
		return append(append(rate, machine...), failureColumns...)
	}
	return nil
}

// cell is a figure of a peer, with its ratio to the peer compared with.
func (r report) cell(w, peer string, c column) string {
	if c.sum {
		if len(r.results.values(w, peer, c.figure)) == 0 {
			return ""
		}
		return number(r.results.sum(w, peer, c.figure))
	}
	value, ok := r.results.median(w, peer, c.figure)
	if !ok {
		return ""
	}
	text := number(value)
	if !c.ratio || peer == r.to {
		return text
	}
	if ratio, ok := r.results.ratio(w, c.figure, peer, r.to); ok {
		text += " (" + ratioText(ratio) + ")"
	}
	return text
}

// number has three digits, or as many as there are before the point.
func number(value float64) string {
	switch {
	case value == 0:
		return "0"
	case math.Abs(value) >= 100:
		return fmt.Sprintf("%.0f", value)
	case math.Abs(value) >= 10:
		return fmt.Sprintf("%.1f", value)
	case math.Abs(value) >= 0.01:
		return fmt.Sprintf("%.2f", value)
	default:
		return fmt.Sprintf("%.2g", value)
	}
}

func ratioText(ratio float64) string {
	if ratio >= 100 {
		return fmt.Sprintf("×%.0f", ratio)
	}
	if ratio >= 10 {
		return fmt.Sprintf("×%.1f", ratio)
	}
	if ratio >= 0.01 {
		return fmt.Sprintf("×%.2f", ratio)
	}
	return fmt.Sprintf("×%.2g", ratio)
}

// table is a workload's, with a line for each peer.
func (r report) table(w workload) string {
	columns := w.columns()
	var rows [][]string
	for _, p := range r.peers {
		row := []string{p.name}
		found := false
		for _, c := range columns {
			text := r.cell(w.name, p.name, c)
			found = found || text != ""
			row = append(row, text)
		}
		if found {
			rows = append(rows, row)
		}
	}
	titles := []string{""}
	for _, c := range columns {
		titles = append(titles, c.title)
	}
	return markdown(titles, rows)
}

// headlines are the lines of the summary.
var headlines = []struct {
	title, workload string
	column          column
}{
	{"requests/s, 1 connection", "json-1", column{figure: perSecond, ratio: true}},
	{"requests/s, 16 connections", "json-16", column{figure: perSecond, ratio: true}},
	{"requests/s, 64 connections", "json-64", column{figure: perSecond, ratio: true}},
	{"CPU µs/request, 16 connections", "json-16", column{figure: cpuPerRequest, ratio: true}},
	{"requests/s, bodies of 40 KB", "codex-16", column{figure: perSecond, ratio: true}},
	{"uploads of 32 MiB, MiB/s", "upload-4", column{figure: mibPerSecond, ratio: true}},
	{"peak RSS meanwhile, MiB", "upload-4", column{figure: rssPeak, ratio: true}},
	{"a body of 64 MiB, one text: CPU µs", "judge-text", column{figure: cpuPerRequest, ratio: true}},
	{"peak RSS meanwhile, MiB", "judge-text", column{figure: rssPeak, ratio: true}},
	{"the same, short messages: CPU µs", "judge-messages", column{figure: cpuPerRequest, ratio: true}},
	{"peak RSS meanwhile, MiB", "judge-messages", column{figure: rssPeak, ratio: true}},
	{"1000 streams: first event p50, ms", "sse-1000", column{figure: firstEvent + "_p50", ratio: true}},
	{"1000 streams: event delay p50, ms", "sse-1000", column{figure: eventDelay + "_p50"}},
	{"1000 streams: event delay p99, ms", "sse-1000", column{figure: eventDelay + "_p99"}},
	{"1000 streams: CPU µs/event", "sse-1000", column{figure: cpuPerEvent, ratio: true}},
	{"the same, asked for by small requests", "events-1000", column{figure: cpuPerEvent, ratio: true}},
	{"2000 streams: peak RSS, MiB", "sse-2000", column{figure: rssPeak, ratio: true}},
	{"2000 streams: threads", "sse-2000", column{figure: threadsAtMost}},
	{"500 WebSockets: event delay p50, ms", "ws-500", column{figure: eventDelay + "_p50"}},
	{"500 WebSockets: peak RSS, MiB", "ws-500", column{figure: rssPeak, ratio: true}},
	{"refusals/s, no token", "refuse-missing", column{figure: perSecond, ratio: true}},
	{"refusals/s, path", "refuse-route", column{figure: perSecond, ratio: true}},
	{"64 at once on a fresh process: hung", "burst-64", column{figure: hung, sum: true}},
	{"requests/s, TLS to the upstream", "tls-16", column{figure: perSecond, ratio: true}},
	{"requests/s, HTTP/2 to the upstream", "h2-16", column{figure: perSecond, ratio: true}},
}

// summary is one table with a column for each peer.
func (r report) summary() string {
	titles := []string{""}
	for _, p := range r.peers {
		titles = append(titles, p.name)
	}
	var rows [][]string
	for _, h := range headlines {
		row, found := []string{h.title}, false
		for _, p := range r.peers {
			text := r.cell(h.workload, p.name, h.column)
			found = found || text != ""
			row = append(row, text)
		}
		if found {
			rows = append(rows, row)
		}
	}
	return markdown(titles, rows)
}

func markdown(titles []string, rows [][]string) string {
	var text strings.Builder
	line := func(cells []string) { fmt.Fprintf(&text, "| %s |\n", strings.Join(cells, " | ")) }
	line(titles)
	fmt.Fprintf(&text, "|---%s|\n", strings.Repeat("|--:", len(titles)-1))
	for _, row := range rows {
		line(row)
	}
	return text.String()
}

// tables are the summary, and a table for each workload.
func (r report) tables() string {
	var text strings.Builder
	e := r.environment
	fmt.Fprintf(&text, "%s, %d CPUs, %s, %s; commit %s, %s; %d rounds of %s each.\n", e.Machine, e.CPUs, e.Kernel, e.Go, cmp.Or(e.Commit, "unknown"), e.Date, e.Rounds, e.Duration)
	for _, name := range []string{"caddy", "original", "nginx", "haproxy"} {
		if version := e.Versions[name]; version != "" {
			fmt.Fprintf(&text, "%s: %s.\n", name, version)
		}
	}
	fmt.Fprintf(&text, "Medians of the rounds; in parentheses the ratio to %s. Errors and what else must not happen: sums.\n\n%s", r.to, r.summary())
	for _, w := range r.workloads {
		fmt.Fprintf(&text, "\n### %s\n\n%s (`%s`).\n\n%s", upperFirst(w.title), "Workload", w.name, r.table(w))
	}
	return text.String()
}

func upperFirst(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// write writes tables and chart to a directory.
func (r report) write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "tables.md"), []byte(r.tables()), 0o644); err != nil {
		return err
	}
	return r.chart(filepath.Join(dir, "chart.svg"))
}
