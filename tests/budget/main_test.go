//go:build unix

// Package budget tests, from the outside, that callers spend no more than they
// may: real Caddy processes in front of an upstream that bills.
package budget

import (
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

const (
	limit  = 1000 // tokens
	output = 100  // that each request asks for, and gets
	body   = `{"model":"gpt-5","input":"0123456789","max_output_tokens":100}`
	input  = len(body) / 4 // as the upstream counts them
	cost   = int64(input + output)
)

// bill is an upstream that bills every request that reaches it.
type bill struct {
	*gatetest.Upstream
	tokens atomic.Int64
	stay   atomic.Bool // streams end only when the caller has left
	think  atomic.Bool // there is no answer until the caller has left
	force  atomic.Bool // answers are compressed, though nobody asked
}

func newBill(t *testing.T) *bill {
	b := new(bill)
	b.Upstream = gatetest.NewUpstream(t, b.answer)
	return b
}

const delta = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"all there is\"}\n\n"

func usage() string {
	return fmt.Sprintf(`"usage":{"input_tokens":%d,"output_tokens":%d}`, input, output)
}

func (b *bill) answer(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodGet {
		gatetest.AnswerJSON(w, r)
		return
	}
	b.tokens.Add(cost)
	switch {
	case b.think.Load():
		<-r.Context().Done()
	case b.stay.Load():
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, delta)
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	case b.force.Load() || r.Header.Get("Accept-Encoding") == "gzip":
		w.Header().Set("Content-Encoding", "gzip")
		w.Header().Set("Content-Type", "application/json")
		packed := gzip.NewWriter(w)
		_, _ = io.WriteString(packed, `{"model":"gpt-5",`+usage()+`}`)
		_ = packed.Close()
	default:
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"model":"gpt-5",`+usage()+`}`)
	}
}

// site is a gate with a budget over a folder.
func site(folder, options string) gatetest.Site {
	return gatetest.Site{
		Global: "storage file_system " + folder,
		Before: "responses_budget {\n" + options + "\n}",
		Gate:   "log_accepted\nallow_route POST /v1/responses\nallow_route GET /v1/responses\nallow_route POST /v1/images/generations",
	}
}

// perDay limits a day to what the attacks try to exceed.
const perDay = "per 1d {\n\ttokens 1000\n}\nconcurrent 8"

// ask makes one request of an attack.
func ask(t *testing.T, g *gatetest.Gate, edits ...func(*http.Request)) gatetest.Answer {
	t.Helper()
	return g.Do(t, append([]func(*http.Request){func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	}}, edits...)...)
}

// code is what the budget says.
func code(got gatetest.Answer) string { return got.Header.Get("X-Responses-Budget") }

// spent is what a replica has counted of the gate's only caller.
func spent(t *testing.T, g *gatetest.Gate) adminapi.Window {
	t.Helper()
	got := g.AdminDo(t, http.MethodGet, adminapi.BudgetsPath, "", "")
	var found adminapi.Budgets
	if err := json.Unmarshal([]byte(got.Body), &found); err != nil || len(found.Budgets) != 1 {
		t.Fatalf("%d %s: %v", got.Status, got.Body, err)
	}
	for _, c := range found.Budgets[0].Clients {
		if len(c.Windows) == 1 {
			return c.Windows[0]
		}
	}
	return adminapi.Window{}
}

// awaitSpent waits until a replica knows of so many tokens.
func awaitSpent(t *testing.T, g *gatetest.Gate, tokens int64) {
	t.Helper()
	gatetest.Until(t, fmt.Sprintf("a replica to know of %d tokens", tokens), func() bool { return spent(t, g).Tokens == tokens })
}

// records are the files of what was spent.
func records(t *testing.T, folder string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(folder, "responses_budget", "*.budget", "*.json"))
	gatetest.Must(t, err)
	return found
}

// awaitSaved waits until a folder's records say that so many tokens were spent.
func awaitSaved(t *testing.T, folder string, tokens int64) {
	t.Helper()
	gatetest.Until(t, fmt.Sprintf("%d tokens to be saved", tokens), func() bool {
		var saved int64
		for _, path := range records(t, folder) {
			content, err := os.ReadFile(path)
			if err != nil {
				return false // (it is about to be replaced)
			}
			var clients map[string]struct {
				Input  int64 `json:"input_tokens"`
				Output int64 `json:"output_tokens"`
			}
			gatetest.Must(t, json.Unmarshal(content, &clients))
			saved += clients["default"].Input + clients["default"].Output
		}
		return saved == tokens
	})
}
