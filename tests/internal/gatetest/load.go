//go:build unix

package gatetest

import (
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"
)

// EventInterval is how often a stream of a LoadUpstream has an event.
const EventInterval = 100 * time.Millisecond

// ThinkTime keeps callers from being the whole load of the machine.
const ThinkTime = 50 * time.Millisecond

// Tries is how often a caller makes a request that gets no answer. The OpenAI
// SDKs do so twice. Where reloads come every tenth of a second, a request may
// meet more of them.
const Tries = 10

// BeforeRetry waits about as long as the OpenAI SDKs do before they make a
// request again. Not always as long, as in the SDKs: retries must not fall into
// step with reloads.
func BeforeRetry() { time.Sleep(250*time.Millisecond + rand.N(500*time.Millisecond)) }

// ClosedUnanswered reports whether a request failed because its connection was
// closed before there was any answer: Caddy's old listener leaves such
// connections behind at a reload, gate or no gate.
func ClosedUnanswered(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, io.EOF) ||
		errors.Is(err, net.ErrClosed) || // (by net/http's client, which saw the reset while it still wrote)
		strings.Contains(err.Error(), "server closed idle connection")
}

// LoadUpstream answers requests at once, streams until it is told to finish or
// has sent as many "events" as the request asks for, and echoes WebSockets. It keeps nothing of what it sees.
type LoadUpstream struct {
	*httptest.Server
	Finish chan struct{} // closed: streams come to their end
}

// NewLoadUpstream starts one.
func NewLoadUpstream(t testing.TB) *LoadUpstream {
	up := &LoadUpstream{Finish: make(chan struct{})}
	up.Server = httptest.NewServer(up)
	t.Cleanup(up.Close)
	return up
}

// ServeHTTP implements http.Handler.
func (up *LoadUpstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "Bearer "+OperatorKey {
		http.Error(w, "no key", http.StatusTeapot)
		return
	}
	if r.Method == http.MethodGet {
		Echo(make(chan struct{}))(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	if !strings.Contains(string(body), `"stream":true`) {
		AnswerJSON(w, r)
		return
	}
	var asked struct{ Events int }
	_ = json.Unmarshal(body, &asked)
	w.Header().Set("Content-Type", "text/event-stream")
	ticker := time.NewTicker(EventInterval)
	defer ticker.Stop()
	for n := 1; ; n++ {
		_, _ = io.WriteString(w, Event(n))
		_ = http.NewResponseController(w).Flush()
		if n == asked.Events {
			_, _ = io.WriteString(w, "data: [DONE]\n\n")
			return
		}
		select {
		case <-up.Finish:
			_, _ = io.WriteString(w, "data: [DONE]\n\n")
			return
		case <-r.Context().Done():
			return
		case <-ticker.C:
		}
	}
}
