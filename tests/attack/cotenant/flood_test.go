//go:build linux

package cotenant

import (
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// enoughFiles lets programs that the tests start have as many connections as
// a flood needs.
func enoughFiles(t *testing.T) {
	t.Helper()
	const enough = 16 << 10
	var limit unix.Rlimit
	gatetest.Must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	if limit.Max < enough {
		gatetest.Must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: enough, Max: enough}))
	}
}

// connections is how many file descriptors a gate has open.
func connections(t *testing.T, g *gatetest.Gate) int {
	t.Helper()
	entries, err := os.ReadDir(procPath(g, "fd"))
	gatetest.Must(t, err)
	return len(entries)
}

// Ten thousand connections of another user, opened and held as slowly as can
// be, and no caller's request fails. (The gate closes them after a while, and
// the attacker opens others: so it has to try for some more.)
func TestCallersAreServedWhileAnotherUserHoldsTenThousandConnections(t *testing.T) {
	enoughFiles(t)
	up := gatetest.NewUpstream(t, nil)
	g := gatetest.StartCommand(t, up, gatetest.Site{}, gatetest.Launch{})
	stream := gatetest.NewEventStream()
	up.SetAnswer(stream.Serve)
	_, events := gatetest.OpenStream(t, gatetest.NewClient(t), g.Post())
	stream.Send(t)
	gatetest.ReadEvent(t, events, 1)
	up.SetAnswer(gatetest.AnswerJSON)

	var flooders []*gatetest.Actor
	for _, flood := range []struct{ kind, number string }{{"half-open", "6000"}, {"slow header", "6000"}, {"slow body", "500"}} {
		flooders = append(flooders, attacker(t, "flooder", g.Addr, flood.kind, flood.number, "renew"))
	}
	var stop atomic.Bool
	var served, failed atomic.Int64
	var slowest atomic.Int64
	var callers sync.WaitGroup
	for range 4 {
		client := gatetest.NewClient(t)
		for _, fresh := range []bool{true, false} { // a connection for each request, and one for all
			callers.Go(func() {
				for !stop.Load() {
					begin := time.Now()
					r := g.Post()
					r.Close = fresh
					response, err := client.Do(r)
					if err != nil {
						t.Errorf("a caller's request failed: %v", err)
						failed.Add(1)
						return
					}
					if got := gatetest.ReadAnswer(t, response); got.Status != http.StatusOK || got.Body != gatetest.JSONAnswer {
						t.Errorf("a caller got %d %s", got.Status, got.Body)
						failed.Add(1)
						return
					}
					served.Add(1)
					if took := int64(time.Since(begin)); took > slowest.Load() {
						slowest.Store(took)
					}
					time.Sleep(time.Millisecond) // (the flood needs the processors as well)
				}
			})
		}
	}
	for _, flooder := range flooders {
		flooder.WaitOutput("flooding", 1)
	}
	// Once all are there, many more requests.
	held, before := connections(t, g), served.Load()
	enough := func() bool { return held >= 10000 && served.Load() >= before+2000 }
	for deadline := time.Now().Add(2 * gatetest.Patience); !enough() && time.Now().Before(deadline) && failed.Load() == 0; {
		time.Sleep(10 * time.Millisecond)
		held = max(held, connections(t, g))
	}
	stop.Store(true)
	callers.Wait()
	stream.Send(t) // a stream that was open before goes on
	gatetest.ReadEvent(t, events, 2)
	close(stream.Next)
	if held < 10000 {
		t.Errorf("the gate had only %d connections at a time: this attack shows nothing", held)
	}
	if got := served.Load() - before; got < 200 {
		t.Errorf("only %d requests were served during the flood", got)
	}
	t.Logf("%d requests served, %d of them while the gate held %d connections; the slowest took %v",
		served.Load(), served.Load()-before, held, time.Duration(slowest.Load()))
	for _, flooder := range flooders {
		t.Logf("%+v", reported[flooderReport](t, flooder))
	}
	for _, seen := range up.Requests() {
		seen.HasKey(t)
	}
}

// The gate may have no more than a few connections. Whoever takes all of them
// and sends nothing does not keep them.
func TestConnectionsThatSendNothingDoNotKeepCallersOut(t *testing.T) {
	t.Parallel()
	const few = "-n 256"
	up := gatetest.NewUpstream(t, nil)
	t.Run("the command", func(t *testing.T) {
		t.Parallel()
		g := gatetest.StartCommand(t, up, gatetest.Site{}, gatetest.Launch{Limits: few})
		actor := attacker(t, "flooder", g.Addr, "half-open", "400", "once")
		actor.WaitOutput("flooding", 1)
		answersAgain(t, g, gatetest.Patience)
		actor.WaitOutput("dry", 1)
	})
	t.Run("control: the original serves nobody any more", func(t *testing.T) {
		t.Parallel()
		g := gatetest.StartOriginal(t, up, gatetest.Site{}, gatetest.Launch{Limits: few})
		attacker(t, "flooder", g.Addr, "half-open", "400", "once")
		// It has as many as it may, or has ended for want of more.
		awaitConnections(t, g, func(n int) bool { return n == 0 || n >= 250 })
		client := gatetest.NewClient(t)
		client.Timeout = 20 * time.Second // twice what ours needs
		response, err := client.Do(g.Post())
		if err == nil {
			_ = response.Body.Close()
			t.Error("the original answers: this attack shows nothing")
			return
		}
		t.Logf("the original: %v; it printed: %s", err, g.Output)
	})
}

// A refused request is answered on each connection, so they are no longer those
// that send nothing: they may lie idle for minutes.
func TestWhoIsRefusedDoesNotKeepCallersOut(t *testing.T) {
	t.Parallel()
	const few, flood = "-n 256", "400"
	up := gatetest.NewUpstream(t, nil)
	t.Run("the command", func(t *testing.T) {
		t.Parallel()
		g := gatetest.StartCommand(t, up, gatetest.Site{}, gatetest.Launch{Limits: few})
		attacker(t, "flooder", g.Addr, "refused", flood, "once").WaitOutput("flooding", 1)
		answersAgain(t, g, gatetest.Patience)
		awaitConnections(t, g, func(n int) bool { return n < 100 })
	})
	t.Run("a Caddyfile", func(t *testing.T) {
		t.Parallel()
		g := gatetest.StartGate(t, up, gatetest.Site{Limits: few})
		attacker(t, "flooder", g.Addr, "refused", flood, "once").WaitOutput("flooding", 1)
		answersAgain(t, g, gatetest.Patience)
		awaitConnections(t, g, func(n int) bool { return n < 100 })
	})
	t.Run("control: the original serves nobody any more", func(t *testing.T) {
		t.Parallel()
		g := gatetest.StartOriginal(t, up, gatetest.Site{}, gatetest.Launch{Limits: few})
		attacker(t, "flooder", g.Addr, "refused", flood, "once")
		awaitConnections(t, g, func(n int) bool { return n == 0 || n >= 250 })
		client := gatetest.NewClient(t)
		client.Timeout = 10 * time.Second
		if response, err := client.Do(g.Post()); err == nil {
			_ = response.Body.Close()
			t.Error("the original answers: this attack shows nothing")
		}
	})
}

// awaitConnections waits until a gate has as many file descriptors open as are
// wanted; none once it has ended.
func awaitConnections(t *testing.T, g *gatetest.Gate, wanted func(int) bool) {
	t.Helper()
	gatetest.Until(t, "the gate to have as many files open as are wanted", func() bool {
		entries, _ := os.ReadDir(procPath(g, "fd")) // (an error: it has ended)
		return wanted(len(entries))
	})
}

// A client with a token begins many requests and ends none. What is left is the
// others'.
func TestOneClientsRequestsLeaveTheOthersRoom(t *testing.T) {
	t.Parallel()
	const sent, share = 200, 128 // of 512 files
	end := make(chan struct{})
	up := gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Wait") != "" {
			<-end
		}
		gatetest.AnswerJSON(w, r)
	})
	dir := gatetest.TempDir(t)
	info := func(client string) string { return filepath.Join(dir, client+".json") }
	g := gatetest.StartGate(t, up, gatetest.Site{
		Dir: dir, Limits: "-n 512", Gate: "client greedy {\nserver_info " + info("greedy") + "\n}\nclient other {\nserver_info " + info("other") + "\n}",
	})
	g.Token = gatetest.ReadInfo(t, info("greedy")).AuthToken
	client := gatetest.NewClient(t)
	statuses := make(chan int, sent)
	for range sent {
		r := g.Post(gatetest.SetHeader("X-Wait", "yes"))
		go func() {
			response, err := client.Do(r)
			if err != nil {
				statuses <- 0
				return
			}
			_ = response.Body.Close()
			statuses <- response.StatusCode
		}()
	}
	for range sent - share {
		if got := <-statuses; got != http.StatusTooManyRequests {
			t.Errorf("status %d", got)
		}
	}
	g.Token = gatetest.ReadInfo(t, info("other")).AuthToken
	g.Works(t)
	close(end)
	for range share {
		if got := <-statuses; got != http.StatusOK {
			t.Errorf("status %d", got)
		}
	}
}

// answersAgain waits until the gate serves a request.
func answersAgain(t *testing.T, g *gatetest.Gate, patience time.Duration) {
	t.Helper()
	client := gatetest.NewClient(t)
	client.Timeout = patience
	response, err := client.Do(g.Post())
	gatetest.Must(t, err)
	if got := gatetest.ReadAnswer(t, response); got.Status != http.StatusOK {
		t.Errorf("status %d", got.Status)
	}
}
