//go:build unix

package budget

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const (
	// deltas are what a stream tells before its end.
	deltas = 5

	// estimatedInput is what docs/budgets.md takes a request for whose answer does not tell: its
	// bytes / 3. The output is 200 tokens for each second, up to max_output_tokens, which is less.
	estimatedInput = (len(body) + 2) / 3
	estimate       = int64(estimatedInput + output)
)

// newStreams is an upstream that streams. The end comes only to callers who stay.
func newStreams(t *testing.T) *bill {
	b := newBill(t)
	b.SetAnswer(func(w http.ResponseWriter, r *http.Request) {
		b.tokens.Add(cost)
		w.Header().Set("Content-Type", "text/event-stream")
		for range deltas {
			_, _ = io.WriteString(w, delta)
			_ = http.NewResponseController(w).Flush()
		}
		if b.stay.Load() {
			<-r.Context().Done()
			return
		}
		_, _ = io.WriteString(w, "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"model\":\"gpt-5\","+usage()+"}}\n\n")
	})
	return b
}

// startStreaming starts a gate that also speaks HTTP/2, and has a client for each version.
func startStreaming(t *testing.T, b *bill, s gatetest.Site) (g *gatetest.Gate, clients [2]*http.Client) {
	t.Helper()
	s.Global += "\nservers {\n\tprotocols h1 h2c\n}"
	g = gatetest.StartReloadable(t, b.Upstream, s)
	http2 := gatetest.NewClient(t)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	http2.Transport.(*http.Transport).Protocols = protocols
	return g, [2]*http.Client{g.HTTP, http2}
}

// readDeltas makes the i-th request, reads all of the answer's deltas, and then its rest, or leaves.
func readDeltas(t *testing.T, g *gatetest.Gate, clients [2]*http.Client, i int, leave bool) {
	t.Helper()
	response, err := clients[i%2].Do(g.Post(gatetest.WithDeadline(t), func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}))
	gatetest.Must(t, err)
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.ProtoMajor != i%2+1 {
		t.Fatalf("request %d gets %s %s", i, response.Proto, response.Status)
	}
	got := make([]byte, deltas*len(delta))
	if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != strings.Repeat(delta, deltas) {
		t.Fatalf("it reads %q, %v", got, err)
	}
	if !leave {
		if rest, err := io.ReadAll(response.Body); err != nil || !strings.Contains(string(rest), "response.completed") {
			t.Fatalf("it reads %q, %v", rest, err)
		}
	}
}

func TestWhoReadsEveryDeltaAndLeavesBeforeTheEndPaysEachOfAHundredTimes(t *testing.T) {
	t.Parallel()
	const (
		times = 100
		limit = times*estimate - estimate/2 // the hundredth crosses it
	)
	b := newStreams(t)
	b.stay.Store(true)
	s := site(gatetest.TempDir(t), fmt.Sprintf("per 1d {\n\ttokens %d\n}\nconcurrent 1", limit))
	g, clients := startStreaming(t, b, s)
	for i := range times {
		readDeltas(t, g, clients, i, true)
		told := g.WaitOutput(`"msg":"accepted"`, i+1)[i]
		if want := fmt.Sprintf(`"model":"unknown","input_tokens":%d,"output_tokens":%d,"estimated":true`, estimatedInput, output); !strings.Contains(told, want) {
			t.Errorf("request %d: the trail has no %s: %s", i, want, told)
		}
		if got, want := spent(t, g).Tokens, int64(i+1)*estimate; got != want {
			t.Fatalf("after %d requests, %d are counted, not %d", i+1, got, want)
		}
	}
	for range times {
		if got := ask(t, g); code(got) != "budget_exhausted" {
			t.Fatalf("then it gets %d %s", got.Status, got.Body)
		}
	}
	billed, counted := b.tokens.Load(), spent(t, g)
	if billed != times*cost || billed > limit+estimate { // L + M of docs/budgets.md
		t.Errorf("%d were billed of a limit of %d", billed, limit)
	}
	if counted.Tokens < billed || counted.Requests != times || counted.Estimated != counted.Tokens {
		t.Errorf("%d were billed, and counted %+v", billed, counted)
	}
}

// The controls of the test above.
func TestWhoReadsAStreamToItsEndPaysWhatTheUpstreamTells(t *testing.T) {
	t.Parallel()
	const times = 100
	b := newStreams(t)
	g, clients := startStreaming(t, b, site(gatetest.TempDir(t), fmt.Sprintf("per 1d {\n\ttokens %d\n}\nconcurrent 1", times*cost)))
	for i := range times {
		readDeltas(t, g, clients, i, false)
		g.WaitOutput(`"msg":"accepted"`, i+1)
	}
	if got := spent(t, g); got.Tokens != b.tokens.Load() || got.Tokens != times*cost || got.Estimated != 0 {
		t.Errorf("%d were billed, and counted %+v", b.tokens.Load(), got)
	}
	if got := ask(t, g); code(got) != "budget_exhausted" {
		t.Errorf("then it gets %d %s", got.Status, got.Body)
	}
}

func TestWithoutABudgetNothingStopsWhoLeavesEarly(t *testing.T) {
	t.Parallel()
	const times = 120
	b := newStreams(t)
	b.stay.Store(true)
	g, clients := startStreaming(t, b, gatetest.Site{Gate: site("", "").Gate})
	for i := range times {
		readDeltas(t, g, clients, i, true)
	}
	if got := b.tokens.Load(); got != times*cost {
		t.Errorf("%d were billed", got)
	}
}
