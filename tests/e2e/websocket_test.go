//go:build unix

package e2e

import (
	"context"
	"net/http"
	"testing"

	"github.com/coder/websocket"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAWebSocketEchoesBothWaysWithTheOperatorsKey(t *testing.T) {
	t.Parallel()
	done := make(chan struct{})
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, gatetest.Echo(done)), gatetest.Site{Gate: "allow_route GET /v1/responses"})
	ctx, cancel := context.WithTimeout(t.Context(), gatetest.Patience)
	defer cancel()
	conn, response, err := websocket.Dial(ctx, g.URL("/v1/responses"), &websocket.DialOptions{
		HTTPClient: g.HTTP,
		HTTPHeader: http.Header{
			"Authorization": {"Bearer " + g.Token},
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
	gatetest.NotCORS(t, gatetest.Answer{Header: response.Header})
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
	gatetest.AwaitClosed(t, "the upstream's end of the WebSocket", done)

	seen := g.Up.Only(t)
	seen.HasKey(t)
	if seen.Method != "GET" || seen.Target != "/v1/responses" || seen.Header.Get("Upgrade") != "websocket" {
		t.Errorf("handshake upstream: %+v", seen)
	}
	if got := seen.Header.Get("Sec-Websocket-Protocol"); got != "realtime, openai-beta.responses-v1" {
		t.Errorf("subprotocols upstream: %q", got)
	}
	g.Up.SawNo(t, stolen)
	g.Up.SawNo(t, g.Token)
}

func TestAWebSocketIsRefusedLikeAnyRequest(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "allow_route GET /v1/responses"})
	upgrade := gatetest.RawUpgrade[:len(gatetest.RawUpgrade):len(gatetest.RawUpgrade)]
	for _, a := range []struct {
		harm    string
		line    string
		headers []string
		status  int
		code    string
	}{
		{"a page opens it", "GET /v1/responses", append(upgrade, "Origin: https://attacker.example"), 403, "origin_not_allowed"},
		{"a page opens it, Sec-Fetch-Site only", "GET /v1/responses", append(upgrade, "Sec-Fetch-Site: cross-site"), 403, "cross_site_request"},
		{"a rebound name opens it", "GET /v1/responses", append(gatetest.Without(upgrade, "Host"), "Host: attacker.example"), 403, "host_not_allowed"},
		{"without a token", "GET /v1/responses", gatetest.Without(upgrade, "X-Proxy"), 401, "missing_token"},
		{"the key subprotocol is no token", "GET /v1/responses", append(gatetest.Without(upgrade, "X-Proxy"), "Sec-WebSocket-Protocol: openai-insecure-api-key.TOKEN"), 401, "missing_token"},
		{"on another path", "GET /v1/realtime", upgrade, 403, "route_not_allowed"},
		{"a POST where only GET is allowed", "POST /v1/responses", gatetest.RawGood(), 403, "route_not_allowed"},
	} {
		t.Run(a.harm, func(t *testing.T) {
			g.Up.Forget()
			body := ""
			if a.line[0] == 'P' {
				body = gatetest.RawBody
			}
			gatetest.Refused(t, g.RawDo(t, a.line+" HTTP/1.1", a.headers, body), a.status, a.code)
			g.Up.SawNothing(t)
		})
	}
}

func TestAnUpstreamThatRefusesTheWebSocketIsPassedOn(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTooManyRequests)
	}), gatetest.Site{Gate: "allow_route GET /v1/responses"})
	if got := g.RawDo(t, "GET /v1/responses HTTP/1.1", gatetest.RawUpgrade, ""); got.Status != http.StatusTooManyRequests {
		t.Errorf("status %d", got.Status)
	}
	g.Up.SetAnswer(answerUnauthorized)
	gatetest.Refused(t, g.RawDo(t, "GET /v1/responses HTTP/1.1", gatetest.RawUpgrade, ""), http.StatusBadRequest, "upstream_unauthorized")
}
