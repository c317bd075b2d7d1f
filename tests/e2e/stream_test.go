//go:build unix

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// eventStream is an upstream answer that sends an event only when the test
// says so: a client that has event n proves that nothing held it back.
type eventStream struct {
	next chan struct{} // one more event, or the end when closed
	gone chan struct{} // closed when the gate has hung up
	once sync.Once
}

func newEventStream() *eventStream {
	return &eventStream{next: make(chan struct{}), gone: make(chan struct{})}
}

func event(n int) string {
	return fmt.Sprintf("event: response.output_text.delta\ndata: {\"n\":%d}\n\n", n)
}

func (s *eventStream) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	controller := http.NewResponseController(w)
	_ = controller.Flush()
	for n := 1; ; n++ {
		select {
		case _, more := <-s.next:
			if !more {
				return
			}
			_, _ = fmt.Fprint(w, event(n))
			_ = controller.Flush()
		case <-r.Context().Done():
			s.once.Do(func() { close(s.gone) })
			return
		}
	}
}

// send has the upstream send its next event.
func (s *eventStream) send(t *testing.T) {
	t.Helper()
	await(t, "the upstream to take the next event", func(done <-chan time.Time) bool {
		select {
		case s.next <- struct{}{}:
			return true
		case <-done:
			return false
		}
	})
}

// await fails the test if an event does not come in time.
func await(t *testing.T, what string, wait func(done <-chan time.Time) bool) {
	t.Helper()
	if !wait(time.After(patience)) {
		t.Fatalf("waited %v for %s", patience, what)
	}
}

func awaitClosed(t *testing.T, what string, ch <-chan struct{}) {
	t.Helper()
	await(t, what, func(done <-chan time.Time) bool {
		select {
		case <-ch:
			return true
		case <-done:
			return false
		}
	})
}

// openStream sends r and returns its answer while it still streams.
func openStream(t *testing.T, client *http.Client, r *http.Request) (*http.Response, *bufio.Reader) {
	t.Helper()
	response, err := client.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = response.Body.Close() })
	if response.StatusCode != 200 {
		t.Fatalf("status %d", response.StatusCode)
	}
	return response, bufio.NewReader(response.Body)
}

// readEvent reads one event, or fails the test if it is another.
func readEvent(t *testing.T, reader *bufio.Reader, n int) {
	t.Helper()
	var got strings.Builder
	for !strings.HasSuffix(got.String(), "\n\n") {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatalf("waiting for event %d: %v after %q", n, err, got.String()+line)
		}
		got.WriteString(line)
	}
	if got.String() != event(n) {
		t.Fatalf("got %q, want %q", got.String(), event(n))
	}
}

// withDeadline keeps a stream that stalls from hanging the test.
func withDeadline(t *testing.T) func(*http.Request) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return func(r *http.Request) { *r = *r.WithContext(ctx) }
}

func TestEachEventReachesTheClientBeforeTheNextIsSent(t *testing.T) {
	t.Parallel()
	stream := newEventStream()
	g := startGate(t, newUpstream(t, stream.serve), site{})
	response, reader := openStream(t, g.http, g.post(withDeadline(t)))
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Errorf("Content-Type %q", got)
	}
	for n := 1; n <= 20; n++ {
		stream.send(t)
		readEvent(t, reader, n)
	}
	close(stream.next)
	if _, err := reader.ReadByte(); err == nil {
		t.Error("bytes after the last event")
	}
}

func TestAClientThatLeavesEndsTheUpstreamsWork(t *testing.T) {
	t.Parallel()
	t.Run("in the middle of a stream", func(t *testing.T) {
		t.Parallel()
		stream := newEventStream()
		g := startGate(t, newUpstream(t, stream.serve), site{})
		response, reader := openStream(t, g.http, g.post(withDeadline(t)))
		stream.send(t)
		readEvent(t, reader, 1)
		_ = response.Body.Close()
		awaitClosed(t, "the upstream request to be cancelled", stream.gone)
	})
	t.Run("before the first byte", func(t *testing.T) {
		t.Parallel()
		reached, gone := make(chan struct{}), make(chan struct{})
		up := newUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
			close(reached)
			<-r.Context().Done()
			close(gone)
		})
		g := startGate(t, up, site{})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		r := g.post().WithContext(ctx)
		go func() {
			defer close(ended)
			if response, err := g.http.Do(r); err == nil {
				_ = response.Body.Close()
			}
		}()
		awaitClosed(t, "the request upstream", reached)
		cancel()
		awaitClosed(t, "the upstream request to be cancelled", gone)
		awaitClosed(t, "the client's end", ended)
	})
}

func TestALargeBodyGoesBothWaysUnchanged(t *testing.T) {
	t.Parallel()
	large := strings.Repeat("0123456789abcdef", 4<<16) // 4 MiB
	g := startGate(t, newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, large)
	}), site{})
	body := strings.NewReader(large)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, g.url("/v1/responses"), body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Proxy-Token", g.token)
	if got := do(t, g.http, r); got.body != large {
		t.Errorf("status %d, %d bytes", got.status, len(got.body))
	}
	if seen := g.up.only(t); seen.body != large {
		t.Errorf("the upstream got %d bytes", len(seen.body))
	}
}

// What the gate does so that a refused request's body holds nothing up must
// not linger on the connection: the next request there may stream for hours.
func TestAStreamAfterARefusalOnTheSameConnectionIsNotCutOff(t *testing.T) {
	t.Parallel()
	stream := newEventStream()
	g := startGate(t, newUpstream(t, stream.serve), site{})
	conn := g.dial(t)
	conn.send(g.rawRequest(postLine, without(rawGood(), "X-Proxy"), rawBody))
	got := conn.answer()
	refused(t, got, 401, "missing_token")
	if got.header.Get("Connection") == "close" {
		conn = g.dial(t)
	}
	conn.send(g.rawRequest(postLine, rawGood(), rawBody))
	response, err := http.ReadResponse(conn.reader, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	reader := bufio.NewReader(response.Body)
	for n := 1; n <= 8; n++ {
		time.Sleep(100 * time.Millisecond) // a stream that is slow, as models are
		stream.send(t)
		readEvent(t, reader, n)
	}
	close(stream.next)
}
