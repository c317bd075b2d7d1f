package budget

import (
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// discards is an answer that nobody reads.
type discards struct{ header http.Header }

func (d *discards) Header() http.Header         { return d.header }
func (d *discards) WriteHeader(int)             {}
func (d *discards) Write(p []byte) (int, error) { return len(p), nil }

func BenchmarkAnEventOfAStream(b *testing.B) {
	e := &exchange{}
	e.ResponseWriter = &discards{}
	e.status, e.events = 200, new(eventScanner)
	event := []byte("event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"msg_1234567890\",\"output_index\":0,\"content_index\":0,\"delta\":\"hello\"}\n\n")
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = e.Write(event)
	}
}

// What a budget keeps for each stream that is open, beside what there is without one.
func BenchmarkAnOpenStream(b *testing.B) {
	h := &Handler{Name: "bench", Limits: Limits{Per: []Per{{Window: "1d", Tokens: maxTokens}}}}
	if err := h.resolve(); err != nil {
		b.Fatal(err)
	}
	h.book = &book{ledger: newLedger()}
	h.book.join(h)
	body := `{"model":"gpt-5","input":"` + strings.Repeat("x", 40_000) + `"}`
	memory := func() int64 {
		var now runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&now)
		return int64(now.HeapAlloc)
	}
	// open opens streams by next, says what is in memory while all are open,
	// and ends them.
	open := func(through func(w http.ResponseWriter, r *http.Request, next handlerFunc)) int64 {
		var opened, ended sync.WaitGroup
		end := make(chan struct{})
		next := handlerFunc(func(w http.ResponseWriter, r *http.Request) error {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header()["Content-Type"] = []string{"text/event-stream"}
			_, err := io.WriteString(w, "data: {}\n\n")
			opened.Done()
			<-end
			runtime.KeepAlive(r) // as reverse_proxy does
			return err
		})
		before := memory()
		opened.Add(b.N)
		for range b.N {
			ended.Go(func() {
				r := newRequest("codex", "")
				r.Header["Content-Type"] = []string{"application/json"} // (a header has room for some more then)
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
				through(&discards{http.Header{}}, r, next)
				runtime.KeepAlive(r) // as the server does
			})
		}
		opened.Wait()
		during := memory()
		close(end)
		ended.Wait()
		return during - before
	}
	without := open(func(w http.ResponseWriter, r *http.Request, next handlerFunc) { _ = next.ServeHTTP(w, r) })
	with := open(func(w http.ResponseWriter, r *http.Request, next handlerFunc) { _ = h.ServeHTTP(w, r, next) })
	b.ReportMetric(float64(with-without)/float64(b.N), "B/stream")
}

func BenchmarkARequest(b *testing.B) {
	for _, size := range []int{100, 40_000} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			h := &Handler{Name: "bench", Limits: Limits{Per: []Per{{Window: "1d", Tokens: maxTokens}}, Concurrent: 8}}
			if err := h.resolve(); err != nil {
				b.Fatal(err)
			}
			h.book = &book{ledger: newLedger()}
			h.book.join(h)
			body := `{"model":"gpt-5","input":"` + strings.Repeat("x", size) + `"}`
			next := costs(1, 1)
			b.ReportAllocs()
			for b.Loop() {
				r := newRequest("codex", "")
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
				_ = h.ServeHTTP(&discards{http.Header{}}, r, next)
			}
		})
	}
}
