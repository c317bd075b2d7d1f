//go:build unix

package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// burst lets a number of connections come at once to a fresh process, each
// with one request.
type burst struct{ connections int }

func (b burst) run(ctx context.Context, m *measurement) error {
	request := request{}.bytes(m.target)
	var (
		mu            sync.Mutex
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
			status, err := once(m.target.addr, request, deadline)
			latency := time.Since(begin)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case timedOut(err):
				hangs++
			case err != nil || status != 200:
				failed++
				m.complain(fmt.Sprintf("status %d (%v)", status, err))
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
	took.into(m.figures, latency)
	m.figures[requestsDone] = float64(took.TotalCount())
	m.figures[errorsSeen], m.figures[hung] = failed, hangs
	if used > 0 && took.TotalCount() > 0 {
		m.figures[cpuPerRequest] = used.Seconds() * 1e6 / float64(took.TotalCount())
	}
	return ctx.Err()
}

// once is one request on a connection of its own.
func once(addr string, request []byte, deadline time.Time) (status int, err error) {
	conn, err := dial(addr, deadline)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	h, err := conn.exchange(request)
	return h.status, err
}
