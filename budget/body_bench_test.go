package budget

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// BenchmarkABodyOf64MiB is what it costs to judge a body, against one that only
// passes: docs/budgets.md has the figures.
func BenchmarkABodyOf64MiB(b *testing.B) {
	const size = 64 << 20
	image := `{"model":"gpt-5","store":false,"input":[{"role":"user","content":[{"type":"input_image","image_url":"data:image/png;base64,` + strings.Repeat("A", size) + `"}]}]}`
	message := `{"role":"user","content":[{"type":"input_text","text":"` + strings.Repeat("some words ", 20) + `"}]},`
	words := `{"model":"gpt-5","store":false,"input":[` + strings.TrimSuffix(strings.Repeat(message, size/len(message)), ",") + `]}`
	rules := Rules{Models: []string{"gpt-5"}, MaxOutputTokens: 1000, Refuse: []string{"store", "files"}}
	for name, body := range map[string]string{"one image": image, "messages": words} {
		for with, limits := range map[string]Limits{"without rules": {}, "with rules": {Rules: rules}} {
			b.Run(name+" "+with, func(b *testing.B) {
				h := &Handler{Name: "default", Limits: limits}
				if err := h.resolve(); err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				for b.Loop() {
					r := httptest.NewRequest(http.MethodPost, "/v1/responses", strings.NewReader(body))
					if refused := new(request).inspect(r, h.limits); refused != nil {
						b.Fatal(refused.Code)
					}
					if n, err := io.Copy(io.Discard, r.Body); err != nil || n < int64(len(body)) {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}
