package responsesproxygate

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// send sends a request that passes the gate, and reads the answer whole.
func send(t *testing.T, server *httptest.Server) (*http.Response, string) {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/responses", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/json"}, "X-Proxy-Token": {testToken}, "Cookie": {"a=b"}}
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer, string(body)
}

// servedHTTP2 is served over HTTP/2, where trailers need no announcement.
func servedHTTP2(t *testing.T, h *Handler, next caddyhttp.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := h.ServeHTTP(w, r, next); err != nil {
			t.Errorf("the gate returned an error to Caddy: %v", err)
		}
	}))
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	h.policy.hosts = bareHosts([]string{"127.0.0.1"})
	return server
}

func TestAGoodRequestGoesUpstreamWithTheOperatorsKeyOnly(t *testing.T) {
	h, logs := testGate()
	server := served(t, h, func(w http.ResponseWriter, r *http.Request) error {
		if leaks(fmt.Sprint(r.Header)) {
			t.Error("a handler sees the key")
		}
		r = heldKeyOf(r.Context()).addTo(r)
		if got := fmt.Sprint(r.Header["Authorization"]); got != "[Bearer "+testKey+"]" {
			t.Errorf("upstream gets Authorization %s", got)
		}
		if r.Header["Cookie"] != nil || r.Header["X-Proxy-Token"] != nil {
			t.Errorf("upstream gets %v", r.Header)
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != "{}" {
			t.Errorf("upstream gets the body %q, %v", body, err)
		}
		w.Header().Set("X-Request-Id", "req_1")
		w.Header().Set(codeHeaderName, "forged")
		w.WriteHeader(http.StatusCreated)
		_, err = io.WriteString(w, "answer")
		return err
	})
	answer, body := send(t, server)
	if answer.StatusCode != 201 || body != "answer" || answer.Header.Get("X-Request-Id") != "req_1" {
		t.Errorf("the answer is %d %v %q", answer.StatusCode, answer.Header, body)
	}
	if got, ok := answer.Header[codeHeaderName]; ok {
		t.Errorf("an upstream can forge the gate's own header: %q", got)
	}
	if logs.Len() != 0 {
		t.Errorf("a request that went well is logged: %v", logs.All())
	}
}

func TestNoInformationalAnswerPasses(t *testing.T) {
	h := openGate()
	server := served(t, h, func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Link", "</a>; rel=preload")
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set(codeHeaderName, "forged")
		for _, status := range []int{http.StatusContinue, http.StatusProcessing, http.StatusEarlyHints, 104, 199} {
			w.WriteHeader(status)
		}
		w.Header().Del("Link")
		w.WriteHeader(http.StatusAccepted)
		w.WriteHeader(http.StatusInternalServerError) // superfluous
		_, err := io.WriteString(w, "late")
		return err
	})
	var hints []string
	trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
		hints = append(hints, fmt.Sprint(code, header))
		return nil
	}}
	r := goodRequest()
	out, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), trace), r.Method, server.URL+"/v1/responses", r.Body)
	if err != nil {
		t.Fatal(err)
	}
	out.Header = r.Header
	answer, err := server.Client().Do(out)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(answer.Body)
	if len(hints) != 0 {
		t.Errorf("informational answers: %s", hints)
	}
	if answer.StatusCode != http.StatusAccepted || string(body) != "late" || answer.Header["Access-Control-Allow-Origin"] != nil || answer.Header[codeHeaderName] != nil {
		t.Errorf("the answer is %d %v %q", answer.StatusCode, answer.Header, body)
	}
}

func TestEventsReachTheCallerOneByOne(t *testing.T) {
	events := make(chan string)
	h, _ := testGate()
	server := served(t, h, func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Content-Type", "text/event-stream")
		controller := http.NewResponseController(w)
		if err := controller.EnableFullDuplex(); err != nil {
			t.Errorf("EnableFullDuplex: %v", err)
		}
		for event := range events {
			_, _ = io.WriteString(w, event)
			if err := controller.Flush(); err != nil {
				t.Errorf("Flush: %v", err)
			}
		}
		return nil
	})
	r := goodRequest()
	out, err := http.NewRequestWithContext(t.Context(), r.Method, server.URL+"/v1/responses", r.Body)
	if err != nil {
		t.Fatal(err)
	}
	out.Header = r.Header
	done := make(chan *http.Response)
	go func() {
		answer, err := server.Client().Do(out)
		if err != nil {
			t.Error(err)
		}
		done <- answer
	}()
	events <- "data: 0\n"
	answer := <-done // the header came with the first event, before the second was sent
	lines := bufio.NewReader(answer.Body)
	for n := range 3 {
		want := fmt.Sprintf("data: %d\n", n)
		if line, err := lines.ReadString('\n'); line != want || err != nil {
			t.Fatalf("event %d is %q, %v", n, line, err)
		}
		if n < 2 {
			events <- fmt.Sprintf("data: %d\n", n+1)
		}
	}
	close(events)
	_ = answer.Body.Close()
}

func TestOnlyAStreamsHeaderGoesOutBeforeItsBody(t *testing.T) {
	for contentType, want := range map[string]bool{
		"text/event-stream":                   true,
		"Text/Event-Stream ; charset=utf-8":   true,
		"application/json":                    false,
		"text/event-stream+json":              false,
		"application/json; text/event-stream": false,
		"":                                    false,
	} {
		h, _ := testGate()
		w := httptest.NewRecorder()
		err := h.ServeHTTP(w, goodRequest(), caddyhttp.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) error {
			answer.Header().Set("Content-Type", contentType)
			answer.WriteHeader(http.StatusOK)
			if w.Flushed != want {
				t.Errorf("%q: sent %v, want %v", contentType, w.Flushed, want)
			}
			return nil
		}))
		if err != nil {
			t.Error(err)
		}
	}
}

// The encoder of Caddy's encode directive, around the gate, begins to encode
// when it is flushed, and would not end an answer that has nothing in it.
func TestTheHeaderOfAnAnswerOfKnownLengthWaitsForItsBody(t *testing.T) {
	h, _ := testGate()
	w := httptest.NewRecorder()
	err := h.ServeHTTP(w, goodRequest(), caddyhttp.HandlerFunc(func(answer http.ResponseWriter, _ *http.Request) error {
		answer.Header()["Content-Type"], answer.Header()["Content-Length"] = []string{"text/event-stream"}, []string{"0"}
		answer.WriteHeader(http.StatusOK)
		return nil
	}))
	if err != nil || w.Flushed {
		t.Errorf("flushed %v, %v", w.Flushed, err)
	}
}

func TestAHandlerThatPrintsWhatItHasDoesNotPrintTheKey(t *testing.T) {
	h, _ := testGate()
	err := h.ServeHTTP(httptest.NewRecorder(), goodRequest(), caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		held := heldKeyOf(r.Context())
		if held.addTo(r).Header.Get("Authorization") != "Bearer "+testKey {
			t.Error("there is no key to print")
		}
		for _, has := range []any{w, r, *r, r.Context(), held} {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x"} {
				if text := fmt.Sprintf(verb, has); leaks(text) {
					t.Errorf("%s of a %T: %s", verb, has, text)
				}
			}
			if text, err := json.Marshal(has); err == nil && leaks(string(text)) {
				t.Errorf("a %T as JSON: %s", has, text)
			}
		}
		w.WriteHeader(http.StatusOK)
		return nil
	}))
	if err != nil {
		t.Error(err)
	}
}

func TestAHandlerCanTakeTheConnectionOver(t *testing.T) {
	h, _ := testGate()
	h.policy.routes = []Route{{Method: http.MethodGet, Path: "/v1/responses"}}
	server := served(t, h, func(w http.ResponseWriter, r *http.Request) error {
		if got := r.Header.Get("Upgrade"); got != "websocket" {
			t.Errorf("upstream gets Upgrade %q", got)
		}
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("Hijack: %v", err)
			return err
		}
		defer conn.Close()
		_, err = io.Copy(conn, io.LimitReader(buffered, 4)) // net/http may have read ahead
		return err
	})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/v1/responses", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "X-Proxy-Token": {testToken}}
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	conn, ok := answer.Body.(io.ReadWriteCloser)
	if answer.StatusCode != http.StatusSwitchingProtocols || !ok {
		t.Fatalf("the answer is %d", answer.StatusCode)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "ping"); err != nil {
		t.Fatal(err)
	}
	if echo, err := io.ReadAll(conn); string(echo) != "ping" || err != nil {
		t.Errorf("the echo is %q, %v", echo, err)
	}
}

func TestACallerWhoIsGoneIsSeenUpstream(t *testing.T) {
	h, _ := testGate()
	ctx, leave := context.WithCancel(t.Context())
	seen := make(chan struct{})
	server := served(t, h, func(_ http.ResponseWriter, r *http.Request) error {
		_, _ = io.Copy(io.Discard, r.Body) // net/http sees the end of a connection after the body's
		leave()
		<-r.Context().Done()
		close(seen)
		return caddyhttp.Error(statusClientGone, context.Canceled)
	})
	r := goodRequest()
	out, err := http.NewRequestWithContext(ctx, r.Method, server.URL+"/v1/responses", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	out.Header = r.Header
	if answer, err := server.Client().Do(out); err == nil {
		answer.Body.Close()
		t.Error("the caller did not leave")
	}
	<-seen
}

func TestSwitchingProtocolsIsAnAnswer(t *testing.T) {
	h, logs := testGate()
	w := answerTo(t, h, goodRequest(), func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusSwitchingProtocols)
		return nil
	})
	if w.Body.Len() != 0 || logs.Len() != 0 {
		t.Errorf("the gate adds %q, and logs %v", w.Body, logs.All())
	}
}
