package responsesproxygate

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// repeatedly puts n requests through a gate.
func repeatedly(t *testing.T, h *Handler, n int, change func(*http.Request)) {
	t.Helper()
	for range n {
		refusing(t, h, change)
	}
}

// told is how many refusals of a code a trail tells of, and in how many lines.
func told(logs *observer.ObservedLogs, code string) (refusals, inLines int) {
	for _, entry := range logs.FilterField(zap.String("code", code)).All() {
		inLines++
		if dropped, ok := entry.ContextMap()["dropped"].(int64); ok {
			refusals += int(dropped)
		} else {
			refusals++
		}
	}
	return refusals, inLines
}

func wantTold(t *testing.T, logs *observer.ObservedLogs, code string, refusals, inLines int) {
	t.Helper()
	if got, lines := told(logs, code); got != refusals || lines != inLines {
		t.Errorf("%s: told of %d refusals in %d lines, want %d in %d", code, got, lines, refusals, inLines)
	}
}

func TestAFloodOfRefusalsIsAFewLinesAndACount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		repeatedly(t, h, 5000, guess)
		wantTold(t, logs, "invalid_token", floodLimit, floodLimit)

		// Another code is not hidden by it, nor what a known caller does.
		refusing(t, h, webPage)
		wantTold(t, logs, "origin_not_allowed", 1, 1)
		refusing(t, h, asking(t, "/v1/files"))
		wantTold(t, logs, "route_not_allowed", 1, 1)

		time.Sleep(floodWindow)
		synctest.Wait()
		wantTold(t, logs, "invalid_token", 5000, floodLimit+1)
		last := logs.FilterField(zap.Int64("dropped", 5000-floodLimit)).All()
		if len(last) != 1 || last[0].Level != zap.InfoLevel || last[0].Message != "refused, and not written one by one" {
			t.Fatalf("the count is %v", last)
		}

		// A window without a flood says nothing at its end, and the next is new.
		repeatedly(t, h, floodLimit, guess)
		time.Sleep(floodWindow)
		synctest.Wait()
		repeatedly(t, h, floodLimit, guess)
		wantTold(t, logs, "invalid_token", 5000+2*floodLimit, 3*floodLimit+1)
		time.Sleep(time.Hour)
		synctest.Wait()
		wantTold(t, logs, "invalid_token", 5000+2*floodLimit, 3*floodLimit+1)
	})
}

// Whoever has a token can have requests fail as often as they like.
func TestAFloodOfFailuresIsAFewLinesAndACount(t *testing.T) {
	for name, err := range map[string]error{
		"of the upstream's":          caddyhttp.Error(502, io.EOF),
		"of bodies that break off":   caddyhttp.Error(400, io.EOF),
		"of callers who leave":       caddyhttp.Error(499, context.Canceled),
		"of bodies that are too big": &http.MaxBytesError{Limit: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, logs := testGate()
				for range 3 * floodLimit {
					serveTo(t, h, goodRequest(), func(http.ResponseWriter, *http.Request) error { return err })
				}
				if got := logs.Len(); got != floodLimit {
					t.Errorf("%d lines, want %d", got, floodLimit)
				}
				time.Sleep(floodWindow)
				synctest.Wait()
				last := logs.All()[logs.Len()-1]
				if fields := last.ContextMap(); !strings.HasPrefix(last.Message, "failed behind the gate") || fields["dropped"] != int64(2*floodLimit) || fields["client"] != "default" {
					t.Errorf("the last line is %q %v", last.Message, fields)
				}
			})
		})
	}
}

func TestOneClientsFloodHidesNoOtherClient(t *testing.T) {
	h, logs := testGate()
	names := []string{"loud", "quiet"}
	for _, name := range names {
		id := callerID{gate: h.Name, client: name}
		state := &caller{id: id, metrics: newCallerMetrics(id)}
		for range map[string]int{"loud": 1000, "quiet": 1}[name] {
			h.trail.refused(goodRequest(), &configuredCaller{caller: state, name: name}, errRouteNotAllowed)
		}
	}
	h.trail.close()
	for i, want := range []int{floodLimit + 1, 1} {
		if got := logs.FilterField(zap.String("client", names[i])).Len(); got != want {
			t.Errorf("%d lines of %s, want %d", got, names[i], want)
		}
	}
	wantTold(t, logs, "route_not_allowed", 1001, floodLimit+2)
}

func TestAFloodOfWebPagesIsCountedAsAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		repeatedly(t, h, floodLimit+1, webPage)
		time.Sleep(floodWindow)
		synctest.Wait()
		if all := logs.All(); all[len(all)-1].Level != zap.WarnLevel {
			t.Errorf("the count is %v", all[len(all)-1])
		}
		wantTold(t, logs, "origin_not_allowed", floodLimit+1, floodLimit+1)
	})
}

// Whatever the order of requests and windows, every refusal is told of once.
func TestEveryRefusalOfManyAtOnceIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		for range 8 {
			go func() {
				for range 500 {
					refusing(t, h, guess)
					time.Sleep(floodWindow / 97)
				}
			}()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if refusals, inLines := told(logs, "invalid_token"); refusals != 4000 || inLines > 4000/10 {
			t.Errorf("told of %d refusals in %d lines", refusals, inLines)
		}
	})
}

func TestWhatWasLeftOutIsCountedBeforeAnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		repeatedly(t, h, 100, guess)
		repeatedly(t, h, 100, asking(t, "/v1/files"))
		h.trail.close()
		wantTold(t, logs, "invalid_token", 100, floodLimit+1)
		wantTold(t, logs, "route_not_allowed", 100, floodLimit+1)
		// Requests that were under way are written one by one: there may be
		// nobody left to write a count.
		repeatedly(t, h, 2*floodLimit, guess)
		wantTold(t, logs, "invalid_token", 100+2*floodLimit, 3*floodLimit+1)
		time.Sleep(time.Hour)
		synctest.Wait()
		wantTold(t, logs, "invalid_token", 100+2*floodLimit, 3*floodLimit+1)
	})
}

// During a reload, the old config and the new one have requests of the same
// callers, whose windows are one.
func TestAFloodAcrossReloadsIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		files := asking(t, "/v1/files")
		sent := 0
		for range 20 {
			former := h.trail
			repeatedly(t, h, 30, guess)
			repeatedly(t, h, 30, files)
			h.openAuditTrail()
			repeatedly(t, h, 7, guess)
			repeatedly(t, h, 7, files)
			former.close()
			repeatedly(t, h, 40, guess)
			repeatedly(t, h, 40, files)
			sent += 77
			time.Sleep(floodWindow / 3)
		}
		time.Sleep(floodWindow)
		synctest.Wait()
		for _, code := range []string{"invalid_token", "route_not_allowed"} {
			if refusals, inLines := told(logs, code); refusals != sent || inLines > 20*2*(floodLimit+1) {
				t.Errorf("%s: told of %d refusals of %d in %d lines", code, refusals, sent, inLines)
			}
		}
	})
}

func TestARefusalThatIsNotWrittenAllocatesNothing(t *testing.T) {
	h, _ := testGate()
	c := h.policy.tokens.callers[0]
	r := goodRequest()
	for name, refused := range map[string]func(){
		"of nobody known":   func() { h.trail.refused(r, nil, errInvalidToken) },
		"of a known caller": func() { h.trail.refused(r, c, errRouteNotAllowed) },
	} {
		for range floodLimit {
			refused()
		}
		if allocs := testing.AllocsPerRun(1000, refused); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
	h.trail.logger = zap.NewNop() // nobody wants it
	if allocs := testing.AllocsPerRun(1000, func() { h.trail.refused(r, nil, errOriginNotAllowed) }); allocs != 0 {
		t.Errorf("without a log: %v allocations", allocs)
	}
}

func BenchmarkRefusalInAFlood(b *testing.B) {
	h, _ := testGate()
	r := goodRequest()
	b.ReportAllocs()
	for b.Loop() {
		h.count(nil, errInvalidToken.outcome)
		h.trail.refused(r, nil, errInvalidToken)
	}
}
