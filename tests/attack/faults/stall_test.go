//go:build unix

package faults

import (
	"bufio"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// stalling is an upstream that sends bytes, one after the other if slowly, and
// then nothing. Gone is closed when the gate has hung up.
func stalling(sent string, slowly bool) (answer http.HandlerFunc, gone chan struct{}) {
	gone = make(chan struct{})
	return func(w http.ResponseWriter, _ *http.Request) {
		defer close(gone)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		defer conn.Close()
		hungUp := make(chan struct{})
		go func() {
			defer close(hungUp)
			_, _ = io.Copy(io.Discard, conn)
		}()
		if !slowly {
			_, _ = io.WriteString(conn, sent)
			<-hungUp
			return
		}
		for i := range len(sent) {
			select {
			case <-hungUp:
				return
			case <-time.After(20 * time.Millisecond):
				_, _ = io.WriteString(conn, sent[i:i+1])
			}
		}
		<-hungUp
	}, gone
}

// With the timeouts that an operator sets, nothing lasts longer than these say.
func TestAnUpstreamThatStallsIsGivenUpAfterTheOperatorsTimeouts(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Proxy: "transport http {\nresponse_header_timeout 2s\nread_timeout 3s\n}",
	})
	for name, c := range map[string]struct {
		sent   string
		slowly bool
		want   string
	}{
		"before it answers":                            {"", false, "504 upstream_timeout"},
		"within the headers":                           {"HTTP/1.1 200 OK\r\nContent-Ty", false, "504 upstream_timeout"},
		"within headers that drip":                     {"HTTP/1.1 200 OK\r\nX-A: " + strings.Repeat("a", 1000), true, "504 upstream_timeout"},
		"after the headers":                            {chunked, false, "truncated"},
		"within a chunk":                               {chunked + "99\r\n" + event, false, "truncated"},
		"between chunks":                               {chunked + oneChunk, false, "truncated"},
		"before the end that only a close would bring": {sseHeader + "\r\n" + event, false, "truncated"},
	} {
		t.Run(name, func(t *testing.T) {
			answer, gone := stalling(c.sent, c.slowly)
			g.Up.SetAnswer(answer)
			if got := outcome(t, g, g.HTTP, make(chan struct{})); got != c.want {
				t.Errorf("the client sees %q, want %q", got, c.want)
			}
			gatetest.AwaitClosed(t, "the gate to hang up", gone)
		})
	}
	g.Up.SetAnswer(gatetest.AnswerJSON)
	g.Works(t)
}

// Without timeouts, which a model that thinks for minutes needs, a stalled
// upstream costs what its callers wait for, and nothing once they have left.
func TestACallerWhoLeavesAStalledUpstreamFreesIt(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, g *gatetest.Gate, client *http.Client) {
		for name, sent := range map[string]string{
			"before it answers": "", "after the headers": chunked, "between events": chunked + oneChunk, "within a chunk": chunked + "99\r\n" + event,
		} {
			answer, gone := stalling(sent, false)
			reached := make(chan struct{})
			g.Up.SetAnswer(func(w http.ResponseWriter, r *http.Request) {
				close(reached)
				answer(w, r)
			})
			ctx, leave := context.WithCancel(t.Context())
			left := make(chan struct{})
			r := g.Post().WithContext(ctx)
			go func() {
				defer close(left)
				response, err := client.Do(r)
				if err != nil {
					return
				}
				defer response.Body.Close()
				if _, err := io.Copy(io.Discard, response.Body); err == nil {
					t.Errorf("%s: the answer looks whole", name)
				}
			}()
			gatetest.AwaitClosed(t, "the request upstream", reached)
			leave()
			gatetest.AwaitClosed(t, name+": the client's end", left)
			gatetest.AwaitClosed(t, name+": the gate to hang up", gone)
		}
		g.Up.SetAnswer(gatetest.AnswerJSON)
		if got := gatetest.Do(t, client, g.Post(gatetest.WithDeadline(t))); got.Status != 200 {
			t.Errorf("afterwards: %d %s", got.Status, got.Body)
		}
	})
}

func TestAnAnswerThatDripsArrivesAsItDrips(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, g *gatetest.Gate, client *http.Client) {
		answer, gone := stalling(chunked+"1\r\na\r\n1\r\nb\r\n1\r\nc\r\n", true)
		g.Up.SetAnswer(answer)
		ctx, leave := context.WithCancel(t.Context())
		defer leave()
		response, err := client.Do(g.Post(gatetest.WithDeadline(t)).WithContext(ctx))
		gatetest.Must(t, err)
		defer response.Body.Close()
		for reader := bufio.NewReader(response.Body); ; {
			got, err := reader.ReadByte()
			gatetest.Must(t, err)
			if got == 'c' { // though the answer never ends
				break
			}
		}
		leave()
		gatetest.AwaitClosed(t, "the gate to hang up", gone)
	})
}

// A client must not take a WebSocket that was cut off for one that was closed.
func TestAWebSocketThatIsCutOffIsNotClosedNormally(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(net.Conn){
		"by a close":             func(conn net.Conn) { _ = conn.Close() },
		"by a reset":             func(conn net.Conn) { gatetest.ResetOnClose(conn); _ = conn.Close() },
		"by a half-close":        func(conn net.Conn) { _ = conn.(interface{ CloseWrite() error }).CloseWrite() },
		"within a frame":         func(conn net.Conn) { _, _ = conn.Write([]byte{0x81, 0x7d, 'a'}); _ = conn.Close() },
		"by bytes without sense": func(conn net.Conn) { _, _ = conn.Write([]byte("\xff\xff\xff\xff\xff\xff")); _ = conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				ws := hijackWebSocket(w, r)
				defer ws.Close()
				end(ws)
				_, _ = io.Copy(io.Discard, ws) // until the gate hangs up
			})
			g := gatetest.StartGate(t, up, gatetest.Site{Gate: "allow_route POST /v1/responses\nallow_route GET /v1/responses"})
			ctx, cancel := context.WithTimeout(t.Context(), gatetest.Patience)
			defer cancel()
			conn, _, err := websocket.Dial(ctx, g.URL("/v1/responses"), &websocket.DialOptions{
				HTTPHeader: http.Header{"X-Proxy-Token": {g.Token}},
			})
			gatetest.Must(t, err)
			defer conn.CloseNow()
			_, got, err := conn.Read(ctx)
			if err == nil || ctx.Err() != nil || websocket.CloseStatus(err) == websocket.StatusNormalClosure || errors.Is(err, context.Canceled) {
				t.Errorf("the client reads %q, %v", got, err)
			}
			up.SetAnswer(gatetest.AnswerJSON)
			g.Works(t)
		})
	}
}

// hijackWebSocket accepts a WebSocket and gives its connection.
func hijackWebSocket(w http.ResponseWriter, r *http.Request) net.Conn {
	const magic = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455, 1.3
	digest := sha1.Sum([]byte(r.Header.Get("Sec-Websocket-Key") + magic))
	accept := base64.StdEncoding.EncodeToString(digest[:])
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(err)
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "+accept+"\r\n\r\n")
	return conn
}
