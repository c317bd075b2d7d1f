//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// answerUnauthorized is how OpenAI answers a bad key: it quotes its ends.
func answerUnauthorized(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Www-Authenticate", `Bearer realm="OpenAI API" key="sk-e2e-ope*****BEEF"`)
	w.Header().Set("X-Request-Id", "req_upstream_401")
	w.Header().Set("Set-Cookie", "__cf_bm=upstream")
	w.Header().Set("Trailer", "X-Upstream-Trailer")
	w.WriteHeader(http.StatusUnauthorized)
	_, _ = io.WriteString(w, `{"error":{"message":"Incorrect API key provided: sk-e2e-ope*****BEEF.","code":"invalid_api_key"}}`)
	w.Header().Set("X-Upstream-Trailer", "sk-e2e-ope")
}

func TestAnUpstream401IsWithheldWhole(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, answerUnauthorized), gatetest.Site{})
	got := g.Do(t)
	gatetest.Refused(t, got, http.StatusBadRequest, "upstream_unauthorized")
	for _, name := range []string{"X-Request-Id", "Set-Cookie", "X-Upstream-Trailer", "Trailer"} {
		if value := got.Header.Get(name); value != "" {
			t.Errorf("the answer has the upstream's %s: %q", name, value)
		}
	}
	if all := fmt.Sprint(got.Header) + got.Body; strings.Contains(all, "sk-e2e") || strings.Contains(all, "BEEF") {
		t.Errorf("the answer has part of the key: %s", all)
	}
	g.WaitOutput(`"level":"error"`, 1) // the operator is told
	if out := g.Output.String(); strings.Contains(out, "sk-e2e-ope") {
		t.Error("the log has part of the key")
	}
	// The gate's own 401 stays one, and an upstream that recovers is used.
	gatetest.Refused(t, g.Do(t, gatetest.SetHeader("X-Proxy-Token", "x")), 401, "invalid_token")
	g.Up.SetAnswer(gatetest.AnswerJSON)
	gatetest.Until(t, "the key to be tried again", func() bool { return g.Do(t).Status == http.StatusOK })
}

func TestAStreamed401IsWithheldToo(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(401)
		for range 50 {
			_, _ = io.WriteString(w, "data: sk-e2e-ope*****BEEF\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	}), gatetest.Site{})
	got := g.Do(t)
	gatetest.Refused(t, got, http.StatusBadRequest, "upstream_unauthorized")
}

func TestOtherUpstreamErrorsPassThrough(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for _, status := range []int{201, 204, 304, 400, 403, 404, 413, 415, 429, 500, 502, 503, 504, 529} {
		g.Up.SetAnswer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Request-Id", "req_1")
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(status)
			if status != 204 && status != 304 {
				_, _ = fmt.Fprintf(w, "upstream says %d", status)
			}
		})
		got := g.Do(t)
		want := fmt.Sprintf("upstream says %d", status)
		if status == 204 || status == 304 {
			want = ""
		}
		if got.Status != status || got.Body != want || got.Header.Get("X-Request-Id") != "req_1" || got.Header.Get("Retry-After") != "7" {
			t.Errorf("upstream status %d: got %d %q %v", status, got.Status, got.Body, got.Header)
		}
		if got.Header.Get("X-Responses-Proxy-Gate") != "" {
			t.Errorf("upstream status %d has the gate's header", status)
		}
	}
}

func TestAnUpstreamCannotSpeakAsTheGateOrOpenItToPages(t *testing.T) {
	t.Parallel()
	spoof := func(status int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			for name, value := range map[string]string{
				"X-Responses-Proxy-Gate": "invalid_token", "Access-Control-Allow-Origin": "*",
				"Access-Control-Allow-Credentials": "true", "Access-Control-Expose-Headers": "*",
				"Access-Control-Allow-Private-Network": "true", "Access-Control-Some-Future-Header": "*",
			} {
				w.Header().Set(name, value)
			}
			w.WriteHeader(status)
		}
	}
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for _, status := range []int{200, 429, 500} {
		g.Up.SetAnswer(spoof(status))
		got := g.Do(t)
		if got.Status != status {
			t.Errorf("status %d, want %d", got.Status, status)
		}
		gatetest.NotCORS(t, got)
		if value := got.Header.Get("X-Responses-Proxy-Gate"); value != "" {
			t.Errorf("upstream's X-Responses-Proxy-Gate: %q passed", value)
		}
	}
	t.Run("not in trailers either", func(t *testing.T) {
		g.Up.SetAnswer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Responses-Proxy-Gate, Access-Control-Allow-Origin")
			w.WriteHeader(200)
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("X-Responses-Proxy-Gate", "invalid_token")
			w.Header().Set("Access-Control-Allow-Origin", "*")
		})
		response, err := g.HTTP.Do(g.Post())
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.ReadAll(response.Body); err != nil {
			t.Fatal(err)
		}
		gatetest.NotCORS(t, gatetest.Answer{Header: response.Header})
		if values := response.Header["X-Responses-Proxy-Gate"]; values != nil {
			t.Errorf("the upstream speaks as the gate: %q", values)
		}
	})
}

func TestADeadUpstreamIsA502OfTheGates(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{To: fmt.Sprintf("http://127.0.0.1:%d", gatetest.FreePort(t))})
	got := g.Do(t)
	gatetest.Refused(t, got, http.StatusBadGateway, got.Header.Get("X-Responses-Proxy-Gate"))
	if got.Header.Get("X-Responses-Proxy-Gate") == "" {
		t.Error("no code")
	}
	g.WaitOutput(`"level":"error"`, 1)
	for _, secret := range []string{g.Token, gatetest.OperatorKey} {
		if strings.Contains(g.Output.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

func TestAnUpstreamThatHangsUpIsA502OfTheGates(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for name, raw := range map[string]string{
		"without a word":          "",
		"with garbage":            "garbage " + gatetest.OperatorKey + "\r\n\r\n",
		"within the headers":      "HTTP/1.1 200 OK\r\nContent-Type: text/pl",
		"with a malformed header": "HTTP/1.1 200 OK\r\nno colon " + gatetest.OperatorKey + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			g.Up.SetAnswer(hangUp(raw))
			got := g.Do(t)
			gatetest.Refused(t, got, http.StatusBadGateway, got.Header.Get("X-Responses-Proxy-Gate"))
			if strings.Contains(got.Body, gatetest.OperatorKey) {
				t.Error("the answer has the key")
			}
		})
	}
	if strings.Contains(g.Output.String(), gatetest.OperatorKey) {
		t.Error("the log has the key")
	}
}

// hangUp answers with raw bytes and then closes the connection.
func hangUp(raw string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			panic(err)
		}
		_, _ = io.WriteString(conn, raw)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		_ = conn.Close()
	}
}

func TestATimeoutIsA504OfTheGates(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // answers never; the gate gives up first
	}), gatetest.Site{Proxy: "transport http {\nresponse_header_timeout 100ms\n}"})
	gatetest.Refused(t, g.Do(t), http.StatusGatewayTimeout, "upstream_timeout")
}

func TestABodyOverTheLimitIsA413OfTheGates(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Before: "request_body {\nmax_size 100\n}"})
	large := strings.Repeat("x", 1<<10)
	for name, length := range map[string]int64{"with its length": int64(len(large)), "chunked": -1} {
		t.Run(name, func(t *testing.T) {
			got := g.Do(t, func(r *http.Request) {
				r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(large)), length, nil
			})
			gatetest.Refused(t, got, http.StatusRequestEntityTooLarge, "request_too_large")
			g.Up.SawNo(t, large)
		})
	}
	g.Works(t)
}

func TestATruncatedStreamLooksTruncated(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	for name, raw := range map[string]string{
		"chunked":               "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
		"within a chunk":        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n99\r\ndata: 1\n\n",
		"with a Content-Length": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\ndata: 1\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			g.Up.SetAnswer(hangUp(raw))
			response, err := g.HTTP.Do(g.Post())
			if err != nil {
				return // cut off before anything was sent on: no client takes that for whole
			}
			defer response.Body.Close()
			body, err := io.ReadAll(response.Body)
			if err == nil {
				t.Errorf("status %d and a whole body %q: the client cannot tell that it was cut off", response.StatusCode, body)
			}
		})
	}
	g.Up.SetAnswer(gatetest.AnswerJSON)
	g.Works(t)
}

func TestNothingBehindTheGateIsA502OfTheGates(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	// A matcher that never holds takes reverse_proxy out of the way.
	g := gatetest.StartGate(t, up, gatetest.Site{To: "/never " + up.URL})
	got := g.Do(t)
	gatetest.Refused(t, got, http.StatusBadGateway, "upstream_missing")
	up.SawNothing(t)
}

// Over TCP, it looks like one that is gone (docs/compatibility.md).
func TestACallerThatHalfClosesIsTakenForOneThatIsGone(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ begins, wants string }{
		"before the answer":          {"", "HTTP/1.1 499 "},
		"after the answer has begun": {"data: 1\n\n", "HTTP/1.1 200 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			arrived, givenUp := make(chan struct{}), make(chan struct{})
			up := gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				if test.begins != "" {
					_, _ = io.WriteString(w, test.begins)
					_ = http.NewResponseController(w).Flush()
				}
				close(arrived)
				<-r.Context().Done()
				close(givenUp)
			})
			g := gatetest.StartGate(t, up, gatetest.Site{})
			conn := g.Dial(t)
			conn.Send("POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Proxy-Token: " + g.Token + "\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")
			gatetest.AwaitClosed(t, "the request at the upstream", arrived)
			got := ""
			for !strings.Contains(got, test.begins) {
				line, err := conn.Reader.ReadString('\n')
				gatetest.Must(t, err)
				got += line
			}
			gatetest.Must(t, conn.Conn.(*net.TCPConn).CloseWrite())
			rest, err := io.ReadAll(conn.Reader)
			gatetest.Must(t, err)
			if got += string(rest); !strings.HasPrefix(got, test.wants) || strings.HasSuffix(got, "\r\n0\r\n\r\n") {
				t.Errorf("the caller gets %q, want %q and nothing that looks whole", got, test.wants)
			}
			gatetest.AwaitClosed(t, "the end of the request at the upstream", givenUp)
		})
	}
}
