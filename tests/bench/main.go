//go:build unix

// Command bench measures the gate and the command beside the original, stock
// Caddy, hand-written matchers, nginx and HAProxy, on one machine in one run.
// docs/benchmarks.md says how to use it and how to read what it tells.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"syscall"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/caddybuild"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// options are the command line.
type options struct {
	peers, workloads string
	rounds           int
	duration         time.Duration
	quick            bool
	out, from        string
	to               string
	check, list      bool
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.StringVar(&o.peers, "peers", "", "peers by name, with commas; command=/path/to/caddy is the command of another build (default: all that are here)")
	flags.StringVar(&o.workloads, "workloads", "", "workloads by name or pattern, with commas, such as json-*,sse-1000 (default: all)")
	flags.IntVar(&o.rounds, "rounds", 3, "how often everything is measured, in turns")
	flags.DurationVar(&o.duration, "duration", time.Second, "how long each throughput is measured; refusals half of it")
	flags.BoolVar(&o.quick, "quick", false, "one short round of the main workloads: a first look")
	flags.StringVar(&o.out, "out", "bench.out", "directory for results.jsonl, tables.md and chart.svg")
	flags.StringVar(&o.from, "from", "", "measure nothing: read this results.jsonl again")
	flags.StringVar(&o.to, "to", "stock", "peer that ratios compare with")
	flags.BoolVar(&o.check, "check", false, "fail if a goal is missed, and say which")
	flags.BoolVar(&o.list, "list", false, "list peers and workloads, and end")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if flags.NArg() > 0 {
		return o, fmt.Errorf("unknown argument %q", flags.Arg(0))
	}
	if o.rounds < 1 || o.duration <= 0 {
		return o, errors.New("-rounds and -duration must be more than nothing")
	}
	if o.quick {
		o.rounds, o.duration = 1, min(o.duration, 500*time.Millisecond)
		o.workloads = or(o.workloads, "json-16,json-64,sse-1000,refuse-missing,burst-64")
	}
	return o, nil
}

func run(ctx context.Context, args []string) error {
	o, err := parse(args)
	if err != nil {
		return err
	}
	var r report
	if o.from != "" {
		r, err = readReport(o.from)
	} else {
		r, err = measureAll(ctx, o)
	}
	if err != nil || o.list {
		return err
	}
	r.to = o.to
	if err := r.write(o.out); err != nil {
		return err
	}
	fmt.Printf("%s\nresults.jsonl, tables.md and chart.svg are in %s\n", r.summary(), o.out)
	if !o.check {
		return nil
	}
	return check(os.Stdout, r.results)
}

// bench is a run of the suite.
type bench struct {
	dir       string // for the peers' files
	upstreams *upstreams
	duration  time.Duration
	warmUp    time.Duration
}

// measureAll measures what the options ask for.
func measureAll(ctx context.Context, o options) (report, error) {
	dir, err := os.MkdirTemp("", "gate-bench")
	if err != nil {
		return report{}, err
	}
	defer os.RemoveAll(dir)
	caddy, err := findCaddy(ctx, dir, o.list)
	if err != nil {
		return report{}, err
	}
	here, missing := findPeers(caddy)
	peers, err := choosePeers(here, o.peers)
	if err != nil {
		return report{}, err
	}
	workloads, err := chooseWorkloads(allWorkloads(), o.workloads)
	if err != nil {
		return report{}, err
	}
	for _, text := range missing {
		fmt.Fprintln(os.Stderr, text)
	}
	if o.list {
		list(peers, workloads)
		return report{}, nil
	}
	b, err := newBench(dir, o)
	if err != nil {
		return report{}, err
	}
	defer b.upstreams.close()
	if err := os.MkdirAll(o.out, 0o755); err != nil {
		return report{}, err
	}
	lines, err := os.Create(filepath.Join(o.out, "results.jsonl"))
	if err != nil {
		return report{}, err
	}
	r := report{environment: describe(ctx, o, peers), peers: peers, workloads: workloads}
	r.results, err = b.all(ctx, peers, workloads, o.rounds, json.NewEncoder(lines), r.environment)
	return r, errors.Join(err, lines.Close())
}

func newBench(dir string, o options) (*bench, error) {
	runtime.GOMAXPROCS(max(loopProcessors, runtime.GOMAXPROCS(0)))
	upstreams, err := startUpstreams()
	if err != nil {
		return nil, err
	}
	err = os.WriteFile(filepath.Join(dir, "ca.pem"), upstreams.ca, 0o644)
	return &bench{dir: dir, upstreams: upstreams, duration: o.duration, warmUp: min(o.duration/4, 300*time.Millisecond)}, err
}

// all measures everything in rounds. In each, all peers are measured with a
// workload before the next one, each time beginning with another.
func (b *bench) all(ctx context.Context, peers []*peer, workloads []workload, rounds int, lines *json.Encoder, about environment) (results, error) {
	if err := lines.Encode(about); err != nil {
		return nil, err
	}
	bar := newProgress(b, peers, workloads, rounds)
	defer bar.end()
	var all results
	for round := range rounds {
		first := round % len(peers)
		inOrder := slices.Concat(peers[first:], peers[:first])
		for _, w := range workloads {
			suited := slices.DeleteFunc(slices.Clone(inOrder), func(p *peer) bool { return !w.suits(p) })
			for _, group := range w.turns(suited) {
				bar.begin(round+1, w, group)
				measured := b.measure(ctx, group, w, round+1)
				if ctx.Err() != nil {
					return all, errors.New("interrupted")
				}
				for _, result := range measured {
					if result.Failure != "" {
						bar.say("%s, %s: %s", w.name, result.Peer, result.Failure)
					}
					if err := lines.Encode(result); err != nil {
						return all, err
					}
				}
				all = append(all, measured...)
				bar.done(b, w, group)
			}
		}
	}
	return all, nil
}

func list(peers []*peer, workloads []workload) {
	for _, p := range peers {
		fmt.Printf("%-12s %s\n", p.name, p.what)
	}
	fmt.Println()
	for _, w := range workloads {
		fmt.Printf("%-16s %s\n", w.name, w.title)
	}
}

// findCaddy is the one that CADDY_BINARY names, or one that is built as xcaddy
// does it: this is what people run, and it is smaller in memory.
func findCaddy(ctx context.Context, dir string, onlyList bool) (string, error) {
	if onlyList {
		return "caddy", nil
	}
	if os.Getenv("CADDY_BINARY") == "" {
		fmt.Fprintln(os.Stderr, "building Caddy with the gate …")
	}
	return caddybuild.Find(ctx, dir, caddybuild.Build{
		Args: []string{"-race=false", "-trimpath", "-ldflags", "-w -s", "-tags", "nobadger,nomysql,nopgx"},
		Env:  []string{"CGO_ENABLED=0"},
	})
}
