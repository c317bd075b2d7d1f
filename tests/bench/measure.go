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

// watchThreads notes the most threads that the peer has, until ctx ends.
func (m *measurement) watchThreads(ctx context.Context) (most func() int) {
	if m.target.pid == 0 {
		return func() int { return 0 }
	}
	ctx, stop := context.WithCancel(ctx)
	found := make(chan int, 1)
	go func() {
		var most int
		for {
			if now, err := m.processes.threads(); err == nil {
				most = max(most, now)
			}
			if ctx.Err() != nil {
				found <- most
				return
			}
			pause(ctx, 100*time.Millisecond)
		}
	}()
	return func() int { stop(); return <-found }
}

// measure starts a peer, puts it through a workload and ends it.
func (b *bench) measure(ctx context.Context, p *peer, w workload, round int) result {
	r := result{Workload: w.name, Peer: p.name, Round: round}
	dir, err := os.MkdirTemp(b.dir, p.name)
	if err != nil {
		r.Failure = err.Error()
		return r
	}
	defer os.RemoveAll(dir)
	upstream := b.upstreams.byKind[w.upstream]
	target, err := launch(ctx, p, setting{
		Upstream: upstream, Dir: dir, CA: filepath.Join(b.dir, "ca.pem"), WebSocket: w.upstream == "websocket", Refusal: w.status,
	})
	if err != nil {
		r.Failure = err.Error()
		return r
	}
	defer target.stop()
	m := &measurement{target: target, duration: w.part(b.duration), warmUp: w.part(b.warmUp), patience: hangPatience, figures: map[string]float64{}}
	if target.pid != 0 {
		m.processes = processesOf(target.pid)
	}
	if now, _ := m.memory(); now > 0 {
		m.figures[rssIdle] = float64(now) / (1 << 20)
	}
	most := m.watchThreads(ctx)
	err = w.load.run(ctx, m)
	if n := most(); n > 0 {
		m.figures[threadsAtMost] = float64(n)
	}
	if _, peak := m.memory(); peak > 0 {
		m.figures[rssPeak] = float64(peak) / (1 << 20)
	}
	r.Figures = m.figures
	switch {
	case err != nil:
		r.Figures, r.Failure = nil, err.Error()
	case target.cmd != nil && target.ended():
		r.Figures, r.Failure = nil, fmt.Sprintf("ended in the middle of it (%s)", m.complaint)
	}
	if m.complaint != "" {
		r.Printed = m.complaint
		if target.cmd != nil {
			r.Printed += "\n" + target.printed()
		}
	}
	return r
}
