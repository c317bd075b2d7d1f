//go:build unix

package codex

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func gzipped(content []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(content) // (to memory: it cannot fail)
	_ = w.Close()
	return out.Bytes()
}

func zstandard(t *testing.T, content []byte) []byte {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(content, nil)
}

// repliesCompressed is an upstream that compresses.
func repliesCompressed(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Encoding", "gzip")
	_, _ = w.Write(gzipped([]byte(`{"id":"resp_1"}`)))
}

func TestAnswersOfTheUpstreamPassUnchanged(t *testing.T) {
	rows := map[string]row{}
	for _, status := range []int{200, 400, 402, 403, 404, 408, 409, 413, 422, 429, 500, 502, 503, 504, 529} {
		rows[fmt.Sprintf("status %d", status)] = row{call: turn(), answer: replies(status,
			"X-Request-Id: req_1", "Retry-After: 7", "X-Ratelimit-Remaining-Requests: 0", "Openai-Processing-Ms: 12",
			"Via: 1.1 google", "Set-Cookie: a=b", "Set-Cookie: c=d", "Strict-Transport-Security: max-age=1")}
	}
	rows["status 204"] = row{call: turn(), answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }}
	compare(t, rows)
}

func TestAnswersDoNotNameAnotherServer(t *testing.T) {
	upstream := newUpstream(t)
	got := turn().exchange(t, startOurs(t, upstream.responsesURL()), patience)
	if value := got.header["Server"]; len(value) != 0 {
		t.Errorf("answers with Server: %q, which the upstream does not send", value)
	}
}

func TestAnswersThatDifferDoSoForAReason(t *testing.T) {
	const said = `answers with body "{\"error\":{\"message\":\"the upstream says no\"}}"`
	compare(t, map[string]row{
		"status 401 means the gate token, never the operator's key": {
			call:     turn(),
			answer:   replies(401, "X-Request-Id: req_1", "Www-Authenticate: Bearer"),
			original: []string{"answers 401", "answers with Content-Type: application/json", "answers with Www-Authenticate: Bearer", "answers with X-Request-Id: req_1", said},
			ours:     []string{"answers 400", "says upstream_unauthorized"},
			because:  "clients renew their token on 401 and try again; and OpenAI's text has a part of the key",
		},
		"CORS headers of the upstream would let pages read the answer": {
			call:     turn(),
			answer:   replies(200, "Access-Control-Allow-Origin: *"),
			original: []string{"answers with Access-Control-Allow-Origin: *"},
			because:  "no web page may read what the gate answers",
		},
		"Alt-Svc of the upstream is not about the proxy": {
			call:     turn(),
			answer:   replies(200, `Alt-Svc: h3=":443"`),
			original: []string{`answers with Alt-Svc: h3=":443"`},
			because:  "reverse_proxy drops it: the proxy has no HTTP/3",
		},
		"headers that are about one connection": {
			call:     turn("Connection: X-Hop", "X-Hop: 1", "Te: gzip", "Proxy-Connection: keep-alive"),
			original: []string{"asks with Proxy-Connection: keep-alive", "asks with Te: gzip", "asks with X-Hop: 1"},
			because:  "RFC 9110, section 7.6.1: a proxy must not forward them",
		},
		"credentials of the caller's": {
			call:     turn("Cookie: a=b", "Api-Key: k", "X-Api-Key: k"),
			original: []string{"asks with Cookie: a=b", "asks with Api-Key: k", "asks with X-Api-Key: k"},
			because:  "the operator's credential is the only one that goes upstream",
		},
		"headers that tell who calls": {
			call:     turn("Forwarded: for=192.0.2.1", "Via: 1.1 other", "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Host: h", "X-Forwarded-Proto: https"),
			original: []string{"asks with Forwarded: for=192.0.2.1", "asks with Via: 1.1 other", "asks with X-Forwarded-For: 192.0.2.1", "asks with X-Forwarded-Host: h", "asks with X-Forwarded-Proto: https"},
			because:  "the upstream need not know who calls from this machine",
		},
		"an upstream that closes without an answer": {
			call:     turn(),
			answer:   func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			original: []string{"answers 500", `answers with body ""`},
			ours:     []string{"answers 502", "says upstream_unreachable"},
			because:  "it is the upstream's fault, and worth another try",
		},
	})
}

func TestARedirectIsFollowedByNobody(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	for name, test := range map[string]struct {
		proxy    *proxy
		requests []string
		status   int
	}{
		"the original follows it, with the key": {startOriginal(t, upstream.responsesURL()), []string{"POST /v1/responses", "GET /elsewhere"}, 200},
		"ours withholds it":                     {startOurs(t, upstream.responsesURL()), []string{"POST /v1/responses"}, 502},
	} {
		t.Run(name, func(t *testing.T) {
			upstream.forget(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodPost {
					http.Redirect(w, r, "/elsewhere", http.StatusFound)
				}
			})
			got := turn().exchange(t, test.proxy, patience)
			var requests []string
			for _, request := range upstream.all() {
				requests = append(requests, request.method+" "+request.uri)
			}
			if got.status != test.status || strings.Join(requests, ", ") != strings.Join(test.requests, ", ") {
				t.Errorf("answers %d after %q, want %d after %q", got.status, requests, test.status, test.requests)
			}
		})
	}
}

// breaksOff is an upstream that ends in the middle of its answer.
func breaksOff(length string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		if length != "" {
			w.Header().Set("Content-Length", length)
		}
		_, _ = io.WriteString(w, "data: the first part\n\n")
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

func TestAnAnswerThatBreaksOffIsSeenToBreakOff(t *testing.T) {
	// (each row waits for as long as within says, for the original)
	differ := row{
		call:     turn(),
		within:   2 * time.Second,
		original: []string{"does not answer", `answers with body ""`},
		ours: []string{
			"answers 200", "answers with Content-Type: text/event-stream",
			`answers with body "data: the first part\n\n"`, "breaks off",
		},
		because: "the original keeps the part that came and the caller waiting; ours passes it on and cuts the connection",
	}
	chunked, measured := differ, differ
	chunked.answer, measured.answer = breaksOff(""), breaksOff("1000")
	compare(t, map[string]row{"in chunks": chunked, "of a known length": measured})
}

func TestWithoutAnUpstreamTheCallerIsToldSo(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	original, ours := startOriginal(t, upstream.responsesURL()), startOurs(t, upstream.responsesURL())
	upstream.Close()
	row{
		call:     turn(),
		original: []string{"answers 500", `answers with body ""`},
		ours:     []string{"answers 502", "says upstream_unreachable"},
		because:  "it is the upstream's fault, and worth another try",
	}.compare(t, upstream, original, ours)
}

func TestPathAndQueryOfTheUpstreamURLAreUsed(t *testing.T) {
	gatetest.CodexBinary(t)
	for _, target := range []string{"/openai/v1/responses?api-version=2025-04-01-preview", "/v1/responses?a=%2F&b=c+d", "/a%20b/responses"} {
		t.Run(target, func(t *testing.T) {
			upstream := newUpstream(t)
			original, ours := startOriginal(t, upstream.URL+target), startOurs(t, upstream.URL+target)
			row{call: turn()}.compare(t, upstream, original, ours)
			if got := upstream.all()[0].uri; got != target {
				t.Errorf("the upstream was asked for %s, want %s", got, target)
			}
		})
	}
}
