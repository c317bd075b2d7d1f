//go:build unix

package gatetest

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

// EventStream is an upstream answer that sends an event only when the test
// says so: a client that has event n proves that nothing held it back.
type EventStream struct {
	Next chan struct{} // one more event, or the end when closed
	Gone chan struct{} // closed when the gate has hung up
	once sync.Once
}

// NewEventStream is an answer for one request.
func NewEventStream() *EventStream {
	return &EventStream{Next: make(chan struct{}), Gone: make(chan struct{})}
}

// Event is the n-th event that an EventStream sends.
func Event(n int) string {
	return fmt.Sprintf("event: response.output_text.delta\ndata: {\"n\":%d}\n\n", n)
}

// Serve is the upstream's answer.
func (s *EventStream) Serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	w.WriteHeader(http.StatusOK)
	controller := http.NewResponseController(w)
	_ = controller.Flush()
	for n := 1; ; n++ {
		select {
		case _, more := <-s.Next:
			if !more {
				return
			}
			_, _ = fmt.Fprint(w, Event(n))
			_ = controller.Flush()
		case <-r.Context().Done():
			s.once.Do(func() { close(s.Gone) })
			return
		}
	}
}

// Send has the upstream send its next event.
func (s *EventStream) Send(t testing.TB) {
	t.Helper()
	Await(t, "the upstream to take the next event", func(done <-chan time.Time) bool {
		select {
		case s.Next <- struct{}{}:
			return true
		case <-done:
			return false
		}
	})
}

// OpenStream sends r and returns its answer while it still streams.
func OpenStream(t testing.TB, client *http.Client, r *http.Request) (*http.Response, *bufio.Reader) {
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

// ReadEvent reads one event, or fails the test if it is another.
func ReadEvent(t testing.TB, reader *bufio.Reader, n int) {
	t.Helper()
	var got strings.Builder
	for !strings.HasSuffix(got.String(), "\n\n") {
		line, err := reader.ReadString('\n')
		if err != nil {
			t.Fatalf("waiting for event %d: %v after %q", n, err, got.String()+line)
		}
		got.WriteString(line)
	}
	if got.String() != Event(n) {
		t.Fatalf("got %q, want %q", got.String(), Event(n))
	}
}

// WithDeadline keeps a stream that stalls from hanging the test.
func WithDeadline(t testing.TB) func(*http.Request) {
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	t.Cleanup(cancel)
	return func(r *http.Request) { *r = *r.WithContext(ctx) }
}
