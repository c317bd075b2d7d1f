//go:build unix

package soak

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"slices"
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
	stop   chan struct{}
	wait   sync.WaitGroup
	tokens sync.Map // every one that a caller read
	kept   sync.Map // the one that a client uses until it gets 401

	answers, large, streams, abandoned, sockets, refusals, renewed, again atomic.Int64
}

func startLoad(t *testing.T, g *gatetest.Gate) *load {
	l := &load{t: t, g: g, stop: make(chan struct{})}
	big := `{"input":"` + strings.Repeat("x", maxBody/2) + `"}`
	var events strings.Builder
	for n := range 5 {
		events.WriteString(gatetest.Event(n + 1))
	}
	l.start(4, func(c *http.Client) error { return l.post(c, `{"input":"hi"}`, gatetest.JSONAnswer, &l.answers) })
	l.start(1, func(c *http.Client) error { return l.post(c, big, gatetest.JSONAnswer, &l.large) })
	l.start(3, func(c *http.Client) error {
		return l.post(c, `{"stream":true,"events":5}`, events.String()+"data: [DONE]\n\n", &l.streams)
	})
	l.start(1, l.abandon)
	l.start(2, l.webSocket)
	l.start(2, l.refused)
	return l
}

// start starts some callers, each with a client of its own.
func (l *load) start(callers int, call func(*http.Client) error) {
	for range callers {
		l.wait.Go(func() {
			client := gatetest.NewClient(l.t)
			defer client.CloseIdleConnections()
			for {
				if err := call(client); err != nil {
					l.t.Errorf("after %s: %v", l, err)
					return
				}
				select {
				case <-l.stop:
					return
				case <-time.After(gatetest.ThinkTime):
				}
			}
		})
	}
}

// end has every caller finish what it does.
func (l *load) end() {
	close(l.stop)
	l.wait.Wait()
}

func (l *load) counts() map[string]int64 {
	return map[string]int64{
		"answers": l.answers.Load(), "large bodies": l.large.Load(), "streams": l.streams.Load(), "abandoned streams": l.abandoned.Load(),
		"WebSockets": l.sockets.Load(), "refusals": l.refusals.Load(), "renewed tokens": l.renewed.Load(),
	}
}

// String is the load so far.
func (l *load) String() string {
	counts := l.counts()
	var b strings.Builder
	for _, kind := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(&b, "%d %s, ", counts[kind], kind)
	}
	return b.String() + fmt.Sprint(l.again.Load(), " requests made again")
}

// noTokenIn fails the test if a token that a caller read is in the log.
func (l *load) noTokenIn(log string) {
	l.tokens.Range(func(token, _ any) bool {
		if strings.Contains(log, token.(string)) {
			l.t.Error("a token is in the log")
		}
		return true
	})
	if strings.Contains(log, gatetest.OperatorKey) {
		l.t.Error("the key is in the log")
	}
}

// token reads the server-info file, as callers do.
func (l *load) token() (string, error) {
	raw, err := os.ReadFile(l.g.Site.InfoPath())
	if err != nil {
		return "", err
	}
	var info gatetest.Info
	if err := json.Unmarshal(raw, &info); err != nil {
		return "", fmt.Errorf("a partial file: %w", err)
	}
	l.tokens.Store(info.AuthToken, true)
	return info.AuthToken, nil
}

// request makes one for the gate, with the token that the client has.
func (l *load) request(ctx context.Context, c *http.Client, body string) (*http.Request, error) {
	token, ok := l.kept.Load(c)
	if !ok {
		read, err := l.token()
		if err != nil {
			return nil, err
		}
		l.kept.Store(c, read)
		token = read
	}
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, l.g.URL("/v1/responses"), strings.NewReader(body))
	if err == nil {
		r.Header.Set("Content-Type", "application/json")
		r.Header.Set("Authorization", "Bearer "+token.(string))
	}
	return r, err
}

// do sends a request as clients do: with 401 it reads the token again, and what
// got no answer at all it sends again, as the OpenAI SDKs do: Caddy's old
// listener leaves such connections behind at a reload, gate or no gate.
func (l *load) do(ctx context.Context, c *http.Client, body string) (*http.Response, error) {
	for try := 0; ; try++ {
		r, err := l.request(ctx, c, body)
		if err != nil {
			return nil, err
		}
		response, err := c.Do(r)
		switch {
		case err != nil && gatetest.ClosedUnanswered(err) && try < gatetest.Tries:
			// (A large body that is refused, for a token that has ended say, may
			// meet a closed connection before its 401 can be read.)
			l.kept.Delete(c)
			l.again.Add(1)
			gatetest.BeforeRetry()
		case err == nil && response.StatusCode == http.StatusUnauthorized && try < gatetest.Tries:
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			l.kept.Delete(c)
			l.renewed.Add(1)
		default:
			return response, err
		}
	}
}

// post makes one request, whose answer must be whole.
func (l *load) post(c *http.Client, body, want string, count *atomic.Int64) error {
	response, err := l.do(l.t.Context(), c, body)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	got, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 || string(got) != want {
		return fmt.Errorf("%.40s: %d %.300q, %w", body, response.StatusCode, got, err)
	}
	count.Add(1)
	return nil
}

// abandon begins a stream and leaves after its first event.
func (l *load) abandon(c *http.Client) error {
	ctx, leave := context.WithCancel(l.t.Context())
	defer leave()
	response, err := l.do(ctx, c, `{"stream":true}`)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	first := make([]byte, len(gatetest.Event(1)))
	if _, err := io.ReadFull(response.Body, first); err != nil || string(first) != gatetest.Event(1) {
		return fmt.Errorf("a stream begins with %d %q, %w", response.StatusCode, first, err)
	}
	l.abandoned.Add(1)
	return nil
}

// webSocket exchanges a few messages and closes.
func (l *load) webSocket(c *http.Client) error {
	ctx := l.t.Context()
	var conn *websocket.Conn
	for try := 0; ; try++ {
		token, err := l.token()
		if err != nil {
			return err
		}
		var response *http.Response
		conn, response, err = websocket.Dial(ctx, l.g.URL("/v1/responses"), &websocket.DialOptions{
			HTTPClient: c, HTTPHeader: http.Header{"X-Proxy-Token": {token}},
		})
		if err == nil {
			break
		}
		if try == gatetest.Tries || response != nil && response.StatusCode != http.StatusUnauthorized || response == nil && !gatetest.ClosedUnanswered(err) {
			return fmt.Errorf("a WebSocket does not open: %w", err)
		}
		l.again.Add(1)
		gatetest.BeforeRetry()
	}
	defer conn.CloseNow()
	for n := range 10 {
		message := fmt.Sprint("message ", n)
		if err := conn.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			return fmt.Errorf("a WebSocket was cut: %w", err)
		}
		if _, echo, err := conn.Read(ctx); err != nil || string(echo) != message {
			return fmt.Errorf("a WebSocket was cut: %q, %w", echo, err)
		}
		time.Sleep(gatetest.ThinkTime)
	}
	l.sockets.Add(1)
	return conn.Close(websocket.StatusNormalClosure, "")
}

// refusals are requests of every kind that the gate must refuse, and how.
var refusals = []struct {
	status int
	code   string
	edit   func(*http.Request)
}{
	{403, "origin_not_allowed", gatetest.SetHeader("Origin", "https://attacker.example")},
	{403, "cross_site_request", gatetest.SetHeader("Sec-Fetch-Site", "cross-site")},
	{403, "host_not_allowed", func(r *http.Request) { r.Host = "attacker.example" }},
	{415, "content_type_not_json", gatetest.SetHeader("Content-Type", "text/plain")},
	{401, "missing_token", gatetest.NoHeader("Authorization")},
	{401, "invalid_token", gatetest.SetHeader("X-Proxy-Token", "a-guess")},
	{403, "route_not_allowed", func(r *http.Request) { r.URL.Path = "/v1/files" }},
	{413, "request_too_large", func(r *http.Request) {
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(strings.Repeat("x", maxBody+1))), maxBody+1, nil
	}},
}

// refused makes one of each.
func (l *load) refused(c *http.Client) error {
	for _, refusal := range refusals {
		for try := 0; ; try++ {
			l.kept.Delete(c)
			r, err := l.request(l.t.Context(), c, `{"input":"hi"}`)
			if err != nil {
				return err
			}
			refusal.edit(r)
			response, err := c.Do(r)
			if err != nil {
				// (who still sends a body that is refused may see a reset)
				if try < gatetest.Tries && (gatetest.ClosedUnanswered(err) || errors.As(err, new(*net.OpError))) {
					l.again.Add(1)
					gatetest.BeforeRetry()
					continue
				}
				return err
			}
			_, _ = io.Copy(io.Discard, response.Body)
			_ = response.Body.Close()
			if code := response.Header.Get("X-Responses-Proxy-Gate"); response.StatusCode != refusal.status || code != refusal.code {
				if code == "invalid_token" && try < gatetest.Tries {
					continue // it ended between reading and presenting
				}
				return fmt.Errorf("got %d %s, want %d %s", response.StatusCode, code, refusal.status, refusal.code)
			}
			l.refusals.Add(1)
			break
		}
	}
	return nil
}
