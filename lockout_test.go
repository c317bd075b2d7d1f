package responsesproxygate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
)

// exchanged is what one request over a connection of its own is answered.
func exchanged(t *testing.T, socket, message string) (status int, code, body string) {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, message); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	text, _ := io.ReadAll(answer.Body)
	return answer.StatusCode, answer.Header.Get(codeHeaderName), string(text)
}

// With fail_duration, reverse_proxy takes an upstream out that fails. A body that
// its caller spoils is no failure of the upstream's.
func TestACallersSpoiltBodyTakesNoUpstreamFromTheOthers(t *testing.T) {
	const proxy = "reverse_proxy UP {\nfail_duration 30s\n}"
	request := func(fields string) string {
		return "POST /v1/responses HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nAuthorization: Bearer " + testToken + "\r\n" + fields
	}
	chunked := func(body string) string { return request("Transfer-Encoding: chunked\r\n\r\n" + body) }
	long := fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", 100, strings.Repeat("a", 100))
	for name, c := range map[string]struct {
		site, message string
		status        int
		code          string
	}{
		"by a chunk without a length":   {"GATE\n" + proxy, chunked("2\r\n{}\r\nzz\r\n"), http.StatusBadRequest, "request_failed"},
		"longer than it may be":         {"route {\nrequest_body {\nmax_size 10\n}\nGATE\n" + proxy + "\n}", chunked(long), http.StatusRequestEntityTooLarge, "request_too_large"},
		"longer, which is found behind": {"route {\nGATE\nrequest_body {\nmax_size 10\n}\n" + proxy + "\n}", chunked(long), http.StatusRequestEntityTooLarge, "request_too_large"},
		"through encode":                {"encode\nGATE\n" + proxy, chunked("2\r\n{}\r\nzz\r\n"), http.StatusBadRequest, "request_failed"},
		"through encode behind":         {"route {\nGATE\nencode\n" + proxy + "\n}", chunked("2\r\n{}\r\nzz\r\n"), http.StatusBadRequest, "request_failed"},
		"behind a budget":               {"GATE\nresponses_budget {\nconcurrent 1\n}\n" + proxy, chunked("2\r\n{}\r\nzz\r\n"), http.StatusBadRequest, "request_failed"},
	} {
		t.Run(name, func(t *testing.T) {
			u := newRecorder(t, (*httptest.Server).Start)
			socket, err := tryLoad(t, "", strings.ReplaceAll(c.site, "UP", u.Listener.Addr().String()))
			if err != nil {
				t.Fatal(err)
			}
			if status, code, body := exchanged(t, socket, c.message); status != c.status || code != c.code {
				t.Errorf("who spoils it is answered %d %s %s, want %d %s", status, code, body, c.status, c.code)
			}
			if status, code, body := exchanged(t, socket, request("Content-Length: 2\r\n\r\n{}")); status != http.StatusOK {
				t.Errorf("another caller is answered %d %s %s", status, code, body)
			}
		})
	}
}

// Some upstreams say 401 to what a caller asks for (LiteLLM: to a model that the
// key may not use). Nobody can tell that from a dead key by one answer.
func TestWhoIsAnswered401ForWhatItAsksLocksNobodyElseOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const otherToken = "another-token-of-43-characters-0123456789ab"
		h, logs := testGate()
		h.policy.tokens = newTokenSet(append(h.policy.tokens.callers, tokensOf("other", otherToken).callers...), nil)
		sent := 0
		upstream := func(w http.ResponseWriter, r *http.Request) error {
			takeKey(r)
			if body, _ := io.ReadAll(r.Body); string(body) == "{}" {
				_, err := io.WriteString(w, "{}")
				return err
			}
			sent++
			w.WriteHeader(http.StatusUnauthorized)
			return nil
		}
		lockedOut := 0
		for range 600 { // a minute
			bad := goodRequest()
			bad.Body, bad.ContentLength = io.NopCloser(strings.NewReader("[]")), 2
			answerTo(t, h, bad, upstream)
			good := goodRequest()
			good.Header.Set("Authorization", "Bearer "+otherToken)
			if w := answerTo(t, h, good, upstream); w.Code != http.StatusOK {
				lockedOut++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if lockedOut != 0 {
			t.Errorf("the other caller was refused %d of 600 times", lockedOut)
		}
		if lines := logs.FilterLevelExact(zap.ErrorLevel).Len(); sent > 8 || lines != sent {
			t.Errorf("%d requests that are refused went upstream, and %d errors were logged; want one for each wait", sent, lines)
		}
		h.trail.close()
	})
}
