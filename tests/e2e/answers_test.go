//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
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
	g := startGate(t, newUpstream(t, answerUnauthorized), site{})
	got := g.do(t)
	refused(t, got, http.StatusBadGateway, "upstream_unauthorized")
	for _, name := range []string{"X-Request-Id", "Set-Cookie", "X-Upstream-Trailer", "Trailer"} {
		if value := got.header.Get(name); value != "" {
			t.Errorf("the answer has the upstream's %s: %q", name, value)
		}
	}
	if all := fmt.Sprint(got.header) + got.body; strings.Contains(all, "sk-e2e") || strings.Contains(all, "BEEF") {
		t.Errorf("the answer has part of the key: %s", all)
	}
	g.waitOutput(`"level":"error"`, 1) // the operator is told
	if out := g.out.String(); strings.Contains(out, "sk-e2e-ope") {
		t.Error("the log has part of the key")
	}
	// The gate's own 401 stays one, and an upstream that recovers is used.
	refused(t, g.do(t, setHeader("X-Proxy-Token", "x")), 401, "invalid_token")
	g.up.setAnswer(answerJSON)
	g.works(t)
}

func TestAStreamed401IsWithheldToo(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(401)
		for range 50 {
			_, _ = io.WriteString(w, "data: sk-e2e-ope*****BEEF\n\n")
			_ = http.NewResponseController(w).Flush()
		}
	}), site{})
	got := g.do(t)
	refused(t, got, http.StatusBadGateway, "upstream_unauthorized")
}

func TestOtherUpstreamErrorsPassThrough(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	for _, status := range []int{201, 204, 301, 400, 403, 404, 413, 415, 429, 500, 502, 503, 504, 529} {
		g.up.setAnswer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Request-Id", "req_1")
			w.Header().Set("Retry-After", "7")
			w.Header().Set("Location", "https://elsewhere.example/")
			w.WriteHeader(status)
			if status != 204 {
				_, _ = fmt.Fprintf(w, "upstream says %d", status)
			}
		})
		got := g.do(t)
		want := fmt.Sprintf("upstream says %d", status)
		if status == 204 {
			want = ""
		}
		if got.status != status || got.body != want || got.header.Get("X-Request-Id") != "req_1" || got.header.Get("Retry-After") != "7" {
			t.Errorf("upstream status %d: got %d %q %v", status, got.status, got.body, got.header)
		}
		if got.header.Get("X-Responses-Proxy-Gate") != "" {
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
	g := startGate(t, newUpstream(t, nil), site{})
	for _, status := range []int{200, 429, 500} {
		g.up.setAnswer(spoof(status))
		got := g.do(t)
		if got.status != status {
			t.Errorf("status %d, want %d", got.status, status)
		}
		notCORS(t, got)
		if value := got.header.Get("X-Responses-Proxy-Gate"); value != "" {
			t.Errorf("upstream's X-Responses-Proxy-Gate: %q passed", value)
		}
	}
	t.Run("not in trailers either", func(t *testing.T) {
		g.up.setAnswer(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Trailer", "X-Responses-Proxy-Gate, Access-Control-Allow-Origin")
			w.WriteHeader(200)
			_, _ = io.WriteString(w, "x")
			_ = http.NewResponseController(w).Flush()
			w.Header().Set("X-Responses-Proxy-Gate", "invalid_token")
			w.Header().Set("Access-Control-Allow-Origin", "*")
		})
		response, err := g.http.Do(g.post())
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if _, err := io.ReadAll(response.Body); err != nil {
			t.Fatal(err)
		}
		notCORS(t, answer{header: response.Header})
		if values := response.Header["X-Responses-Proxy-Gate"]; values != nil {
			t.Errorf("the upstream speaks as the gate: %q", values)
		}
	})
}

func TestADeadUpstreamIsA502OfTheGates(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{to: fmt.Sprintf("http://127.0.0.1:%d", freePort(t))})
	got := g.do(t)
	refused(t, got, http.StatusBadGateway, got.header.Get("X-Responses-Proxy-Gate"))
	if got.header.Get("X-Responses-Proxy-Gate") == "" {
		t.Error("no code")
	}
	g.waitOutput(`"level":"error"`, 1)
	for _, secret := range []string{g.token, operatorKey} {
		if strings.Contains(g.out.String(), secret) {
			t.Errorf("the log has %q", secret)
		}
	}
}

func TestAnUpstreamThatHangsUpIsA502OfTheGates(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	for name, raw := range map[string]string{
		"without a word":          "",
		"with garbage":            "garbage " + operatorKey + "\r\n\r\n",
		"within the headers":      "HTTP/1.1 200 OK\r\nContent-Type: text/pl",
		"with a malformed header": "HTTP/1.1 200 OK\r\nno colon " + operatorKey + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			g.up.setAnswer(hangUp(raw))
			got := g.do(t)
			refused(t, got, http.StatusBadGateway, got.header.Get("X-Responses-Proxy-Gate"))
			if strings.Contains(got.body, operatorKey) {
				t.Error("the answer has the key")
			}
		})
	}
	if strings.Contains(g.out.String(), operatorKey) {
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
		_ = conn.(recordingConn).Conn.(*net.TCPConn).CloseWrite()
		_ = conn.Close()
	}
}

func TestATimeoutIsA504OfTheGates(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, func(_ http.ResponseWriter, r *http.Request) {
		<-r.Context().Done() // answers never; the gate gives up first
	}), site{proxy: "transport http {\nresponse_header_timeout 100ms\n}"})
	refused(t, g.do(t), http.StatusGatewayTimeout, "upstream_timeout")
}

func TestABodyOverTheLimitIsA413OfTheGates(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{before: "request_body {\nmax_size 100\n}"})
	large := strings.Repeat("x", 1<<10)
	for name, length := range map[string]int64{"with its length": int64(len(large)), "chunked": -1} {
		t.Run(name, func(t *testing.T) {
			got := g.do(t, func(r *http.Request) {
				r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(large)), length, nil
			})
			refused(t, got, http.StatusRequestEntityTooLarge, "request_too_large")
			g.up.sawNo(t, large)
		})
	}
	g.works(t)
}

func TestATruncatedStreamLooksTruncated(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	for name, raw := range map[string]string{
		"chunked":               "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n",
		"within a chunk":        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n99\r\ndata: 1\n\n",
		"with a Content-Length": "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\ndata: 1\n\n",
	} {
		t.Run(name, func(t *testing.T) {
			g.up.setAnswer(hangUp(raw))
			response, err := g.http.Do(g.post())
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
	g.up.setAnswer(answerJSON)
	g.works(t)
}

func TestNothingBehindTheGateIsA502OfTheGates(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	// A matcher that never holds takes reverse_proxy out of the way.
	g := startGate(t, up, site{to: "/never " + up.URL})
	got := g.do(t)
	refused(t, got, http.StatusBadGateway, "upstream_missing")
	up.sawNothing(t)
}
