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

// between is a gate with a budget, and what an operator has put between that and the upstream.
// Within its route, the order is as written.
func between(t *testing.T, b *bill, handlers, proxy, to string) *gatetest.Gate {
	t.Helper()
	s := site(gatetest.TempDir(t), "")
	s.Gate += "\n}\nroute {\nresponses_budget {\n" + strings.Replace(perDay, "1000", "1000000", 1) + "\n}\n" + handlers +
		"\nreverse_proxy " + to + " {\n" + proxy + "\n}"
	s.Before = ""
	return gatetest.StartReloadable(t, b.Upstream, s)
}

// hangUp ends the connection of a request that was read whole, without an answer.
func hangUp(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

func refuse(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(status) }
}

func wait(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

// What a caller is told is not always what the upstream has done: other handlers and reverse_proxy's
// options make another status of it, or another attempt.
func TestWhatStandsBehindABudgetMakesNoBilledRequestFree(t *testing.T) {
	t.Parallel()
	const (
		keyed   = "transport responses_proxy_gate\n"
		quick   = "transport responses_proxy_gate {\nresponse_header_timeout 300ms\n}\n"
		repeats = "lb_policy first\nlb_retries 1\nlb_try_interval 1ms\nfail_duration 30s\nlb_retry_match {\nmethod POST\n}\n"
	)
	told := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"model":"gpt-5",`+usage()+`}`)
	}
	for name, c := range map[string]struct {
		handlers, proxy string
		answers         []http.HandlerFunc // of each attempt; those that are nil cannot be reached
		status          int                // what the caller gets
		least, most     int64              // of what may be counted
	}{
		// Another status than the upstream's.
		"replace_status":                    {"", keyed + "@ok status 200\nreplace_status @ok 404", []http.HandlerFunc{told}, 404, cost, cost},
		"copy_response with a status":       {"", keyed + "handle_response {\ncopy_response 500\n}", []http.HandlerFunc{told}, 500, cost, cost},
		"respond to an answer":              {"", keyed + "handle_response {\nrespond 403\n}", []http.HandlerFunc{told}, 403, estimate, estimate},
		"error for an answer":               {"", keyed + "handle_response {\nerror 503\n}", []http.HandlerFunc{told}, 503, estimate, estimate},
		"intercept's replace_status":        {"intercept {\nreplace_status 404\n}", "", []http.HandlerFunc{told}, 404, cost, cost},
		"intercept's respond":               {"intercept {\nhandle_response {\nrespond 403\n}\n}", "", []http.HandlerFunc{told}, 403, cost, estimate},
		"a status of success for a refusal": {"", keyed + "handle_response {\nrespond 200\n}", []http.HandlerFunc{refuse(429)}, 200, 0, estimate},

		// Another header than the upstream's.
		"encode":               {"encode gzip {\nminimum_length 1\n}", "", []http.HandlerFunc{told}, 200, cost, estimate},
		"the type changed":     {"", "header_down Content-Type text/plain", []http.HandlerFunc{told}, 200, cost, estimate},
		"the encoding changed": {"", "header_down Content-Encoding br", []http.HandlerFunc{told}, 200, cost, estimate},
		"buffers":              {"", "request_buffers 1MB\nresponse_buffers 1MB", []http.HandlerFunc{told}, 200, cost, cost},

		// No answer.
		"no answer in time":      {"", quick, []http.HandlerFunc{wait}, 504, estimate, estimate},
		"a connection that ends": {"", "", []http.HandlerFunc{hangUp}, 502, estimate, estimate},
		"1xx and then the end": {"", "", []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusEarlyHints)
			hangUp(w, r)
		}}, 502, estimate, estimate},

		// Another attempt.
		"the second attempt reaches nobody":                  {"", repeats, []http.HandlerFunc{hangUp, nil}, 502, estimate, estimate},
		"the second attempt is refused":                      {"", repeats + "request_buffers 1MB", []http.HandlerFunc{hangUp, refuse(429)}, 429, estimate, estimate},
		"the second attempt is answered":                     {"", repeats + "request_buffers 1MB", []http.HandlerFunc{hangUp, told}, 200, cost + estimate, cost + estimate},
		"the second attempt is not answered in time":         {"", repeats + quick + "request_buffers 1MB", []http.HandlerFunc{wait, wait}, 504, 2 * estimate, 2 * estimate},
		"a second attempt, because the first reached nobody": {"", repeats + "request_buffers 1MB", []http.HandlerFunc{nil, told}, 200, cost, cost},
		"a second attempt, because the first was refused": {"", "lb_policy first\nlb_retries 1\nlb_try_interval 1ms\nrequest_buffers 1MB\nfail_duration 30s\nunhealthy_status 5xx\n" +
			"lb_retry_match {\nexpression `{rp.status_code} == 503`\n}", []http.HandlerFunc{refuse(503), told}, 200, cost, cost},

		// The controls: these are free.
		"a refusal":                     {"", "", []http.HandlerFunc{refuse(429)}, 429, 0, 0},
		"an upstream's own 499":         {"", "", []http.HandlerFunc{refuse(499)}, 499, 0, 0},
		"a refusal with another status": {"", keyed + "@refused status 429\nreplace_status @refused 503", []http.HandlerFunc{refuse(429)}, 503, 0, 0},
		"a refusal to a second attempt": {"", "lb_policy first\nlb_retries 1\nlb_try_interval 1ms\nrequest_buffers 1MB\nfail_duration 30s\nunhealthy_status 5xx\n" +
			"lb_retry_match {\nexpression `{rp.status_code} == 503`\n}", []http.HandlerFunc{refuse(503), refuse(429)}, 429, 0, 0},
		"nobody is there":                             {"", "", []http.HandlerFunc{nil}, 502, 0, 0},
		"nobody is there, twice":                      {"", repeats, []http.HandlerFunc{nil, nil}, 502, 0, 0},
		"an answer without an upstream":               {"respond 403", "", []http.HandlerFunc{told}, 403, 0, 0},
		"an authentication in between, and a refusal": {"forward_auth {URL} {\nuri /auth\n}", "", []http.HandlerFunc{refuse(429)}, 429, 0, 0},
		"an authentication in between, and an answer": {"forward_auth {URL} {\nuri /auth\n}", "", []http.HandlerFunc{told}, 200, cost, cost},
		"an authentication in between, and nobody":    {"forward_auth {URL} {\nuri /auth\n}", "", []http.HandlerFunc{nil}, 502, 0, 0},
		"an authentication in between that refuses":   {"forward_auth {URL} {\nuri /refuse\n}", "", []http.HandlerFunc{told}, 403, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBill(t)
			to := ""
			for _, answer := range c.answers {
				if answer == nil {
					to += fmt.Sprintf(" 127.0.0.1:%d", gatetest.FreePort(t))
					continue
				}
				to += " " + strings.TrimPrefix(gatetest.NewUpstream(t, answer).URL, "http://")
			}
			checks := gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/refuse" {
					w.WriteHeader(http.StatusForbidden)
				}
			})
			handlers := strings.ReplaceAll(c.handlers, "{URL}", strings.TrimPrefix(checks.URL, "http://"))
			g := between(t, b, handlers, c.proxy, to)
			if got := ask(t, g); got.Status != c.status {
				t.Errorf("it gets %d %s", got.Status, got.Body)
			}
			if got := spent(t, g); got.Tokens < c.least || got.Tokens > c.most || got.Requests != 1 {
				t.Errorf("counted are %d requests and %d tokens, not %d to %d", got.Requests, got.Tokens, c.least, c.most)
			}
		})
	}
}
