//go:build unix

package malformed

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// stolen is a credential of the caller's own, wherever a case has one.
const stolen = "sk-of-the-caller-0a1b2c3d4e"

// allowed are the request lines that the gates of these tests forward.
var allowed = []string{"POST /v1/responses", "GET /v1/models"}

func startGate(t *testing.T) *gatetest.Gate {
	t.Helper()
	return gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Gate:  "allow_route POST /v1/responses\nallow_route GET /v1/models",
		Proxy: "transport http {\nkeepalive off\n}", // so that each request upstream has a connection of its own
	})
}

// exchange is what somebody writes to a connection, and what must become of it.
type exchange struct {
	harm string
	sent string // TOKEN stands for the gate's token, STOLEN for stolen
	want string // the statuses of all answers, in order; "200 403 route_not_allowed", say
	pass int    // how many whole requests go upstream
}

// run sends the bytes, reads as many answers as are wanted, ends its side, and
// then reads what else may come.
func (e exchange) run(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	g.Up.Forget()
	conn := g.Dial(t)
	sent := strings.NewReplacer("TOKEN", g.Token, "STOLEN", stolen).Replace(e.sent)
	written := make(chan struct{})
	go func() { // the server may answer, and close, before it has read all
		defer close(written)
		_, _ = io.WriteString(conn, sent)
	}()
	var got []string
	for range statuses(e.want) {
		if strings.HasSuffix(e.harm, cutShort) {
			break
		}
		answer := readAnswer(conn.Reader)
		got = append(got, answer)
		if answer == closed || answer == hangs {
			break
		}
	}
	<-written
	_ = conn.Conn.(*net.TCPConn).CloseWrite()
	for !slices.Contains(got, closed) && !slices.Contains(got, hangs) {
		got = append(got, readAnswer(conn.Reader))
	}
	if all := strings.TrimSuffix(strings.Join(got, " "), " "+closed); all != e.want {
		t.Errorf("the answers are %q, want %q", all, e.want)
	}
	checkUpstream(t, g, e.pass)
	if tokens := strings.Count(e.sent, "TOKEN"); e.pass > tokens {
		t.Errorf("%d requests may pass, of callers with %d tokens", e.pass, tokens)
	}
}

// cutShort ends the name of an exchange whose sender ends its side at once.
const cutShort = ", cut short"

// statuses are the words of a list of answers that are statuses.
func statuses(list string) []string {
	return slices.DeleteFunc(strings.Fields(list), func(word string) bool { return word[0] > '9' })
}

const (
	closed = "closed" // the server has closed the connection
	hangs  = "hangs"  // nothing comes
)

// readAnswer reads one answer: its status, and the gate's code if it has one.
func readAnswer(reader *bufio.Reader) string {
	response, err := http.ReadResponse(reader, nil)
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return hangs
		}
		return closed
	}
	_, _ = io.Copy(io.Discard, response.Body)
	_ = response.Body.Close()
	return strings.TrimSpace(fmt.Sprint(response.StatusCode, " ", response.Header.Get("X-Responses-Proxy-Gate")))
}

// bodiless is for requests that say they have no body, and then send one. They
// may have gone upstream by then, without it.
const bodiless = -1

// cutOff is for requests that go on behind the length they said. Up to there
// they may have gone upstream.
const cutOff = -2

// checkUpstream looks at what reached the upstream, twice: as net/http
// understood it, and byte by byte with a parser that forgives nothing.
func checkUpstream(t *testing.T, g *gatetest.Gate, pass int) {
	t.Helper()
	for _, seen := range g.Up.Requests() {
		checkSeen(t, g, seen.Method+" "+seen.Target, seen.Header)
		if len(seen.Trailer) > 0 {
			t.Errorf("trailers upstream: %v", seen.Trailer)
		}
	}
	whole := 0
	for _, bytes := range g.Up.Conversations() {
		requests, err := parseStrictly(bytes)
		if err != nil {
			t.Errorf("upstream, a parser could stumble: %v\n%q", err, bytes)
		}
		for _, r := range requests {
			checkSeen(t, g, r.line, r.header)
			if pass == bodiless && r.body != "" {
				t.Errorf("the upstream saw the body %q", r.body)
			}
		}
		whole += len(requests)
	}
	if whole != pass && (pass >= 0 || whole > 1) {
		t.Errorf("%d whole requests went upstream, want %d:\n%q", whole, pass, g.Up.Conversations())
	}
}

func checkSeen(t *testing.T, g *gatetest.Gate, line string, header http.Header) {
	t.Helper()
	if !slices.Contains(allowed, line) {
		t.Errorf("the upstream saw %q", line)
	}
	credentials := 0
	for name, values := range header {
		for _, value := range values {
			switch {
			case strings.Contains(value, g.Token) || strings.Contains(value, stolen):
				t.Errorf("the upstream saw the caller's credential in %s", name)
			case strings.Contains(value, gatetest.OperatorKey):
				credentials++
			}
		}
	}
	if got := header.Values("Authorization"); credentials != 1 || len(got) != 1 || got[0] != "Bearer "+gatetest.OperatorKey {
		t.Errorf("the upstream saw %d operator's credentials, Authorization %q", credentials, got)
	}
}
