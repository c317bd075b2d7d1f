//go:build unix

package codex

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// row is one request that goes to the original and to ours. What the callers
// were answered, and what the upstream saw, must be the same, apart from what
// the row lists.
type row struct {
	call   call
	answer http.HandlerFunc // the upstream's; nil is a turn as an event stream
	within time.Duration    // how long the caller waits; patience, if nothing is said

	// What only one of the two does, as outcome words it, and why that is.
	original, ours []string
	because        string
}

// outcome is what can be seen of an exchange from both ends, line by line.
func outcome(got answered, requests []seen) []string {
	status := fmt.Sprintf("answers %d", got.status)
	if got.status == 0 {
		status = "does not answer"
	}
	lines := []string{status}
	if code := got.header.Get("X-Responses-Proxy-Gate"); code != "" {
		lines = append(lines, "says "+code) // an answer of the gate's own
	} else {
		for _, line := range headerLines(got.header) {
			if line != "Via: "+viaCaddy { // has a test of its own
				lines = append(lines, "answers with "+line)
			}
		}
		lines = append(lines, "answers with "+contentOf(got.body))
	}
	if got.truncated {
		lines = append(lines, "breaks off")
	}
	lines = append(lines, fmt.Sprintf("asks the upstream %d times", len(requests)))
	for _, request := range requests {
		lines = append(lines, "asks for "+request.method+" "+request.uri+" of "+request.host)
		for _, line := range headerLines(request.header) {
			lines = append(lines, "asks with "+line)
		}
		lines = append(lines, "asks with "+contentOf(request.body))
	}
	return lines
}

// viaCaddy is what reverse_proxy says of itself, if it is let.
const viaCaddy = "1.1 Caddy"

// contentOf tells two bodies apart without showing them whole.
func contentOf(body []byte) string {
	if len(body) < 100 {
		return fmt.Sprintf("body %q", body)
	}
	return fmt.Sprintf("body of %d bytes, %x", len(body), sha256.Sum256(body))
}

// without is what lines has more than others.
func without(lines, others []string) []string {
	var more []string
	for _, line := range lines {
		if !slices.Contains(others, line) {
			more = append(more, line)
		}
	}
	return more
}

func compare(t *testing.T, rows map[string]row) {
	t.Helper()
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	original := startOriginal(t, upstream.responsesURL())
	ours := startOurs(t, upstream.responsesURL())
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		t.Run(name, func(t *testing.T) { rows[name].compare(t, upstream, original, ours) })
	}
}

func (r row) compare(t *testing.T, upstream *fakeUpstream, original, ours *proxy) {
	t.Helper()
	within := r.within
	if within == 0 {
		within = patience
	}
	outcomes := make(map[*proxy][]string)
	for _, p := range []*proxy{original, ours} {
		upstream.forget(r.answer)
		got := r.call.exchange(t, p, within)
		outcomes[p] = outcome(got, upstream.all())
	}
	check := func(who string, got, want []string) {
		for _, line := range without(got, want) {
			t.Errorf("only %s %s", who, line)
		}
		for _, line := range without(want, got) {
			t.Errorf("no longer does only %s: %s (%s)", who, line, r.because)
		}
	}
	check("the original", without(outcomes[original], outcomes[ours]), r.original)
	check("ours", without(outcomes[ours], outcomes[original]), r.ours)
	if (len(r.original) > 0 || len(r.ours) > 0) && r.because == "" {
		t.Error("a difference without a reason")
	}
}

// likeCodex are the headers that a request of Codex has, beside those of the
// session.
var likeCodex = []string{jsonType, "Accept: text/event-stream", "User-Agent: codex_exec/0.169.0"}

// with are the headers of Codex, and more.
func with(more ...string) []string { return append(slices.Clone(likeCodex), more...) }

// turn is a request that both forward.
func turn(more ...string) call {
	return call{headers: with(more...), body: []byte(`{"model":"gpt-5"}`)}
}

// replies is an upstream that answers with status, headers and an error's body.
func replies(status int, headers ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for _, line := range headers {
			name, value, _ := strings.Cut(line, ": ")
			w.Header().Add(name, value)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, `{"error":{"message":"the upstream says no"}}`)
	}
}

func TestRequestsThatPassDoSoUnchanged(t *testing.T) {
	text := []byte(`{"model":"gpt-5","input":"hello"}`)
	compare(t, map[string]row{
		"a turn":                                     {call: turn()},
		"header names in capitals":                   {call: call{headers: []string{"CONTENT-TYPE: application/json", "ACCEPT: text/event-stream", "SESSION-ID: s"}, body: text}},
		"header names in small letters":              {call: call{headers: []string{"content-type: application/json", "accept: text/event-stream", "session-id: s"}, body: text}},
		"a content type in capitals, with a charset": {call: call{headers: []string{"Accept: */*", "Content-Type: APPLICATION/JSON; charset=UTF-8"}, body: text}},
		"headers of the caller's own":                {call: turn("OpenAI-Beta: responses=v1", "X-Codex-Turn-Metadata: {\"a\":1}", "Originator: codex_exec")},
		"a header twice":                             {call: turn("X-Custom: 1", "X-Custom: 2")},
		"30 KiB of headers":                          {call: turn("X-Codex-Turn-Metadata: " + strings.Repeat("m", 30<<10))},
		"Authorization of the caller's own":          {call: turn("Authorization: Bearer sk-of-the-caller")},
		"a request that waits for 100 Continue":      {call: turn("Expect: 100-continue")},
		"no Accept": {
			call:     call{headers: []string{jsonType}, body: text},
			original: []string{"asks with Accept: */*"},
			because:  "a header that the caller did not send is not made up; none means the same",
		},
		"no body":                      {call: call{headers: likeCodex}},
		"a body in chunks":             {call: call{headers: likeCodex, body: text, chunked: true}},
		"a body of 32 MiB":             {call: call{headers: likeCodex, body: bytes.Repeat([]byte("0123456789abcdef"), 2<<20)}},
		"a body of 32 MiB in chunks":   {call: call{headers: likeCodex, body: bytes.Repeat([]byte("0123456789abcdef"), 2<<20), chunked: true}},
		"a gzip-encoded body":          {call: call{headers: with("Content-Encoding: gzip"), body: gzipped(text)}},
		"a zstd-encoded body":          {call: call{headers: with("Content-Encoding: zstd"), body: zstandard(t, text)}},
		"an answer that is compressed": {call: turn("Accept-Encoding: gzip"), answer: repliesCompressed},
		"an answer that is compressed though nobody asked": {call: turn(), answer: repliesCompressed},
	})
}

func TestRequestsThatTheOriginalRefusesAreRefusedToo(t *testing.T) {
	rows := map[string]row{}
	ours := func(code string) []string { return []string{"says " + code} }
	refused := func(name string, c call, code string) {
		rows[name] = row{call: c, original: []string{`answers with body ""`}, ours: ours(code), because: "the same status, with a body that says what to do"}
	}
	for _, method := range []string{"GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "post", "PROPFIND"} {
		refused("method "+method, call{method: method}, "route_not_allowed")
	}
	for _, target := range []string{
		"/", "/v1", "/v1/responses/", "/v1/responses/compact", "/v1/responses?a=b", "/v1/responses?", "/v1/responses#x", "/v1/models",
		"//v1/responses", "/v1//responses", "/v1/./responses", "/v1/x/../responses", "/v1/%72esponses", "/v1%2Fresponses", "/V1/Responses", "/shutdown",
	} {
		c := turn()
		c.target = target
		refused("target "+target, c, "route_not_allowed")
	}
	absolute := turn()
	absolute.target = "http://api.openai.com/v1/responses"
	refused("target "+absolute.target, absolute, "host_not_allowed")
	rows["a WebSocket"] = row{
		call: call{method: http.MethodGet, headers: []string{
			"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
		}},
		original: []string{"answers 403", `answers with body ""`},
		ours:     []string{"answers 426", "says websocket_not_enabled"},
		because:  "426 is what Codex falls back from at once",
	}
	compare(t, rows)
}

func TestOnlyOursRefusesWhatItExistsToRefuse(t *testing.T) {
	type refusal struct {
		call   call
		status int
		code   string
	}
	noToken := turn()
	noToken.noToken = true
	wrongToken := turn("X-Proxy-Token: guessed")
	wrongToken.noToken = true
	wrongBearer := turn("Authorization: Bearer guessed")
	wrongBearer.noToken = true
	rebound := turn()
	rebound.host = "attacker.example"
	rows := map[string]row{}
	for name, refused := range map[string]refusal{
		"no token":                         {noToken, 401, "missing_token"},
		"a wrong token":                    {wrongToken, 401, "invalid_token"},
		"a wrong bearer":                   {wrongBearer, 401, "invalid_token"},
		"a second token":                   {turn("X-Proxy-Token: guessed"), 401, "invalid_token"},
		"a web page (Origin)":              {turn("Origin: https://attacker.example"), 403, "origin_not_allowed"},
		"a sandboxed page (Origin null)":   {turn("Origin: null"), 403, "origin_not_allowed"},
		"a web page (Sec-Fetch-Site)":      {turn("Sec-Fetch-Site: cross-site"), 403, "cross_site_request"},
		"a name rebound to loopback":       {rebound, 403, "host_not_allowed"},
		"text/plain, which pages can send": {call{headers: []string{"Content-Type: text/plain"}, body: []byte("{}")}, 415, "content_type_not_json"},
		"a form, which pages can send":     {call{headers: []string{"Content-Type: application/x-www-form-urlencoded"}, body: []byte("{}")}, 415, "content_type_not_json"},
		"a body of no type":                {call{headers: []string{"Accept: */*"}, body: []byte("{}")}, 415, "content_type_not_json"},
	} {
		rows[name] = row{call: refused.call, ours: []string{fmt.Sprintf("answers %d", refused.status), "says " + refused.code}, because: "openai/codex#17648"}
	}
	compareRefusals(t, rows)
}

// compareRefusals is compare for requests that the original forwards, whatever
// they are: only what ours answers is listed.
func compareRefusals(t *testing.T, rows map[string]row) {
	t.Helper()
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	original := startOriginal(t, upstream.responsesURL())
	ours := startOurs(t, upstream.responsesURL())
	for _, name := range slices.Sorted(maps.Keys(rows)) {
		t.Run(name, func(t *testing.T) {
			upstream.forget(nil)
			if got := rows[name].call.exchange(t, original, patience); got.status != http.StatusOK || len(upstream.all()) != 1 {
				t.Errorf("the original answers %d and asks the upstream %d times: is %s fixed there?", got.status, len(upstream.all()), rows[name].because)
			}
			upstream.forget(nil)
			got := outcome(rows[name].call.exchange(t, ours, patience), upstream.all())
			if want := append(slices.Clone(rows[name].ours), "asks the upstream 0 times"); !slices.Equal(got, want) {
				t.Errorf("ours %q, want %q", got, want)
			}
		})
	}
}
