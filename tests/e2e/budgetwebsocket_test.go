//go:build unix

//lint:file-ignore SA1019 net/http's Transport sends no header ":protocol".

package e2e

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// handshakes open a WebSocket in each HTTP: they return the answer, and the
// stream to write to and read from.
var handshakes = map[string]func(t *testing.T, g *gatetest.Gate, config *tls.Config) (*http.Response, io.ReadWriter){
	"HTTP/1.1": func(t *testing.T, g *gatetest.Gate, config *tls.Config) (*http.Response, io.ReadWriter) {
		client := &http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		r := g.Post(overTLS, gatetest.WithDeadline(t), gatetest.NoHeader("Content-Type"), gatetest.SetHeader("Upgrade", "websocket"), gatetest.SetHeader("Connection", "Upgrade"),
			gatetest.SetHeader("Sec-Websocket-Version", "13"), gatetest.SetHeader("Sec-Websocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="))
		r.Method, r.Body, r.GetBody, r.ContentLength = http.MethodGet, nil, nil, 0
		response, err := client.Do(r)
		gatetest.Must(t, err)
		t.Cleanup(func() { _ = response.Body.Close() })
		stream, _ := response.Body.(io.ReadWriter)
		return response, stream
	},
	//nolint:staticcheck // net/http's Transport sends no header ":protocol"
	"HTTP/2.0": func(t *testing.T, g *gatetest.Gate, config *tls.Config) (*http.Response, io.ReadWriter) {
		transport := &http2.Transport{TLSClientConfig: config}
		t.Cleanup(transport.CloseIdleConnections)
		read, write := io.Pipe()
		t.Cleanup(func() { _ = write.Close() })
		r := g.Post(overTLS, gatetest.WithDeadline(t), gatetest.NoHeader("Content-Type"), gatetest.SetHeader("Sec-Websocket-Version", "13"))
		r.Method, r.Body, r.GetBody, r.ContentLength = http.MethodConnect, read, nil, -1
		r.Header[":protocol"] = []string{"websocket"}
		response, err := transport.RoundTrip(r)
		gatetest.Must(t, err)
		t.Cleanup(func() { _ = response.Body.Close() })
		return response, struct {
			io.Reader
			io.Writer
		}{response.Body, write}
	},
	"HTTP/3.0": func(t *testing.T, g *gatetest.Gate, config *tls.Config) (*http.Response, io.ReadWriter) {
		config.NextProtos = []string{http3.NextProtoH3}
		conn, err := quic.DialAddr(t.Context(), g.Addr, config, nil)
		gatetest.Must(t, err)
		t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
		stream, err := new(http3.Transport).NewClientConn(conn).OpenRequestStream(t.Context())
		gatetest.Must(t, err)
		gatetest.Must(t, stream.SetDeadline(time.Now().Add(gatetest.Patience)))
		r := g.Post(overTLS, gatetest.NoHeader("Content-Type"), gatetest.SetHeader("Sec-Websocket-Version", "13"))
		r.Method, r.Proto, r.Body = http.MethodConnect, "websocket", nil
		gatetest.Must(t, stream.SendRequestHeader(r))
		response, err := stream.ReadResponse()
		gatetest.Must(t, err)
		return response, stream
	},
}

// newEcho is an upstream that answers each message of a WebSocket with itself.
func newEcho(t *testing.T) *gatetest.Upstream {
	return gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) { gatetest.Echo(make(chan struct{}))(w, r) })
}

// Caddy takes a WebSocket over HTTP/2 only with this in its environment.
var extendedConnect = []string{"GODEBUG=http2xconnect=1"}

func TestAWebSocketIsNoWayAroundABudgetInAnyHTTP(t *testing.T) {
	t.Parallel()
	open, openConfig := startTLSSite(t, newEcho(t), gatetest.Site{Gate: "allow_route GET /v1/responses", Env: extendedConnect})
	for proto, handshake := range handshakes {
		t.Run("without a budget over "+strings.ReplaceAll(proto, "/", " "), func(t *testing.T) {
			open.Up.Forget()
			response, stream := handshake(t, open, openConfig.Clone())
			if response.Proto != proto || response.StatusCode != 200 && response.StatusCode != 101 {
				t.Fatalf("the control is answered %s %s", response.Proto, response.Status)
			}
			_, err := io.WriteString(stream, "\x81\x82\x00\x00\x00\x00hi") // a text frame, masked with zeros
			gatetest.Must(t, err)
			echo := make([]byte, 4)
			if _, err := io.ReadFull(stream, echo); err != nil || string(echo) != "\x81\x02hi" {
				t.Fatalf("the echo is %q, %v", echo, err)
			}
			open.Up.Only(t).HasKey(t)
		})
	}
	for name, limits := range map[string]string{
		"rules": rules, "tokens": "per 1d {\ntokens 1000000\n}", "cost": "per 1d {\ncost 5\n}\nprice gpt-5 1 1 1", "a ceiling": "max_output_tokens 100",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			refusesHandshakes(t, behind(limits), "X-Responses-Budget", "websocket_not_counted")
		})
	}
}

func TestAWebSocketThatIsNotEnabledIsRefusedInAnyHTTP(t *testing.T) {
	t.Parallel()
	refusesHandshakes(t, "", "X-Responses-Proxy-Gate", "websocket_not_enabled")
}

// refusesHandshakes wants the answer 426 of a gate with these options, in each
// HTTP. Only HTTP/1 has the header that goes with it: in another, a strict
// client would take the answer for malformed, and never see it.
func refusesHandshakes(t *testing.T, options, mark, code string) {
	t.Helper()
	g, config := startTLSSite(t, newEcho(t), gatetest.Site{Gate: options, Env: extendedConnect})
	for proto, handshake := range handshakes {
		response, _ := handshake(t, g, config.Clone())
		if response.Proto != proto || response.StatusCode != http.StatusUpgradeRequired || response.Header.Get(mark) != code {
			t.Errorf("it is answered %s %s %v", response.Proto, response.Status, response.Header)
		}
		if upgrade := response.Header.Get("Upgrade"); (upgrade != "") != (proto == "HTTP/1.1") {
			t.Errorf("%s has the header Upgrade: %s", proto, upgrade)
		}
	}
	g.Up.SawNothing(t)
}

// As Caddy starts by itself, HTTP/2 has no WebSocket: not announced, and reset.
func TestAWebSocketOverHTTP2IsResetWhereCaddyDoesNotTakeIt(t *testing.T) {
	t.Parallel()
	g, config := startTLSGate(t, gatetest.NewUpstream(t, nil), behind(rules))
	config.NextProtos = []string{"h2"}
	conn, err := tls.Dial("tcp", g.Addr, config)
	gatetest.Must(t, err)
	defer conn.Close()
	gatetest.Must(t, conn.SetDeadline(time.Now().Add(gatetest.Patience)))
	_, err = io.WriteString(conn, http2.ClientPreface)
	gatetest.Must(t, err)
	framer := http2.NewFramer(conn, conn)
	gatetest.Must(t, framer.WriteSettings())
	var block bytes.Buffer
	encoder := hpack.NewEncoder(&block)
	for _, field := range [][2]string{
		{":method", "CONNECT"},
		{":protocol", "websocket"},
		{":scheme", "https"},
		{":authority", g.Addr},
		{":path", "/v1/responses"},
		{"x-proxy-token", g.Token},
		{"sec-websocket-version", "13"},
	} {
		gatetest.Must(t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
	}
	gatetest.Must(t, framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndHeaders: true}))
	for {
		frame, err := framer.ReadFrame()
		gatetest.Must(t, err)
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if _, announced := frame.Value(http2.SettingEnableConnectProtocol); announced {
				t.Error("Caddy announces WebSocket over HTTP/2 now: correct docs/budgets.md")
			}
		case *http2.HeadersFrame:
			t.Fatal("it is answered, not reset")
		case *http2.RSTStreamFrame:
			if frame.ErrCode != http2.ErrCodeProtocol {
				t.Errorf("it is reset with %s", frame.ErrCode)
			}
			g.Up.SawNothing(t)
			transport := &http.Transport{TLSClientConfig: config, ForceAttemptHTTP2: true}
			defer transport.CloseIdleConnections()
			got := gatetest.Do(t, &http.Client{Transport: transport}, g.Post(overTLS, withBody(`{"model":"gpt-5-mini","store":false}`, false)))
			if got.Status != 200 || got.Proto != "HTTP/2.0" {
				t.Errorf("the control is answered %s %d %s", got.Proto, got.Status, got.Body)
			}
			return
		}
	}
}
