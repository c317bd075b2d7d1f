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
