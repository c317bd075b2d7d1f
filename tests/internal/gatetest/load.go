//go:build unix

package gatetest

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

// EventInterval is how often a stream of a LoadUpstream has an event.
const EventInterval = 100 * time.Millisecond

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
