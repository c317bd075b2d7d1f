package budget

import (
	"fmt"
	"io"
	"net/http"
	"strings"
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
	e.status, e.events = 200, newEventScanner()
	event := []byte("event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"item_id\":\"msg_1234567890\",\"output_index\":0,\"content_index\":0,\"delta\":\"hello\"}\n\n")
	b.SetBytes(int64(len(event)))
	b.ReportAllocs()
	for b.Loop() {
		_, _ = e.Write(event)
	}
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
