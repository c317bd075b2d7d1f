//go:build unix

package operate

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// load is callers of every kind, who go on until end is called.
type load struct {
	t      *testing.T
	g      *gatetest.Gate
	up     *gatetest.LoadUpstream
	stop   chan struct{}
	wait   sync.WaitGroup
	served atomic.Int64 // requests
	reset  atomic.Int64 // connections that were closed before they had an answer
	echoes atomic.Int64
	events atomic.Int64
}

func startLoad(t *testing.T, g *gatetest.Gate, up *gatetest.LoadUpstream, callers, streams, sockets int) *load {
	l := &load{t: t, g: g, up: up, stop: make(chan struct{})}
	var open sync.WaitGroup
	open.Add(streams + sockets)
	for range streams {
		l.wait.Go(func() { l.stream(&open) })
	}
	for range sockets {
		l.wait.Go(func() { l.webSocket(&open) })
	}
	for range callers {
		l.wait.Go(l.call)
	}
	open.Wait()
	return l
}

// end lets the streams come to their end and waits for everybody.
func (l *load) end() {
	close(l.stop)
	close(l.up.Finish)
	l.wait.Wait()
	l.t.Logf("%d requests (%d made again), %d events, %d echoes", l.served.Load(), l.reset.Load(), l.events.Load(), l.echoes.Load())
}

func (l *load) stopped() bool {
	select {
	case <-l.stop:
		return true
	default:
		return false
	}
}

// call makes one request after the other. One whose connection was closed
// before there was any answer is made again after a pause, as the OpenAI SDKs
// do: Caddy's old listener leaves such connections behind, gate or no gate.
func (l *load) call() {
	client := gatetest.NewClient(l.t)
	defer client.CloseIdleConnections()
	for !l.stopped() {
		var answer gatetest.Answer
		var err error
		for range gatetest.Tries {
			if answer, err = l.once(client); err == nil || !gatetest.ClosedUnanswered(err) {
				break
			}
			l.reset.Add(1)
			gatetest.BeforeRetry()
		}
		if err != nil || answer.Status != 200 || answer.Body != gatetest.JSONAnswer {
			l.t.Errorf("a request failed after %d: %d %s %v", l.served.Load(), answer.Status, answer.Body, err)
			return
		}
		l.served.Add(1)
		select {
		case <-l.stop:
		case <-time.After(gatetest.ThinkTime):
		}
	}
}

func (l *load) once(client *http.Client) (gatetest.Answer, error) {
	response, err := client.Do(l.g.Post())
	if err != nil {
		return gatetest.Answer{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return gatetest.Answer{Status: response.StatusCode, Body: string(body)}, err
}

// stream reads one stream from its first event to its own end.
func (l *load) stream(open *sync.WaitGroup) {
	opened := sync.OnceFunc(open.Done)
	defer opened()
	response, err := gatetest.NewClient(l.t).Do(l.g.Post(func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(`{"stream":true}`)), 15
	}))
	if err != nil {
		l.t.Errorf("a stream does not open: %v", err)
		return
	}
	defer response.Body.Close()
	reader := bufio.NewReader(response.Body)
	for n := 1; ; n++ {
		var event strings.Builder
		for !strings.HasSuffix(event.String(), "\n\n") {
			line, err := reader.ReadString('\n')
			if event.WriteString(line); err != nil {
				l.t.Errorf("a stream was cut at event %d: %q, %v", n, event.String(), err)
				return
			}
		}
		opened()
		if event.String() == "data: [DONE]\n\n" {
			if _, err := reader.ReadByte(); err != io.EOF {
				l.t.Errorf("a stream has no clean end: %v", err)
			}
			return
		}
		if event.String() != gatetest.Event(n) {
			l.t.Errorf("event %d of a stream is %q", n, event.String())
			return
		}
		l.events.Add(1)
	}
}

// webSocket keeps one WebSocket busy until it closes it itself.
func (l *load) webSocket(open *sync.WaitGroup) {
	opened := sync.OnceFunc(open.Done)
	defer opened()
	ctx := l.t.Context()
	conn, _, err := websocket.Dial(ctx, l.g.URL("/v1/responses"), &websocket.DialOptions{
		HTTPHeader: http.Header{"X-Proxy-Token": {l.g.Token}},
	})
	if err != nil {
		l.t.Errorf("a WebSocket does not open: %v", err)
		return
	}
	defer conn.CloseNow()
	ticker := time.NewTicker(gatetest.EventInterval)
	defer ticker.Stop()
	for n := 0; !l.stopped(); n++ {
		message := fmt.Sprint("message ", n)
		err := conn.Write(ctx, websocket.MessageText, []byte(message))
		var echo []byte
		if err == nil {
			_, echo, err = conn.Read(ctx)
		}
		if err != nil || string(echo) != message {
			l.t.Errorf("a WebSocket was cut at message %d: %q, %v", n, echo, err)
			return
		}
		opened()
		l.echoes.Add(1)
		select {
		case <-ticker.C:
		case <-l.stop:
		}
	}
	if err := conn.Close(websocket.StatusNormalClosure, ""); err != nil {
		l.t.Errorf("a WebSocket has no clean end: %v", err)
	}
}
