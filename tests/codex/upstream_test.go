//go:build unix

package codex

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
)

// seen is a request as it arrived at the upstream.
type seen struct {
	method string
	uri    string // as it stood in the request line
	host   string
	header http.Header
	body   []byte

	frames [][]byte // what the client sent over the WebSocket, if it opened one
}

func (s *seen) String() string {
	return fmt.Sprintf("%s %s, %d bytes, headers %v", s.method, s.uri, len(s.body), s.header)
}

// fakeUpstream stands in for the OpenAI API, as far as Codex needs it. It
// records whatever reaches it.
type fakeUpstream struct {
	*httptest.Server

	// answer replies to POST; nil is a whole turn as an event stream.
	answer http.HandlerFunc
	// say is the assistant's message of every turn.
	say string

	mu       sync.Mutex
	requests []*seen
}

// newUpstream starts an upstream that ends with the test.
func newUpstream(t *testing.T) *fakeUpstream {
	t.Helper()
	upstream := &fakeUpstream{say: "the upstream says hello"}
	upstream.Server = httptest.NewServer(http.HandlerFunc(upstream.serve))
	t.Cleanup(upstream.Close)
	return upstream
}

// responsesURL is what proxies are given as --upstream-url.
func (u *fakeUpstream) responsesURL() string { return u.URL + "/v1/responses" }

func (u *fakeUpstream) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	request := &seen{method: r.Method, uri: r.RequestURI, host: r.Host, header: r.Header.Clone(), body: body}
	u.mu.Lock()
	u.requests = append(u.requests, request)
	answer := u.answer
	u.mu.Unlock()
	switch {
	case err != nil:
		http.Error(w, "the body broke off", http.StatusBadRequest)
	case answer != nil:
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer(w, r)
	case strings.EqualFold(r.Header.Get("Upgrade"), "websocket"):
		u.serveWebSocket(w, r, request)
	case r.Method == http.MethodGet && r.URL.Path == "/v1/models":
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, `{"models":[]}`)
	default:
		u.writeTurn(w)
	}
}

// writeTurn answers with a whole turn as an event stream.
func (u *fakeUpstream) writeTurn(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/event-stream")
	for _, event := range u.turn() {
		_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", event.kind, event.data)
		_ = http.NewResponseController(w).Flush()
	}
}

// serveWebSocket answers every response.create with a turn, one frame an event.
func (u *fakeUpstream) serveWebSocket(w http.ResponseWriter, r *http.Request, request *seen) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer conn.CloseNow()
	conn.SetReadLimit(1 << 20)
	for {
		kind, frame, err := conn.Read(r.Context())
		if err != nil {
			return
		}
		u.mu.Lock()
		request.frames = append(request.frames, frame)
		u.mu.Unlock()
		if kind != websocket.MessageText || !bytes.Contains(frame, []byte(`"response.create"`)) {
			continue
		}
		for _, event := range u.turn() {
			if conn.Write(r.Context(), websocket.MessageText, event.data) != nil {
				return
			}
		}
	}
}

// event is one event of an answer.
type event struct {
	kind string
	data []byte
}

// turn is a whole answer: one message of the assistant.
func (u *fakeUpstream) turn() []event {
	message := map[string]any{
		"type": "message", "role": "assistant", "id": "msg_1",
		"content": []any{map[string]any{"type": "output_text", "text": u.say}},
	}
	usage := map[string]any{
		"input_tokens": 1, "input_tokens_details": nil,
		"output_tokens": 1, "output_tokens_details": nil, "total_tokens": 2,
	}
	events := []map[string]any{
		{"type": "response.created", "response": map[string]any{"id": "resp_1"}},
		{"type": "response.output_item.done", "output_index": 0, "item": message},
		{"type": "response.completed", "response": map[string]any{"id": "resp_1", "usage": usage}},
	}
	var turn []event
	for _, fields := range events {
		data, err := json.Marshal(fields)
		if err != nil {
			panic(err) // plain values always encode
		}
		turn = append(turn, event{fields["type"].(string), data})
	}
	return turn
}

// all is a copy of what was recorded so far.
func (u *fakeUpstream) all() []seen {
	u.mu.Lock()
	defer u.mu.Unlock()
	var requests []seen
	for _, request := range u.requests {
		requests = append(requests, *request)
	}
	return requests
}

// matching is what was recorded of one method and path.
func (u *fakeUpstream) matching(method, path string) []seen {
	var found []seen
	for _, request := range u.all() {
		if got, _, _ := strings.Cut(request.uri, "?"); request.method == method && got == path {
			found = append(found, request)
		}
	}
	return found
}

// forget drops the record and sets how the next requests are answered.
func (u *fakeUpstream) forget(answer http.HandlerFunc) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.requests, u.answer = nil, answer
}
