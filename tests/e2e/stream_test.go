//go:build unix

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestEachEventReachesTheClientBeforeTheNextIsSent(t *testing.T) {
	t.Parallel()
	stream := gatetest.NewEventStream()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, stream.Serve), gatetest.Site{})
	response, reader := gatetest.OpenStream(t, g.HTTP, g.Post(gatetest.WithDeadline(t)))
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	for n := 1; n <= 20; n++ {
		stream.Send(t)
		gatetest.ReadEvent(t, reader, n)
	}
	close(stream.Next)
	if _, err := reader.ReadByte(); err == nil {
		t.Error("bytes after the last event")
	}
}

func TestAClientThatLeavesEndsTheUpstreamsWork(t *testing.T) {
	t.Parallel()
	t.Run("in the middle of a stream", func(t *testing.T) {
		t.Parallel()
		stream := gatetest.NewEventStream()
		g := gatetest.StartGate(t, gatetest.NewUpstream(t, stream.Serve), gatetest.Site{})
		response, reader := gatetest.OpenStream(t, g.HTTP, g.Post(gatetest.WithDeadline(t)))
		stream.Send(t)
		gatetest.ReadEvent(t, reader, 1)
		_ = response.Body.Close()
		gatetest.AwaitClosed(t, "the upstream request to be cancelled", stream.Gone)
	})
	t.Run("before the first byte", func(t *testing.T) {
		t.Parallel()
		reached, gone := make(chan struct{}), make(chan struct{})
		up := gatetest.NewUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
			close(reached)
			<-r.Context().Done()
			close(gone)
		})
		g := gatetest.StartGate(t, up, gatetest.Site{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		r := g.Post().WithContext(ctx)
		go func() {
			defer close(ended)
			if response, err := g.HTTP.Do(r); err == nil {
				_ = response.Body.Close()
			}
		}()
		gatetest.AwaitClosed(t, "the request upstream", reached)
		cancel()
		gatetest.AwaitClosed(t, "the upstream request to be cancelled", gone)
		gatetest.AwaitClosed(t, "the client's end", ended)
	})
}

func TestALargeBodyGoesBothWaysUnchanged(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("0123456789abcdef", 4<<16) // 4 MiB
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, large)
	}), gatetest.Site{})
	body := strings.NewReader(large)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.URL("/v1/responses"), body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Proxy-Token", g.Token)
	if got := gatetest.Do(t, g.HTTP, r); got.Body != large {
		t.Errorf("status %d, %d bytes", got.Status, len(got.Body))
	}
	if seen := g.Up.Only(t); seen.Body != large {
		t.Errorf("the upstream got %d bytes", len(seen.Body))
	}
}

// What the gate does so that a refused request's body holds nothing up must
// not linger on the connection: the next request there may stream for hours.
func TestAStreamAfterARefusalOnTheSameConnectionIsNotCutOff(t *testing.T) {
	t.Parallel()
	stream := gatetest.NewEventStream()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, stream.Serve), gatetest.Site{})
	conn := g.Dial(t)
	conn.Send(g.RawRequest(postLine, gatetest.Without(gatetest.RawGood(), "X-Proxy"), gatetest.RawBody))
	got := conn.Answer()
	gatetest.Refused(t, got, 401, "missing_token")
	if got.Header.Get("Connection") == "close" {
		conn = g.Dial(t)
	}
	conn.Send(g.RawRequest(postLine, gatetest.RawGood(), gatetest.RawBody))
	response, err := http.ReadResponse(conn.Reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	reader := bufio.NewReader(response.Body)
	for n := 1; n <= 8; n++ {
		time.Sleep(100 * time.Millisecond) // a stream that is slow, as models are
		stream.Send(t)
		gatetest.ReadEvent(t, reader, n)
	}
	close(stream.Next)
}
