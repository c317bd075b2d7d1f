//go:build unix

package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// burst lets a number of connections come at once to a fresh process, each
// with one request. They stay open, as those of real callers do, until the last
// of them has its answer.
type burst struct{ connections int }

func (b burst) run(ctx context.Context, m *measurement) error {
	request := request{}.bytes(m.target)
	var (
		mu            sync.Mutex
		open          []*connection
		callers       sync.WaitGroup
		took          = newTimings()
		failed, hangs float64
		atOnce        = make(chan struct{})
		deadline      time.Time
	)
	for range b.connections {
		callers.Go(func() {
			<-atOnce
			begin := time.Now()
			conn, h, err := ask(m.target.addr, request, deadline)
			latency := time.Since(begin)
			mu.Lock()
			if conn != nil {
				open = append(open, conn)
			}
			defer mu.Unlock()
			switch {
			case timedOut(err):
				hangs++
			case err != nil || h.status != 200:
				failed++
				m.complain(fmt.Sprintf("status %d (%v)", h.status, err))
			default:
				took.add(latency)
			}
		})
	}
	used := m.cpu()
	deadline = time.Now().Add(m.patience)
	close(atOnce)
	callers.Wait()
	used = m.cpu() - used
	for _, conn := range open {
		_ = conn.Close()
	}
	took.into(m.figures, latency)
	m.figures[requestsDone] = float64(took.TotalCount())
	m.figures[errorsSeen], m.figures[hung] = failed, hangs
	if used > 0 && took.TotalCount() > 0 {
		m.figures[cpuPerRequest] = used.Seconds() * 1e6 / float64(took.TotalCount())
	}
	return ctx.Err()
}
