//go:build unix

package e2e

import (
	"context"
	"net/http"
	"testing"

	"github.com/coder/websocket"
)

// echo is an upstream that answers each WebSocket message with itself.
func echo(done chan<- struct{}) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{Subprotocols: []string{"realtime"}})
		if err != nil {
			return
		}
		defer conn.CloseNow()
		for {
			kind, data, err := conn.Read(r.Context())
			if err != nil {
				return
			}
			if err := conn.Write(r.Context(), kind, data); err != nil {
				return
			}
		}
	}
}

func TestAWebSocketEchoesBothWaysWithTheOperatorsKey(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	g := startGate(t, newUpstream(t, echo(done)), site{gate: "allow_route GET /v1/responses"})
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, g.url("/v1/responses"), &websocket.DialOptions{
		HTTPClient: g.http,
		HTTPHeader: http.Header{
			"Authorization": {"Bearer " + g.token},
			"Api-Key":       {stolen},
			"Cookie":        {"session=" + stolen},
		},
		Subprotocols: []string{"openai-insecure-api-key." + stolen, "realtime", "openai-beta.responses-v1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.CloseNow()
	if conn.Subprotocol() != "realtime" {
		t.Errorf("subprotocol %q", conn.Subprotocol())
	}
	notCORS(t, answer{header: response.Header})
	for _, message := range []string{"one", "two", "three"} {
		for _, kind := range []websocket.MessageType{websocket.MessageText, websocket.MessageBinary} {
			if err := conn.Write(ctx, kind, []byte(message)); err != nil {
				t.Fatal(err)
			}
			gotKind, got, err := conn.Read(ctx)
			if err != nil || gotKind != kind || string(got) != message {
				t.Fatalf("sent %v %q, got %v %q, %v", kind, message, gotKind, got, err)
			}
		}
	}
	_ = conn.Close(websocket.StatusNormalClosure, "")
	awaitClosed(t, "the upstream's end of the WebSocket", done)

	seen := g.up.only(t)
	seen.hasKey(t)
	if seen.method != "GET" || seen.target != "/v1/responses" || seen.header.Get("Upgrade") != "websocket" {
		t.Errorf("handshake upstream: %+v", seen)
	}
	if got := seen.header.Get("Sec-Websocket-Protocol"); got != "realtime, openai-beta.responses-v1" {
		t.Errorf("subprotocols upstream: %q", got)
	}
	g.up.sawNo(t, stolen)
	g.up.sawNo(t, g.token)
}

func TestAWebSocketIsRefusedLikeAnyRequest(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{gate: "allow_route GET /v1/responses"})
	upgrade := rawUpgrade[:len(rawUpgrade):len(rawUpgrade)]
	for _, a := range []struct {
		harm    string
		line    string
		headers []string
		status  int
		code    string
	}{
		{"a page opens it", "GET /v1/responses", append(upgrade, "Origin: https://attacker.example"), 403, "origin_not_allowed"},
		{"a page opens it, Sec-Fetch-Site only", "GET /v1/responses", append(upgrade, "Sec-Fetch-Site: cross-site"), 403, "cross_site_request"},
		{"a rebound name opens it", "GET /v1/responses", append(without(upgrade, "Host"), "Host: attacker.example"), 403, "host_not_allowed"},
		{"without a token", "GET /v1/responses", without(upgrade, "X-Proxy"), 401, "missing_token"},
		{"the key subprotocol is no token", "GET /v1/responses", append(without(upgrade, "X-Proxy"), "Sec-WebSocket-Protocol: openai-insecure-api-key.TOKEN"), 401, "missing_token"},
		{"on another path", "GET /v1/realtime", upgrade, 403, "route_not_allowed"},
		{"a POST where only GET is allowed", "POST /v1/responses", rawGood(), 403, "route_not_allowed"},
	} {
		t.Run(a.harm, func(t *testing.T) {
			g.up.forget()
			body := ""
			if a.line[0] == 'P' {
				body = rawBody
			}
			refused(t, g.rawDo(t, a.line+" HTTP/1.1", a.headers, body), a.status, a.code)
			g.up.sawNothing(t)
		})
	}
}

func TestAnUpstreamThatRefusesTheWebSocketIsPassedOn(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
	}), site{gate: "allow_route GET /v1/responses"})
	if got := g.rawDo(t, "GET /v1/responses HTTP/1.1", rawUpgrade, ""); got.status != http.StatusTooManyRequests {
		t.Errorf("status %d", got.status)
	}
	g.up.setAnswer(answerUnauthorized)
	refused(t, g.rawDo(t, "GET /v1/responses HTTP/1.1", rawUpgrade, ""), http.StatusBadGateway, "upstream_unauthorized")
}
