//go:build unix

package admin

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/coder/websocket"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// echoes answers WebSockets by their own words and everything else as usual.
func echoes(t *testing.T) *gatetest.Upstream {
	t.Helper()
	return gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			gatetest.Echo(make(chan struct{}))(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = io.WriteString(w, gatetest.JSONAnswer)
	})
}

// dial opens a WebSocket with a token.
func dial(t *testing.T, ctx context.Context, g *gatetest.Gate, token string) *websocket.Conn {
	t.Helper()
	conn, _, err := websocket.Dial(ctx, g.URL("/v1/responses"), &websocket.DialOptions{
		HTTPClient: gatetest.NewClient(t),
		HTTPHeader: http.Header{"X-Proxy-Token": {token}},
	})
	gatetest.Must(t, err)
	t.Cleanup(func() { _ = conn.CloseNow() })
	gatetest.WantEcho(t, ctx, conn, "first")
	return conn
}

// wantEnded fails the test unless the WebSocket ends, in the context's time.
func wantEnded(t *testing.T, ctx context.Context, what string, conn *websocket.Conn) {
	t.Helper()
	if _, got, err := conn.Read(ctx); err == nil {
		t.Errorf("%s: it goes on, with %q", what, got)
	} else if ctx.Err() != nil {
		t.Errorf("%s: it is still open after %v", what, gatetest.Patience)
	}
}

func patiently(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), gatetest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func TestAFormerTokenAndItsWebSocketsGoOnDuringTheGraceAndEndWithoutOne(t *testing.T) {
	t.Parallel()
	ctx := patiently(t)
	g := start(t, echoes(t), twoClients)
	first, ci := tokenOf(t, g, "codex"), tokenOf(t, g, "ci")
	socket, others := dial(t, ctx, g, first), dial(t, ctx, g, ci)
	if got := list(t, g)["codex"]; got.Sockets != 1 || got.Tokens != 1 || got.Requests != 1 || got.LastUsed == "" {
		t.Errorf("before: %+v", got)
	}
	post(t, g, "clients/codex/rotate", `{"grace":"1h"}`)
	second := tokenOf(t, g, "codex")
	if second == first {
		t.Fatal("the file has no new token")
	}
	if statusWith(t, g, first) != 200 || statusWith(t, g, second) != 200 {
		t.Error("during the grace, one of the two tokens is refused")
	}
	gatetest.WantEcho(t, ctx, socket, "during the grace")
	if got := list(t, g)["codex"]; got.Tokens != 2 || got.Requests != 3 {
		t.Errorf("during the grace: %+v", got)
	}
	post(t, g, "clients/codex/rotate", `{"grace":"0s"}`)
	if statusWith(t, g, first) != 401 || statusWith(t, g, second) != 401 {
		t.Error("a former token is still taken")
	}
	wantEnded(t, ctx, "the WebSocket", socket)
	if statusWith(t, g, tokenOf(t, g, "codex")) != 200 {
		t.Error("the new token is refused")
	}
	gatetest.WantEcho(t, ctx, others, "of another client")
	if statusWith(t, g, ci) != 200 || statusWith(t, g, g.Token) != 200 {
		t.Error("another caller's token ended")
	}
}

func TestARevokedClientStaysOutAcrossReloadsUntilItsTokenIsRotated(t *testing.T) {
	t.Parallel()
	ctx := patiently(t)
	g := start(t, echoes(t), twoClients)
	revoked := tokenOf(t, g, "codex")
	socket := dial(t, ctx, g, revoked)
	for range 2 { // again is no error
		post(t, g, "clients/codex/revoke", "")
	}
	wantEnded(t, ctx, "the WebSocket", socket)
	out := func(when string) {
		t.Helper()
		if statusWith(t, g, revoked) != 401 {
			t.Errorf("%s: its token is taken", when)
		}
		if !gatetest.Missing(clientFile(g.Site.Dir, "codex")) {
			t.Errorf("%s: its file is there", when)
		}
		if got := list(t, g)["codex"]; got.State != "revoked" || got.Tokens != 0 {
			t.Errorf("%s: %+v", when, got)
		}
		if statusWith(t, g, tokenOf(t, g, "ci")) != 200 {
			t.Errorf("%s: another client is refused", when)
		}
	}
	out("at once")
	g.Reloaded.Store(true)
	said, code := gatetest.Run(t, gatetest.Launch{
		Dir: gatetest.TempDir(t), Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey},
		Args: []string{"reload", "--force", "--adapter", "caddyfile", "--config", g.Site.ConfigPath()},
	})
	if code != 0 {
		t.Fatalf("caddy reload: exit code %d: %s", code, said)
	}
	g.HTTP.CloseIdleConnections()
	out("after a reload")
	post(t, g, "rotate", `{"grace":"0s"}`)
	out("after a rotation of the whole gate")
	post(t, g, "clients/codex/rotate", "")
	if statusWith(t, g, tokenOf(t, g, "codex")) != 200 || statusWith(t, g, revoked) != 401 {
		t.Error("a rotation does not let it in again, or with the old token")
	}
}

// An agent in the middle of its work must not lose an answer that is paid for.
func TestAnAnswerThatStreamsIsFinishedThoughItsTokenEnds(t *testing.T) {
	t.Parallel()
	stream := gatetest.NewEventStream()
	g := start(t, gatetest.NewUpstream(t, stream.Serve), twoClients)
	_, reader := gatetest.OpenStream(t, g.HTTP, g.Post(gatetest.WithDeadline(t), gatetest.SetHeader("Authorization", "Bearer "+tokenOf(t, g, "codex"))))
	stream.Send(t)
	gatetest.ReadEvent(t, reader, 1)
	post(t, g, "clients/codex/rotate", `{"grace":"0s"}`)
	stream.Send(t)
	gatetest.ReadEvent(t, reader, 2)
	post(t, g, "clients/codex/revoke", "")
	stream.Send(t)
	gatetest.ReadEvent(t, reader, 3)
	close(stream.Next)
	if rest, err := io.ReadAll(reader); err != nil || len(rest) != 0 {
		t.Errorf("its end: %q, %v", rest, err)
	}
}

// A caller that reads its file at any moment gets a token that is taken.
func TestWhoeverReadsTheFileDuringRotationsCanUseWhatItSays(t *testing.T) {
	t.Parallel()
	g := start(t, gatetest.NewUpstream(t, nil), twoClients)
	path := clientFile(g.Site.Dir, "codex")
	rotated := make(chan struct{})
	var seen sync.Map
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			client := gatetest.NewClient(t)
			for last := false; !last; {
				select {
				case <-rotated:
					last = true // (one more, after the last rotation)
				default:
				}
				raw, err := os.ReadFile(path)
				var info gatetest.Info
				if err != nil || !strings.HasSuffix(string(raw), "}\n") || json.Unmarshal(raw, &info) != nil || len(info.AuthToken) != 43 {
					t.Errorf("a reader got %d bytes, %v", len(raw), err)
					return
				}
				seen.Store(info.AuthToken, true)
				response, err := client.Do(g.Post(gatetest.SetHeader("Authorization", "Bearer "+info.AuthToken)))
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if response.StatusCode != 200 {
					t.Errorf("the token of the file got %d", response.StatusCode)
					return
				}
			}
		})
	}
	const rotations = 90 // (a caller has 100 tokens in their grace at most)
	for range rotations {
		post(t, g, "clients/codex/rotate", `{"grace":"1h"}`)
	}
	close(rotated)
	readers.Wait()
	count := 0
	seen.Range(func(any, any) bool { count++; return true })
	if count < 3 {
		t.Errorf("the readers saw %d tokens: they did not read while they were rotated", count)
	}
}

// Whoever reads the answer must not be able to call the gate with it, nor to
// find out whether a guess is right.
func TestTheStatusHasNoTokenAndNoDigest(t *testing.T) {
	t.Parallel()
	const fixed = "a-fixed-token-of-the-operators-own-choice"
	dir := gatetest.TempDir(t)
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Dir: dir, Env: []string{"GATE_TOKEN=" + fixed},
		Gate: twoClients(dir) + "client fleet {\ntoken {env.GATE_TOKEN}\n}\n",
	})
	tokens := []string{fixed, gatetest.OperatorKey, g.Token, tokenOf(t, g, "codex"), tokenOf(t, g, "ci")}
	said := ""
	for _, path := range []string{"clients/codex/rotate", "rotate", "clients/ci/revoke", "clients/default/rotate"} {
		said += post(t, g, path, "")
		tokens = append(tokens, gatetest.ReadInfo(t, g.Site.InfoPath()).AuthToken, tokenOf(t, g, "codex"))
	}
	got := g.AdminDo(t, http.MethodGet, "/responses_proxy_gate/gates", "", "")
	said += fmt.Sprint(got.Header, got.Body)
	if clients := list(t, g); len(clients) != 4 || clients["fleet"].Kind != "fixed" || clients["codex"].Kind != "generated" || clients["ci"].State != "revoked" {
		t.Errorf("the list is %+v", clients)
	}
	for _, token := range tokens {
		digest := sha256.Sum256([]byte(token))
		wantNone(t, "an answer", said, token, hex.EncodeToString(digest[:8]),
			base64.StdEncoding.EncodeToString(digest[:])[:12], base64.RawURLEncoding.EncodeToString(digest[:])[:12])
	}
	wantNone(t, "the log", g.Output.String(), tokens...)
}

// With insecure_allow tcp_admin, a page can reach the port.
func TestAWebPageCannotRotateOrRevoke(t *testing.T) {
	t.Parallel()
	port := gatetest.FreePort(t)
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Admin: fmt.Sprintf("localhost:%d", port), Gate: "insecure_allow tcp_admin",
	})
	send := func(host, contentType, body string, header map[string]string) int {
		t.Helper()
		for _, path := range []string{"clients/default/rotate", "clients/default/revoke", "rotate"} {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
				fmt.Sprintf("http://localhost:%d/responses_proxy_gate/gates/default/%s", port, path), strings.NewReader(body))
			gatetest.Must(t, err)
			if contentType != "" {
				r.Header.Set("Content-Type", contentType)
			}
			if host != "" {
				r.Host = host
			}
			for name, value := range header {
				r.Header.Set(name, value)
			}
			if got := gatetest.Do(t, g.HTTP, r); got.Status < 400 {
				return got.Status
			}
		}
		return 0
	}
	for name, page := range map[string]struct {
		host, contentType, body string
		header                  map[string]string
	}{
		"by fetch":          {"", "application/json", `{}`, map[string]string{"Origin": "https://attacker.example", "Sec-Fetch-Mode": "cors"}},
		"by fetch, no-cors": {"", "text/plain", `{"grace":"0s"}`, map[string]string{"Origin": "https://attacker.example", "Sec-Fetch-Mode": "no-cors"}},
		"by a form":         {"", "text/plain", `{"grace":"0s"}`, map[string]string{"Origin": "null", "Sec-Fetch-Mode": "navigate"}},
		"by an old browser": {"", "text/plain", `{"grace":"0s"}`, nil},
		"by DNS rebinding":  {fmt.Sprintf("attacker.example:%d", port), "", "", nil},
	} {
		if status := send(page.host, page.contentType, page.body, page.header); status != 0 {
			t.Errorf("%s: it got %d", name, status)
		}
	}
	g.Works(t)
	if gatetest.ReadInfo(t, g.Site.InfoPath()).AuthToken != g.Token {
		t.Error("the token was rotated")
	}
}
