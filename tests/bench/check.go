//go:build unix

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// goal is a ratio that must hold.
type goal struct {
	workload, figure string
	peer, to         string
	atLeast, atMost  float64 // one of them
}

// goals are what the project promises of its own speed.
var goals = func() []goal {
	goals := []goal{
		{"json-16", cpuPerRequest, "gate", "stock", 0, 1.05},
		{"json-16", cpuPerRequest, "budget", "gate", 0, 1.05},
		{"events-1000", cpuPerEvent, "budget", "gate", 0, 1.03},
		{"json-16", perSecond, "command", "stock", 1.30, 0},
		{"json-64", perSecond, "command", "stock", 1.50, 0},
		{"json-16", perSecond, "command", "original", 1.8, 0},
		{"sse-1000", firstEvent + "_p50", "command", "original", 0, 0.001},
		{"sse-2000", rssPeak, "command", "original", 0, 0.5},
	}
	for _, r := range refusals {
		for _, ours := range []string{"gate", "command"} {
			goals = append(goals, goal{"refuse-" + r.kind, perSecond, ours, "byhand", 1, 0})
		}
	}
	return goals
}()

// never is what must not happen to any of ours, in any workload.
var never = []string{errorsSeen, lostEvents, truncated, hung}

// ours are the peers who are to keep the promises.
var ours = []string{"gate", "budget", "rules", "example", "command"}

// check says which goals hold, and fails if one does not, or was not measured.
func check(out io.Writer, rs results) error {
	failed := 0
	row := func(ok bool, format string, args ...any) {
		verdict := "ok    "
		if !ok {
			verdict = "MISSED"
			failed++
		}
		fmt.Fprintf(out, "%s %s\n", verdict, fmt.Sprintf(format, args...))
	}
	for _, g := range goals {
		what := fmt.Sprintf("%s: %s, %s / %s", g.workload, g.figure, g.peer, g.to)
		bound := fmt.Sprintf("at least %.3g", g.atLeast)
		if g.atMost > 0 {
			bound = fmt.Sprintf("at most %.3g", g.atMost)
		}
		ratio, measured := rs.ratio(g.workload, g.figure, g.peer, g.to)
		if !measured {
			row(false, "%s: not measured", what)
			continue
		}
		row(ratio >= g.atLeast && (g.atMost == 0 || ratio <= g.atMost), "%s: %.3g, %s", what, ratio, bound)
	}
	measured := 0
	for _, r := range rs {
		name, _, _ := strings.Cut(r.Peer, "=")
		if !slices.Contains(ours, name) {
			continue
		}
		measured++
		if r.Failure != "" {
			row(false, "%s, %s, round %d: %s", r.Workload, r.Peer, r.Round, r.Failure)
		}
		for _, figure := range never {
			if r.Figures[figure] > 0 {
				row(false, "%s, %s, round %d: %.0f %s", r.Workload, r.Peer, r.Round, r.Figures[figure], figure)
			}
		}
	}
	row(measured > 0, "no errors, lost events, cut streams or hung connections in %d measurements, but for what is said above", measured)
	if failed > 0 {
		return fmt.Errorf("%d goals are missed", failed)
	}
	return nil
}
