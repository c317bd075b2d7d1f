//go:build unix

package faults

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const (
	sseHeader = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n"
	chunked   = sseHeader + "Transfer-Encoding: chunked\r\n\r\n"
	event     = "data: 1\n\n"
	oneChunk  = "9\r\n" + event + "\r\n"
	key       = gatetest.OperatorKey
)

// fault is an upstream's answer, as bytes.
type fault struct {
	name  string
	sent  string
	reset bool   // then it resets the connection; else it closes it
	want  string // a refusal's status and code, "truncated", or "whole " and the body
}

var faults = []fault{
	{"none, the control", chunked + oneChunk + "0\r\n\r\n", false, "whole " + event},

	{"it closes without a word", "", false, "502 upstream_unreachable"},
	{"it resets without a word", "", true, "502 upstream_unreachable"},
	{"it closes within the status line", "HTTP/1.1 20", false, "502 upstream_unreachable"},
	{"it closes within the headers", "HTTP/1.1 200 OK\r\nContent-Type: text/pl", false, "502 upstream_unreachable"},
	{"it resets within the headers", "HTTP/1.1 200 OK\r\nContent-Type: text/pl", true, "502 upstream_unreachable"},
	{"it speaks no HTTP", "SSH-2.0-OpenSSH_9.2 " + key + "\r\n", false, "502 upstream_unreachable"},
	{"it sends zeros", strings.Repeat("\x00", 5000), false, "502 upstream_unreachable"},
	{"it sends TLS", "\x15\x03\x01\x00\x02\x02\x28", false, "502 upstream_unreachable"},
	{"a header line is none", "HTTP/1.1 200 OK\r\nno colon " + key + "\r\n\r\n", false, "502 upstream_unreachable"},
	{"the headers do not end", "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-A: "+strings.Repeat("a", 8<<10)+"\r\n", 1500), false, "502 upstream_unreachable"},
	{"the status has five digits", "HTTP/1.1 20000 OK\r\nContent-Length: 0\r\n\r\n", false, "502 upstream_unreachable"},
	{"the status is no status", "HTTP/1.1 099 Odd\r\nContent-Length: 0\r\n\r\n", false, "502 upstream_unreachable"},
	{"the status is 0", "HTTP/1.1 000 Odd\r\nContent-Length: 0\r\n\r\n", false, "502 upstream_unreachable"},
	{"the length is no number", "HTTP/1.1 200 OK\r\nContent-Length: -9\r\n\r\n" + event, false, "502 upstream_unreachable"},
	{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nContent-Length: 2\r\n\r\n" + event, false, "502 upstream_unreachable"},
	{"an encoding that nobody knows", sseHeader + "Transfer-Encoding: gzip, chunked\r\n\r\n" + oneChunk, false, "502 upstream_unreachable"},

	{"only hints", "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", false, "502 upstream_unreachable"},
	{"hints and then the answer", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + chunked + oneChunk + "0\r\n\r\n", false, "whole " + event},
	{"hints without end", strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </"+strings.Repeat("a", 8<<10)+">\r\n\r\n", 1500), false, "502 upstream_unreachable"}, // (none is passed on; the transport gives up)
	{"a switch of protocols that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n" + event, false, "502 upstream_missing"},
	{"a switch of protocols to none", "HTTP/1.1 101 Switching Protocols\r\n\r\n" + event, false, "502 upstream_missing"},

	{"it closes after the headers", chunked, false, "truncated"},
	{"it resets after the headers", chunked, true, "truncated"},
	{"it closes within a chunk", chunked + "99\r\n" + event, false, "truncated"},
	{"it closes within a chunk's size", chunked + oneChunk + "9", false, "truncated"},
	{"it closes between chunks", chunked + oneChunk, false, "truncated"},
	{"it resets between chunks", chunked + oneChunk, true, "truncated"},
	{"it closes within the last chunk", chunked + oneChunk + "0\r\n", false, "truncated"},
	{"a chunk's size is none", chunked + oneChunk + "zz\r\n" + event, false, "truncated"},
	{"a chunk's size is more than there is", chunked + oneChunk + "ffffffffffffffffff\r\n" + event, false, "truncated"},
	{"a chunk is longer than its size", chunked + "2\r\n" + event + "\r\n0\r\n\r\n", false, "truncated"},
	{"a trailer is none", chunked + oneChunk + "0\r\nno colon\r\n\r\n", false, "truncated"},
	{"fewer bytes than the length says", sseHeader + "Content-Length: 99\r\n\r\n" + event, false, "truncated"},
	{"fewer bytes than the length says, and a reset", sseHeader + "Content-Length: 99\r\n\r\n" + event, true, "truncated"},
	{"no bytes, and a length", sseHeader + "Content-Length: 99\r\n\r\n", false, "truncated"},
	{"more bytes than the length says", sseHeader + "Content-Length: 9\r\n\r\n" + event + "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison", false, "whole " + event},
	{"a reset where only the end says how long it is", sseHeader + "\r\n" + event, true, "truncated"},
	{"an end where only the end says how long it is", sseHeader + "\r\n" + event, false, "whole " + event},
}

// answer is the fault as an upstream's handler. It waits a moment before a
// reset, which makes the other side's kernel forget what it has not read.
func (f fault) answer(passed <-chan struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, f.sent) // the gate may give up before the end
		if f.reset {
			select {
			case <-passed: // the caller has what came before
			case <-time.After(300 * time.Millisecond):
			}
			gatetest.ResetOnClose(conn)
			return
		}
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}
}

// outcome is what a client makes of an answer.
func outcome(t *testing.T, g *gatetest.Gate, client *http.Client, passed chan<- struct{}) string {
	t.Helper()
	response, err := client.Do(g.Post(gatetest.WithDeadline(t)))
	if err != nil {
		return cutOff(err)
	}
	defer response.Body.Close()
	if status := response.StatusCode; status != http.StatusOK {
		got := gatetest.ReadAnswer(t, response)
		code := got.Header.Get("X-Responses-Proxy-Gate")
		gatetest.Refused(t, got, status, code)
		noSecretIn(t, "the answer", fmt.Sprint(got), g.Token)
		return fmt.Sprint(status, " ", code)
	}
	first := make([]byte, len(event))
	n, err := io.ReadFull(response.Body, first)
	close(passed)
	if err == nil {
		var rest []byte
		rest, err = io.ReadAll(response.Body)
		first = append(first, rest...)
	} else if errors.Is(err, io.EOF) { // a clean end, before anything came
		err = nil
	}
	if err != nil {
		return cutOff(err)
	}
	return "whole " + string(first[:max(n, len(first))])
}

// cutOff is what a client makes of an error, which must not be its own patience.
func cutOff(err error) string {
	if os.IsTimeout(err) || strings.Contains(err.Error(), "deadline") {
		return "a hang: " + err.Error()
	}
	return "truncated"
}

// everyWay is the gate as a handler, over HTTP/1.1 and HTTP/2, and as a command.
func everyWay(t *testing.T, run func(t *testing.T, g *gatetest.Gate, client *http.Client)) {
	t.Helper()
	t.Run("HTTP/1.1", func(t *testing.T) {
		t.Parallel()
		g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
		run(t, g, g.HTTP)
	})
	t.Run("HTTP/2", func(t *testing.T) {
		t.Parallel()
		g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetUnencryptedHTTP2(true)
		t.Cleanup(transport.CloseIdleConnections)
		run(t, g, &http.Client{Transport: transport})
	})
	t.Run("the command", func(t *testing.T) {
		t.Parallel()
		g := gatetest.StartCommand(t, gatetest.NewUpstream(t, nil), gatetest.Site{}, gatetest.Launch{})
		run(t, g, g.HTTP)
	})
}

func TestAnAnswerThatFailsNeverLooksWholeAndNeverHangs(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, g *gatetest.Gate, client *http.Client) {
		for _, f := range faults {
			passed := make(chan struct{})
			g.Up.SetAnswer(f.answer(passed))
			got := outcome(t, g, client, passed)
			if got != f.want {
				t.Errorf("%s: the client sees %q, want %q", f.name, got, f.want)
			}
			g.Up.SetAnswer(gatetest.AnswerJSON)
			for range 2 { // (one for each connection that may be kept)
				if after := gatetest.Do(t, client, g.Post(gatetest.WithDeadline(t))); after.Status != 200 || after.Body != gatetest.JSONAnswer {
					t.Errorf("after %q a request gets %d %q", f.name, after.Status, after.Body)
				}
			}
		}
		noSecretIn(t, "the log", g.Output.String(), g.Token)
	})
}
