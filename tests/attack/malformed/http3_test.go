//go:build unix

package malformed

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/qpack"
	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/quicvarint"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// The frame types of RFC 9114, section 7.2.
const (
	h3Data     = 0x0
	h3Headers  = 0x1
	h3Settings = 0x4
)

// frame is one HTTP/3 frame. Its payload is a list of fields where the type
// is HEADERS, unless raw is set.
type frame struct {
	kind    uint64
	payload string
	raw     bool
	longer  uint64 // how much more its length says than there is
}

func fields(list string) frame  { return frame{kind: h3Headers, payload: list} }
func data(payload string) frame { return frame{kind: h3Data, payload: payload} }

// overHTTP3 is what HTTP/3 makes of the cases of HTTP/2 that it answers
// otherwise.
var overHTTP3 = map[string]frames{
	"an asterisk as path":                      {want: reset},
	"a Connection":                             {want: reset},
	"a Transfer-Encoding":                      {want: reset},
	"an Upgrade":                               {want: reset},
	"a TE that is not for trailers":            {want: reset},
	"a length that is too short":               {want: reset, pass: cutOff},
	"a pseudo-header among the trailers":       {want: "400 request_failed"},
	"two lengths, of which the first is right": {want: reset},
}

// without is h2Good without the line that starts with name, and with add.
func without(name, add string) []frame {
	kept := ""
	for line := range strings.Lines(h2Good) {
		if !strings.HasPrefix(line, name+": ") {
			kept += line
		}
	}
	if strings.HasPrefix(add, ":") {
		return []frame{fields(add + kept), data(body)}
	}
	return []frame{fields(kept + add), data(body)}
}

func TestOddHTTP3FramesAreNoWayAround(t *testing.T) {
	t.Parallel()
	g := startTLSGate(t)
	const jsonField, tokenField = "content-type: application/json\n", "x-proxy-token: TOKEN\n"
	good := []frame{fields(h2Good), data(body)}
	get := strings.NewReplacer("POST", "GET", "/v1/responses", "/v1/models").Replace(h2Good)
	connect := func(protocol, path, rest string) []frame {
		return []frame{fields(":method: CONNECT\n:protocol: " + protocol + "\n:scheme: https\n:authority: 127.0.0.1\n:path: " + path + "\n" + rest)}
	}
	for _, c := range []struct {
		harm string
		sent []frame
		want string
		pass int
	}{
		{"none, the control", good, "200", 1},
		{"no method", without(":method", ""), reset, 0},
		{"an empty method", without(":method", ":method: \n"), reset, 0},
		{"no scheme", without(":scheme", ""), "200", 1},
		{"two schemes", without("none", ":scheme: https\n"), reset, 0},
		{"another scheme", without(":scheme", ":scheme: gopher\n"), "200", 1},
		{"no authority", without(":authority", ""), reset, 0},
		{"no authority and an allowed host", without(":authority", "host: 127.0.0.1\n"), "200", 1},
		{"no authority and the attacker's host", without(":authority", "host: attacker.example\n"), "403 host_not_allowed", 0},
		{"no authority and two hosts", without(":authority", "host: 127.0.0.1\nhost: attacker.example\n"), reset, 0},
		{"an empty authority beside a host", without(":authority", ":authority: \nhost: 127.0.0.1\n"), reset, 0},
		{"a name with a tab", without("none", "x-api-key\t: STOLEN\n"), reset, 0},
		{"no name", without("none", ": STOLEN\n"), reset, 0},

		{"a WebSocket where none is allowed", connect("websocket", "/v1/responses", tokenField), "426 websocket_not_enabled", 0},
		{"a WebSocket without a token", connect("websocket", "/v1/models", ""), "401 missing_token", 0},
		{"a WebSocket of a web page", connect("websocket", "/v1/models", tokenField+"origin: https://attacker.example\n"), "403 origin_not_allowed", 0},
		{"a WebSocket elsewhere", connect("websocket", "/v1/files", tokenField), "403 route_not_allowed", 0},
		{"a WebSocket to an absolute URL", connect("websocket", "https://127.0.0.1/v1/models", tokenField), reset, 0},
		{"a WebSocket without a path", connect("websocket", "", tokenField), reset, 0},
		{"a protocol like WebSocket", connect("WebSocket", "/v1/models", jsonField+tokenField), "403 route_not_allowed", 0},
		{"a tunnel without a type", connect("connect-udp", "/v1/models", tokenField), "415 content_type_not_json", 0},
		{"a tunnel for UDP", connect("connect-udp", "/v1/models", jsonField+tokenField), "403 route_not_allowed", 0},
		{"WebTransport", connect("webtransport", "/v1/models", jsonField+tokenField), "403 route_not_allowed", 0},
		{"two protocols", connect("websocket\n:protocol: connect-udp", "/v1/models", tokenField), reset, 0},
		{"an empty protocol on a POST", without("none", ":protocol: \n"), reset, 0},
		{"a protocol on a GET", []frame{fields(":protocol: websocket\n" + get)}, reset, 0},
		{"CONNECT to a host", []frame{fields(":method: CONNECT\n:authority: 127.0.0.1:443\n" + jsonField + tokenField)}, "403 route_not_allowed", 0},

		{"a token twice", without("none", tokenField), "401 invalid_token", 0},
		{"a token and a wrong one", without("none", "x-proxy-token: guess\n"), "401 invalid_token", 0},
		{"a token and an empty one", without("none", "x-proxy-token: \n"), "401 invalid_token", 0},
		{"two tokens in one field", without("x-proxy-token", "x-proxy-token: TOKEN, TOKEN\n"), "401 invalid_token", 0},
		{"a wrong token beside the right Authorization", without("x-proxy-token", "x-proxy-token: guess\nauthorization: Bearer TOKEN\n"), "401 invalid_token", 0},
		{"Authorization twice", without("x-proxy-token", "authorization: Bearer TOKEN\nauthorization: Bearer STOLEN\n"), "401 invalid_token", 0},
		{"credentials of the caller", without("none", "authorization: Bearer STOLEN\napi-key: STOLEN\nx-api-key: STOLEN\nproxy-authorization: STOLEN\ncookie: STOLEN\n"), "200", 1},
		{"an empty Origin", without("none", "origin: \n"), "403 origin_not_allowed", 0},
		{"two origins", without("none", "origin: https://127.0.0.1\norigin: https://attacker.example\n"), "403 origin_not_allowed", 0},
		{"no type", without("content-type", ""), "415 content_type_not_json", 0},
		{"no type and a length", without("content-type", "content-length: 17\n"), "415 content_type_not_json", 0},
		{"no type and no body, of which HTTP/3 tells nothing", []frame{fields(h2Post + tokenField)}, "415 content_type_not_json", 0},
		{"no type, no body and its length", []frame{fields(h2Post + tokenField + "content-length: 0\n")}, "200", 1},
		{"an empty type", without("content-type", "content-type: \n"), "415 content_type_not_json", 0},
		{"a type twice", without("none", jsonField), "415 content_type_not_json", 0},
		{"text and then JSON", without("content-type", "content-type: text/plain\n"+jsonField), "415 content_type_not_json", 0},

		{"a negative length", without("none", "content-length: -17\n"), reset, 0},
		{"a length with a sign", without("none", "content-length: +17\n"), reset, 0},
		{"an empty length", without("none", "content-length: \n"), "200", 1},
		{"two equal lengths", without("none", "content-length: 17\ncontent-length: 17\n"), "200", 1},
		{"a length and no body", []frame{fields(h2Good + "content-length: 17\n")}, "400 request_failed", 0},
		{"a body in many frames", []frame{fields(h2Good + "content-length: 17\n"), data(body[:1]), data(""), data(body[1:])}, "200", 1},
		{"a body in frames beyond its length", []frame{fields(h2Good + "content-length: 17\n"), data(body), data(body)}, reset, cutOff},
		{"a GET with a body", []frame{fields(get), data(body)}, "200", 1},

		{"data before the fields", []frame{data(body), fields(h2Good)}, reset, 0},
		{"empty data before the fields", []frame{data(""), fields(h2Good), data(body)}, reset, 0},
		{"no fields", []frame{data(body)}, reset, 0},
		{"nothing", nil, reset, 0},
		{"an empty list of fields", []frame{{kind: h3Headers, raw: true}, data(body)}, reset, 0},
		{"fields that are no QPACK", []frame{{kind: h3Headers, raw: true, payload: "\xff\xff\xff\xff\xff"}, data(body)}, reset, 0},
		{"fields from a table that nobody filled", []frame{{kind: h3Headers, raw: true, payload: "\x02\x00\x80"}, data(body)}, reset, 0},
		{"fields that end too early", []frame{{kind: h3Headers, payload: h2Good, longer: 1}}, reset, 0},
		{"fields of a megabyte", []frame{fields(h2Good + "x-a: " + strings.Repeat("a", 1<<20) + "\n"), data(body)}, "431", 0},
		{"fields that say they have an exabyte", []frame{{kind: h3Headers, payload: h2Good, longer: 1 << 60}}, "431", 0},
		{"a request as trailers", []frame{fields(h2Good), fields(h2Good), data(body)}, "400 request_failed", 0},
		{"a request behind the body", []frame{fields(h2Good), data(body), fields(strings.Replace(h2Good, "/v1/responses", "/v1/files", 1)), data(body)}, "400 request_failed", 0},
		{"data behind the trailers", []frame{fields(h2Good), data(body), fields("x-a: b\n"), data(body)}, "400 request_failed", 0},
		{"trailers behind the trailers", []frame{fields(h2Good), data(body), fields("x-a: b\n"), fields("x-api-key: STOLEN\n")}, "400 request_failed", 0},
		{"credentials among announced trailers", []frame{fields(h2Good + "trailer: x-api-key, x_api_key\n"), data(body), fields("x-api-key: STOLEN\nx_api_key: STOLEN\n")}, "200", 1},
		{"Authorization among the trailers", []frame{fields(h2Good), data(body), fields("authorization: STOLEN\n")}, "400 request_failed", 0},
		{"a length among the trailers", []frame{fields(h2Good), data(body), fields("content-length: 200\n")}, "400 request_failed", 0},
		{"the token among the trailers only", append(without("x-proxy-token", "trailer: x-proxy-token\n"), fields(tokenField)), "401 missing_token", 0},
		{"data that ends too early", []frame{fields(h2Good), {kind: h3Data, payload: body, longer: 1}}, "200", 1}, // quic-go takes the stream's end for the frame's,

		{"settings on the request's stream", []frame{fields(h2Good), {kind: h3Settings}, data(body)}, reset, 0},
		{"GOAWAY on the request's stream", []frame{fields(h2Good), {kind: 0x7, payload: "\x00"}, data(body)}, reset, 0},
		{"an HTTP/2 frame before the fields", []frame{{kind: 0x9, payload: body}, fields(h2Good), data(body)}, reset, 0},
		{"HTTP/2's PRIORITY", []frame{fields(h2Good), {kind: 0x2}, data(body)}, reset, 0},
		{"HTTP/2's PING", []frame{fields(h2Good), {kind: 0x6}, data(body)}, reset, 0},
		{"HTTP/2's WINDOW_UPDATE", []frame{fields(h2Good), {kind: 0x8}, data(body)}, reset, 0},
		{"HTTP/2's CONTINUATION", []frame{fields(h2Good), {kind: 0x9, payload: body}, data(body)}, reset, 0},
		{"a promise to push", []frame{fields(h2Good), {kind: 0x5, payload: "\x00" + body}, data(body)}, "200", 1},
		{"a frame that means nothing before the fields", []frame{{kind: 0x21, payload: body}, fields(h2Good), data(body)}, "200", 1},
		{"a frame that means nothing in the body", []frame{fields(h2Good), data(body), {kind: 0x21, payload: "STOLEN"}}, "200", 1},
	} {
		t.Run(c.harm, func(t *testing.T) {
			g := freshGate(t, g, c.pass)
			frames{want: c.want, pass: c.pass}.check(t, g, sendHTTP3(t, g, c.sent))
		})
	}
}

func TestOddHTTP3FieldsAreNoWayAround(t *testing.T) {
	t.Parallel()
	g := startTLSGate(t)
	for _, f := range oddFrames {
		if other, ok := overHTTP3[f.harm]; ok {
			f.want, f.pass = other.want, other.pass
		}
		t.Run(f.harm, func(t *testing.T) {
			g := freshGate(t, g, f.pass)
			sent := []frame{fields(f.fields)}
			if f.body != "" {
				sent = append(sent, data(f.body))
			}
			if f.trailers != "" {
				sent = append(sent, fields(f.trailers))
			}
			f.check(t, g, sendHTTP3(t, g, sent))
		})
	}
}

// A stream that is not for requests carries none.
func TestAnHTTP3ControlStreamCarriesNoRequest(t *testing.T) {
	t.Parallel()
	g := startTLSGate(t)
	for name, sent := range map[string][]frame{
		"a request":            {fields(h2Good), data(body)},
		"a body":               {data(body)},
		"settings, once again": {{kind: h3Settings}},
	} {
		t.Run(name, func(t *testing.T) {
			g.Up.Forget()
			conn, control := dialHTTP3(t, g)
			for _, f := range sent {
				_, _ = control.Write(f.encode(t, g))
			}
			select {
			case <-conn.Context().Done():
			case <-time.After(gatetest.Patience):
				t.Error("the connection stays open")
			}
			g.Up.SawNothing(t)
		})
	}
}

// In early data, a request comes before its sender has shown that it is there:
// somebody on the network may have recorded it, and send it as often as they
// like. (What comes from the gate is dropped here, as it would be lost on them.)
func TestARequestThatCouldBeARecordingIsRefused(t *testing.T) {
	t.Parallel()
	g := startTLSGate(t)
	sessions := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}, ServerName: "example.com", ClientSessionCache: tls.NewLRUClientSessionCache(1)}
	gotSession := make(chan struct{})
	sessions.ClientSessionCache = announcingCache{sessions.ClientSessionCache, gotSession}
	server, err := net.ResolveUDPAddr("udp", g.Addr)
	gatetest.Must(t, err)
	dial := func(dropAnswers bool) *quic.Conn {
		udp, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		gatetest.Must(t, err)
		transport := &quic.Transport{Conn: udp}
		if dropAnswers {
			transport.Conn = deafConn{udp}
		}
		t.Cleanup(func() { _ = transport.Close(); _ = udp.Close() })
		conn, err := transport.DialEarly(t.Context(), server, sessions, nil)
		gatetest.Must(t, err)
		return conn
	}
	send := func(conn *quic.Conn) *quic.Stream {
		stream, err := conn.OpenStream()
		gatetest.Must(t, err)
		_ = stream.SetDeadline(time.Now().Add(gatetest.Patience))
		for _, f := range []frame{fields(h2Good), data(body)} {
			_, err = stream.Write(f.encode(t, g))
			gatetest.Must(t, err)
		}
		gatetest.Must(t, stream.Close())
		return stream
	}
	if got := readHTTP3(send(dial(false))); got != "200" {
		t.Fatalf("the first request, not in early data, got %s", got)
	}
	gatetest.AwaitClosed(t, "a session to resume", gotSession)

	g.Up.Forget()
	conn := dial(true)
	if conn.ConnectionState().TLS.HandshakeComplete {
		t.Fatal("this is no early data")
	}
	send(conn)
	g.WaitOutput(`"code":"too_early"`, 1)
	g.Up.SawNothing(t)
}

// announcingCache tells when it gets its first session.
type announcingCache struct {
	tls.ClientSessionCache
	got chan struct{}
}

func (c announcingCache) Put(name string, session *tls.ClientSessionState) {
	if _, known := c.Get(name); !known && session != nil {
		defer close(c.got)
	}
	c.ClientSessionCache.Put(name, session)
}

// deafConn hears nothing.
type deafConn struct{ net.PacketConn }

func (c deafConn) ReadFrom(data []byte) (int, net.Addr, error) {
	for {
		if n, from, err := c.PacketConn.ReadFrom(data); err != nil {
			return n, from, err
		}
	}
}

// freshGate is g with nothing upstream, or a gate of its own for a request that
// may reach the upstream after the answer has ended.
func freshGate(t *testing.T, g *gatetest.Gate, pass int) *gatetest.Gate {
	t.Helper()
	if pass < 0 {
		return startTLSGate(t)
	}
	g.Up.Forget()
	return g
}

// dialHTTP3 opens a connection, and says on it that there are no settings.
func dialHTTP3(t *testing.T, g *gatetest.Gate) (conn *quic.Conn, control *quic.SendStream) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), gatetest.Patience)
	defer cancel()
	conn, err := quic.DialAddr(ctx, g.Addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h3"}}, nil)
	gatetest.Must(t, err)
	t.Cleanup(func() { _ = conn.CloseWithError(0, "") })
	control, err = conn.OpenUniStream()
	gatetest.Must(t, err)
	_, err = control.Write(append([]byte{0 /* a control stream */}, frame{kind: h3Settings}.encode(t, g)...))
	gatetest.Must(t, err)
	return conn, control
}

// encode writes the frame as bytes.
func (f frame) encode(t *testing.T, g *gatetest.Gate) []byte {
	t.Helper()
	payload := []byte(f.payload)
	if f.kind == h3Headers && !f.raw {
		var encoded bytes.Buffer
		encoder := qpack.NewEncoder(&encoded)
		for _, field := range fieldsOf(g, f.payload) {
			gatetest.Must(t, encoder.WriteField(qpack.HeaderField{Name: field[0], Value: field[1]}))
		}
		payload = encoded.Bytes()
	}
	head := quicvarint.Append(quicvarint.Append(nil, f.kind), uint64(len(payload))+f.longer)
	return append(head, payload...)
}

// sendHTTP3 sends frames on a stream of a new connection, ends the stream, and
// waits for the end of the answer.
func sendHTTP3(t *testing.T, g *gatetest.Gate, sent []frame) string {
	t.Helper()
	conn, _ := dialHTTP3(t, g)
	stream, err := conn.OpenStream()
	gatetest.Must(t, err)
	_ = stream.SetDeadline(time.Now().Add(gatetest.Patience))
	var all []byte
	for _, f := range sent {
		all = append(all, f.encode(t, g)...)
	}
	go func() { // the server may answer, and end the stream, before it has read all
		_, _ = stream.Write(all)
		_ = stream.Close()
	}()
	return readHTTP3(stream)
}

// readHTTP3 reads an answer: its status, and the gate's code if it has one.
func readHTTP3(stream *quic.Stream) (got string) {
	reader := quicvarint.NewReader(stream)
	for {
		kind, err := quicvarint.Read(reader)
		if err != nil {
			if got == "" {
				return reset
			}
			return got
		}
		length, err := quicvarint.Read(reader)
		if err != nil {
			return reset
		}
		payload, err := io.ReadAll(io.LimitReader(reader, int64(length)))
		if err != nil || uint64(len(payload)) < length {
			return reset
		}
		if kind != h3Headers || got != "" {
			continue
		}
		decode, code := qpack.NewDecoder().Decode(payload), ""
		for {
			field, err := decode()
			if err != nil {
				break
			}
			switch field.Name {
			case ":status":
				got = strings.Replace(field.Value, "100", "", 1)
			case "x-responses-proxy-gate":
				code = " " + field.Value
			}
		}
		got += code
	}
}
