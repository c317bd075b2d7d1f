//go:build unix

package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"
)

// listen serves each connection until the test ends, and tells where.
func listen(t *testing.T, serve func(conn net.Conn, in *bufio.Reader)) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn, bufio.NewReader(conn))
			}()
		}
	}()
	return listener.Addr().String()
}

// oddUpstream is a server that does what no server should.
func oddUpstream(t *testing.T, answer func(conn net.Conn, in *bufio.Reader, served int64)) (*measurement, *atomic.Int64) {
	t.Helper()
	var served atomic.Int64
	addr := listen(t, func(conn net.Conn, in *bufio.Reader) {
		for {
			h, err := readHead(in)
			if err != nil || h.discardBody(in) != nil {
				return
			}
			answer(conn, in, served.Add(1))
		}
	})
	return &measurement{
		target: &target{addr: addr, token: fixedToken}, figures: map[string]float64{},
		duration: 100 * time.Millisecond, patience: 500 * time.Millisecond,
	}, &served
}

func hang(_ net.Conn, in *bufio.Reader) { _, _ = in.ReadByte() }

func TestALoopCountsEachAnswerOnce(t *testing.T) {
	m, served := oddUpstream(t, func(conn net.Conn, _ *bufio.Reader, _ int64) { _, _ = conn.Write(answerOK) })
	if err := (closedLoop{connections: 4, status: 200}).run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	// Those under way at the beginning and at the end may be left out.
	done, all := m.figures[requestsDone], float64(served.Load())
	if done < 1 || done > all || done < all-2*4 && done < all/2 {
		t.Errorf("%v requests done, but %v served", done, all)
	}
	if rate := m.figures[perSecond]; rate > done/m.duration.Seconds() {
		t.Errorf("%v requests/s, of %v in %s or more", rate, done, m.duration)
	}
	if m.figures[errorsSeen] != 0 || m.figures[hung] != 0 || m.figures[reconnects] != 0 {
		t.Errorf("figures %v, want neither errors nor reconnects", m.figures)
	}
}

func TestAnotherStatusIsAnError(t *testing.T) {
	m, served := oddUpstream(t, func(conn net.Conn, _ *bufio.Reader, served int64) {
		if served == 3 {
			_, _ = conn.Write(answerUnauthorized)
			return
		}
		_, _ = conn.Write(answerOK)
	})
	if err := (closedLoop{connections: 1, status: 200}).run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if served.Load() < 3 || m.figures[errorsSeen] != 1 || m.complaint == "" {
		t.Errorf("%v errors (%s) of %d requests, want 1", m.figures[errorsSeen], m.complaint, served.Load())
	}
}

func TestWhoDoesNotAnswerHangsAndTheSuiteDoesNot(t *testing.T) {
	never := func(conn net.Conn, in *bufio.Reader, _ int64) { hang(conn, in) }
	for name, load := range map[string]load{
		"loop":    closedLoop{connections: 3, status: 200},
		"burst":   burst{3},
		"streams": streams{3, openEvents},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := oddUpstream(t, never)
			if err := load.run(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if m.figures[hung] != 3 {
				t.Errorf("%v hung, want 3", m.figures[hung])
			}
		})
	}
}

func TestEventsThatDoNotComeAreLost(t *testing.T) {
	event := func(n int) string {
		data := fmt.Sprintf("data: {\"sequence_number\":%d,\"sent\":%d}\n\n", n, time.Now().UnixNano())
		return fmt.Sprintf("%x\r\n%s\r\n", len(data), data)
	}
	const start, end = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "0\r\n\r\n"
	var all []int
	for n := range eventsPerStream {
		all = append(all, n)
	}
	for name, c := range map[string]struct {
		numbers   []int
		end       bool
		lost, cut float64
	}{
		"all of them":          {numbers: all, end: true},
		"cut after three":      {numbers: all[:3], lost: eventsPerStream - 3, cut: 1},
		"a clean end too soon": {numbers: all[:3], end: true, lost: eventsPerStream - 3, cut: 1},
		"no end":               {numbers: all, cut: 1},
		"one left out":         {numbers: slices.Concat(all[:5], all[6:]), end: true, lost: eventsPerStream - 5, cut: 1},
		"one twice":            {numbers: slices.Concat(all[:2], all[1:]), end: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			m, _ := oddUpstream(t, func(conn net.Conn, _ *bufio.Reader, _ int64) {
				_, _ = io.WriteString(conn, start)
				for _, n := range c.numbers {
					_, _ = io.WriteString(conn, event(n))
				}
				if c.end {
					_, _ = io.WriteString(conn, end)
				}
				_ = conn.Close()
			})
			if err := (streams{1, openEvents}).run(t.Context(), m); err != nil {
				t.Fatal(err)
			}
			if m.figures[lostEvents] != c.lost || m.figures[truncated] != c.cut || m.figures[hung] != 0 {
				t.Errorf("%v lost, %v cut, %v hung; want %v, %v, 0", m.figures[lostEvents], m.figures[truncated], m.figures[hung], c.lost, c.cut)
			}
		})
	}
}

func TestTimingsArePercentilesInMilliseconds(t *testing.T) {
	took := newTimings()
	for n := 1; n <= 1000; n++ {
		took.add(time.Duration(n) * time.Millisecond)
	}
	figures := map[string]float64{}
	took.into(figures, "x")
	for name, want := range map[string]float64{"x_p50": 500, "x_p90": 900, "x_p99": 990, "x_max": 1000} {
		if got := figures[name]; got < want*0.999 || got > want*1.002 {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
}
