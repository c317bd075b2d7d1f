//go:build unix

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// hangPatience is how long an answer may be late before its connection counts
// as hung.
const hangPatience = 5 * time.Second

// measurement is one that is under way.
type measurement struct {
	target    *target
	processes processes
	duration  time.Duration
	warmUp    time.Duration
	patience  time.Duration // who has no answer after it hangs
	figures   map[string]float64
	threads   int // at most, as far as was looked

	mu        sync.Mutex
	complaint string // the first
}

// complain notes what went wrong, in words.
func (m *measurement) complain(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.complaint = or(m.complaint, what)
}

// cpu is the CPU time that the peer has used; 0 if that can't be known.
func (m *measurement) cpu() time.Duration {
	if m.target.pid == 0 {
		return 0
	}
	used, _ := m.processes.cpu()
	return used
}

// memory is the peer's resident memory in bytes; 0 if that can't be known.
func (m *measurement) memory() (now, peak int64) {
	if m.target.pid == 0 {
		return 0, 0
	}
	now, peak, _ = m.processes.memory()
	return now, peak
}

// settle waits until the peer rests, or for a while, and returns the CPU time
// that it has used by then.
func (m *measurement) settle(ctx context.Context) time.Duration {
	const look, while, little = 2 * time.Millisecond, 20 * time.Millisecond, 40 * time.Microsecond
	used := m.cpu()
	for range while / look {
		if m.target.pid == 0 || ctx.Err() != nil {
			break
		}
		time.Sleep(look)
		before := used
		if used = m.cpu(); used-before < little {
			break
		}
	}
	return used
}

// noteThreads looks how many threads the peer has.
func (m *measurement) noteThreads() {
	if m.target.pid != 0 {
		now, _ := m.processes.threads()
		m.threads = max(m.threads, now)
	}
}

// watchThreads looks at the peer's threads again and again, until stop.
func (m *measurement) watchThreads(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for ctx.Err() == nil {
			m.noteThreads()
			pause(ctx, 100*time.Millisecond)
		}
	})
	return func() { cancel(); watching.Wait(); m.noteThreads() }
}

// measure starts peers, puts them through a workload and ends them: several
// take turns at it, if it is one for that.
func (b *bench) measure(ctx context.Context, peers []*peer, w workload, round int) []result {
	var running []*measurement
	results := make([]result, len(peers))
	ends := make([]func(error), len(peers))
	for n, p := range peers {
		results[n] = result{Workload: w.name, Peer: p.name, Round: round}
		m, stop, err := b.start(ctx, p, w)
		if err != nil {
			results[n].Failure = err.Error()
			continue
		}
		defer stop()
		running = append(running, m)
		ends[n] = func(err error) { m.conclude(&results[n], err) }
	}
	var err error
	switch load := w.load.(type) {
	case closedLoop:
		err = load.runInTurns(ctx, running)
	default:
		for _, m := range running {
			stopWatching := m.watchThreads(ctx)
			err = load.run(ctx, m)
			stopWatching()
		}
	}
	for _, end := range ends {
		if end != nil {
			end(err)
		}
	}
	return results
}

// start starts a peer. stop ends it, and removes its files.
func (b *bench) start(ctx context.Context, p *peer, w workload) (m *measurement, stop func(), err error) {
	dir, err := os.MkdirTemp(b.dir, p.name)
	if err != nil {
		return nil, nil, err
	}
	target, err := launch(ctx, p, setting{
		Upstream: b.upstreams.byKind[w.upstream], Dir: dir, CA: filepath.Join(b.dir, "ca.pem"),
		WebSocket: w.upstream == "websocket", Refusal: w.status,
	})
	if err != nil {
		_ = os.RemoveAll(dir)
		return nil, nil, err
	}
	m = &measurement{target: target, duration: w.part(b.duration), warmUp: w.part(b.warmUp), patience: hangPatience, figures: map[string]float64{}}
	if target.pid != 0 {
		m.processes = processesOf(target.pid)
	}
	if now, _ := m.memory(); now > 0 {
		m.figures[rssIdle] = float64(now) / (1 << 20)
	}
	return m, func() { target.stop(); _ = os.RemoveAll(dir) }, nil
}

// conclude says what has come of a measurement that has ended with err. The
// peer still runs.
func (m *measurement) conclude(r *result, err error) {
	m.noteThreads()
	if m.threads > 0 {
		m.figures[threadsAtMost] = float64(m.threads)
	}
	if _, peak := m.memory(); peak > 0 {
		m.figures[rssPeak] = float64(peak) / (1 << 20)
	}
	r.Figures = m.figures
	switch {
	case err != nil:
		r.Figures, r.Failure = nil, err.Error()
	case m.target.cmd != nil && m.target.ended():
		r.Figures, r.Failure = nil, fmt.Sprintf("ended in the middle of it (%s)", m.complaint)
	}
	if m.complaint != "" {
		r.Printed = m.complaint
		if m.target.cmd != nil {
			r.Printed += "\n" + m.target.printed()
		}
	}
}
