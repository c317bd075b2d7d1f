//go:build unix

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

func ok(conn net.Conn, _ *bufio.Reader, _ int64) { _, _ = conn.Write(answerOK) }

// loopFigures runs a loop of so many connections, and wants these figures.
func loopFigures(t *testing.T, m *measurement, connections int, r request, want map[string]float64) {
	t.Helper()
	if want[hung] == 0 {
		m.patience = 30 * time.Second // none is to hang for a busy machine's sake
	}
	if err := (closedLoop{connections: connections, status: 200, request: r}).run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if m.figures[requestsDone] < 1 {
		t.Errorf("nothing done: %v (%s)", m.figures, m.complaint)
	}
	for figure, value := range want {
		if m.figures[figure] != value {
			t.Errorf("%s: %v, want %v (%s)", figure, m.figures[figure], value, m.complaint)
		}
	}
}

// Requests and answers that are larger than any socket's buffer go out and
// come in piece by piece, to the last byte, while small ones go their way.
func TestLargeBodiesAreWholeAndDoNotHoldUpOthers(t *testing.T) {
	const size = 24 << 20
	var mu sync.Mutex
	lengths := map[int64]int{}
	large := make([]byte, size)
	addr := listen(t, func(conn net.Conn, in *bufio.Reader) {
		for {
			h, err := readHead(in)
			if err != nil {
				return
			}
			n, err := io.Copy(io.Discard, h.body(in))
			if err != nil {
				return
			}
			mu.Lock()
			lengths[n]++
			mu.Unlock()
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(large), large)
		}
	})
	m := &measurement{
		target: &target{addr: addr, token: fixedToken}, figures: map[string]float64{},
		duration: 100 * time.Millisecond, patience: 30 * time.Second,
	}
	loopFigures(t, m, 2, request{size: size}, map[string]float64{errorsSeen: 0, reconnects: 0, hung: 0})
	mu.Lock()
	defer mu.Unlock()
	if len(lengths) != 1 || lengths[size] < int(m.figures[requestsDone]) {
		t.Errorf("the server had bodies of these lengths: %v, want only %d", lengths, size)
	}
}

// The upstream's loop: one caller in the middle of a large body, and one that
// does not read its answers, are no reason for others to wait.
func TestTheUpstreamServesOthersWhileOneIsSlow(t *testing.T) {
	u, err := startUpstreams()
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	addr := u.byKind["json"].Addr
	deadline := time.Now().Add(30 * time.Second)
	small := request{}.bytes(&target{addr: addr, token: fixedToken})
	large := request{size: 8 << 20}.bytes(&target{addr: addr, token: fixedToken})
	slow, err := dial(addr, deadline)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	if _, err := slow.Write(large[:len(large)/2]); err != nil {
		t.Fatal(err)
	}
	deaf, err := dial(addr, deadline)
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	const many = 50_000 // their answers are more than sockets hold
	wrote := make(chan error, 1)
	go func() {
		for range many {
			if _, err := deaf.Write(small); err != nil {
				wrote <- err
				return
			}
		}
		wrote <- nil
	}()
	for range 100 {
		conn, h, err := ask(addr, small, deadline)
		if err != nil || h.status != 200 {
			t.Fatalf("status %d (%v)", h.status, err)
		}
		_ = conn.Close()
	}
	if h, err := slow.exchange(large[len(large)/2:]); err != nil || h.status != 200 {
		t.Errorf("the slow one has status %d (%v)", h.status, err)
	}
	for n := range many {
		h, err := readHead(deaf.in)
		if err == nil {
			err = h.discardBody(deaf.in)
		}
		if err != nil || h.status != 200 {
			t.Fatalf("answer %d of those not read at once: status %d (%v)", n, h.status, err)
		}
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

func TestTheUpstreamWantsTheKey(t *testing.T) {
	u, err := startUpstreams()
	if err != nil {
		t.Fatal(err)
	}
	defer u.close()
	addr := u.byKind["json"].Addr
	conn, h, err := ask(addr, request{}.bytes(&target{addr: addr, injects: true}), time.Now().Add(30*time.Second))
	if err != nil || h.status != 401 {
		t.Fatalf("without the key: status %d (%v), want 401", h.status, err)
	}
	_ = conn.Close()
}

func TestAPeerThatClosesConnectionsIsDialledAgain(t *testing.T) {
	t.Run("as it said", func(t *testing.T) {
		m, _ := oddUpstream(t, func(conn net.Conn, _ *bufio.Reader, _ int64) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
		})
		// Each request but the first has its own connection. The first one's
		// answer is not among those that count.
		loopFigures(t, m, 1, request{}, map[string]float64{errorsSeen: 0, hung: 0})
		if m.figures[reconnects] < m.figures[requestsDone] {
			t.Errorf("%v reconnects for %v requests", m.figures[reconnects], m.figures[requestsDone])
		}
	})
	t.Run("as the end of an answer", func(t *testing.T) {
		m, _ := oddUpstream(t, func(conn net.Conn, _ *bufio.Reader, _ int64) {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\nhello")
			_ = conn.Close()
		})
		loopFigures(t, m, 2, request{}, map[string]float64{errorsSeen: 0, hung: 0})
	})
	t.Run("in the middle of an answer, once", func(t *testing.T) {
		m, _ := oddUpstream(t, func(conn net.Conn, _ *bufio.Reader, served int64) {
			if served == 3 {
				_, _ = conn.Write(answerOK[:len(answerOK)-1])
				_ = conn.Close()
				return
			}
			_, _ = conn.Write(answerOK)
		})
		loopFigures(t, m, 1, request{}, map[string]float64{errorsSeen: 1, reconnects: 1, hung: 0})
	})
	t.Run("while nothing is asked", func(t *testing.T) {
		closed := make(chan struct{})
		m, _ := oddUpstream(t, func(conn net.Conn, in *bufio.Reader, served int64) {
			_, _ = conn.Write(answerOK)
			if served == 1 {
				_ = conn.Close()
				close(closed)
			}
		})
		c, err := newCallers(m.target, request{}, 200)
		if err != nil {
			t.Fatal(err)
		}
		defer c.close()
		if err := c.open(t.Context(), 1, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		<-closed
		c.counting = true
		if _, err := c.keepAsking(t.Context(), 20*time.Millisecond, 30*time.Second); err != nil {
			t.Fatal(err)
		}
		if c.errors != 0 || c.reconnects != 1 || c.done < 1 {
			t.Errorf("%d errors, %d reconnects, %d done; want 0, 1 and some (%s)", c.errors, c.reconnects, c.done, c.problem)
		}
	})
}

func TestAPeerThatIsGoneIsAnErrorAndNoEndlessLoop(t *testing.T) {
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	m := &measurement{
		target: &target{addr: fmt.Sprintf("127.0.0.1:%d", port), token: fixedToken}, figures: map[string]float64{},
		duration: 200 * time.Millisecond, patience: 30 * time.Second,
	}
	if err := (closedLoop{connections: 2, status: 200}).run(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	// Each caller tries when it opens, warms up, and in each of two slices.
	if m.figures[errorsSeen] != 8 || m.figures[requestsDone] != 0 || m.complaint == "" {
		t.Errorf("figures %v (%s), want 8 errors and nothing done", m.figures, m.complaint)
	}
}

func TestWhoHangsInTheMiddleIsCountedAndTheOthersGoOn(t *testing.T) {
	m, _ := oddUpstream(t, func(conn net.Conn, in *bufio.Reader, served int64) {
		if served == 10 {
			hang(conn, in)
			return
		}
		_, _ = conn.Write(answerOK)
	})
	loopFigures(t, m, 3, request{}, map[string]float64{errorsSeen: 0, hung: 1, reconnects: 0})
	if m.figures[requestsDone] < 10 {
		t.Errorf("only %v done", m.figures[requestsDone])
	}
}

func TestAnAnswerThatNobodyAskedForIsAnError(t *testing.T) {
	m, _ := oddUpstream(t, func(conn net.Conn, _ *bufio.Reader, served int64) {
		answer := answerOK
		if served == 3 {
			answer = append(append([]byte{}, answerOK...), answerOK...)
		}
		_, _ = conn.Write(answer)
	})
	loopFigures(t, m, 1, request{}, map[string]float64{errorsSeen: 1, reconnects: 1, hung: 0})
}

// Two peers take turns: never both at once, each several times, each with all
// that is its own.
func TestPeersTakeTurnsAndTheirSlicesAddUp(t *testing.T) {
	var mu sync.Mutex
	var turns []string
	total := map[string]int64{}
	peer := func(name string) *measurement {
		m, _ := oddUpstream(t, func(conn net.Conn, in *bufio.Reader, served int64) {
			mu.Lock()
			if len(turns) == 0 || turns[len(turns)-1] != name {
				turns = append(turns, name)
			}
			total[name] = served
			mu.Unlock()
			ok(conn, in, served)
		})
		m.duration, m.patience = 4*slice, 30*time.Second
		return m
	}
	peers := []*measurement{peer("a"), peer("b")}
	begin := time.Now()
	if err := (closedLoop{connections: 3, status: 200}).runInTurns(t.Context(), peers); err != nil {
		t.Fatal(err)
	}
	took := time.Since(begin)
	mu.Lock()
	defer mu.Unlock()
	// Each opens and warms up, and then they rotate: a b, b a, a b, b a. What a
	// slow machine gives in one slice can be the whole time of a peer.
	if len(turns) < 4 || len(turns) > 9 {
		t.Errorf("turns %v", turns)
	}
	for n, name := range []string{"a", "b"} {
		figures := peers[n].figures
		done := figures[requestsDone]
		// Opening asks once on each connection, and so does the warm-up.
		if int64(done) != total[name]-6 {
			t.Errorf("%s: %v done, but %d served, 6 of them before it counted", name, done, total[name])
		}
		seconds := done / figures[perSecond]
		if seconds < peers[n].duration.Seconds() || seconds > took.Seconds() {
			t.Errorf("%s: its slices are %.3f s together, want %s at least", name, seconds, peers[n].duration)
		}
		if figures[errorsSeen] != 0 || figures[reconnects] != 0 || figures[hung] != 0 {
			t.Errorf("%s: %v", name, figures)
		}
	}
}

func TestAnInterruptEndsALoop(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	m, _ := oddUpstream(t, func(conn net.Conn, in *bufio.Reader, served int64) {
		if served == 5 {
			cancel()
			hang(conn, in)
		}
		_, _ = conn.Write(answerOK)
	})
	m.patience = time.Hour
	if err := (closedLoop{connections: 1, status: 200}).run(ctx, m); err != context.Canceled {
		t.Errorf("error %v", err)
	}
}
