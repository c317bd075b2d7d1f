//go:build unix

package malformed

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// startTLSGate is startGate behind TLS.
func startTLSGate(t *testing.T) *gatetest.Gate {
	t.Helper()
	throwaway := httptest.NewTLSServer(nil) // for its certificate
	defer throwaway.Close()
	certificate := throwaway.TLS.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
	gatetest.Must(t, err)
	dir := gatetest.TempDir(t)
	certPath, keyPath := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	gatetest.WriteFile(t, certPath, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Certificate[0]})))
	gatetest.WriteFile(t, keyPath, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Dir:     dir,
		Global:  "auto_https off",
		Address: fmt.Sprintf("https://:%d", gatetest.FreePort(t)),
		Before:  "tls " + certPath + " " + keyPath,
		Gate:    "allow_route POST /v1/responses\nallow_route GET /v1/models",
		Proxy:   "transport http {\nkeepalive off\n}",
	})
	return g
}

// frames is a request over HTTP/2 or 3: its header fields, as they are sent.
type frames struct {
	harm     string
	fields   string // one "name: value" a line; TOKEN and STOLEN as in exchange
	body     string // "" ends the stream with the header
	trailers string
	want     string // the status and the gate's code, or "refused" for a reset or the connection's end
	pass     int
}

const (
	h2Post = ":method: POST\n:scheme: https\n:authority: 127.0.0.1\n:path: /v1/responses\n"
	h2Good = h2Post + "content-type: application/json\nx-proxy-token: TOKEN\n"
	reset  = "refused"
)

// fieldsOf splits a list of fields.
func fieldsOf(g *gatetest.Gate, list string) (fields [][2]string) {
	for line := range strings.SplitSeq(strings.TrimSuffix(list, "\n"), "\n") {
		colon := strings.Index(line[1:], ": ") + 1
		value := strings.NewReplacer("TOKEN", g.Token, "STOLEN", stolen, `\n`, "\n", `\r`, "\r", `\0`, "\x00").Replace(line[colon+2:])
		fields = append(fields, [2]string{line[:colon], value})
	}
	return fields
}

// oddFrames are requests that no HTTP/2 or 3 library sends.
var oddFrames = []frames{
	{"none, the control", h2Good, body, "", "200", 1},
	{"none, the control by GET", strings.Replace(strings.Replace(h2Good, "POST", "GET", 1), "/v1/responses", "/v1/models", 1), "", "", "200", 1},

	{"two paths, the allowed one last", ":path: /v1/files\n" + h2Good, body, "", reset, 0},
	{"two paths, the allowed one first", h2Post + ":path: /v1/files\ncontent-type: application/json\nx-proxy-token: TOKEN\n", body, "", reset, 0},
	{"two methods", ":method: GET\n" + h2Good, body, "", reset, 0},
	{"two authorities", ":authority: attacker.example\n" + h2Good, body, "", reset, 0},
	{"no path", strings.Replace(h2Good, ":path: /v1/responses\n", "", 1), body, "", reset, 0},
	{"an empty path", strings.Replace(h2Good, ":path: /v1/responses", ":path: ", 1), body, "", reset, 0},
	{"a path without its slash", strings.Replace(h2Good, "/v1/responses", "v1/responses", 1), body, "", reset, 0},
	{"an absolute URL as path", strings.Replace(h2Good, "/v1/responses", "https://127.0.0.1/v1/responses", 1), body, "", reset, 0},
	{"an asterisk as path", strings.Replace(h2Good, "/v1/responses", "*", 1), body, "", "403 route_not_allowed", 0},
	{"a fragment in the path", strings.Replace(h2Good, "/v1/responses", "/v1/responses#x", 1), body, "", "403 route_not_allowed", 0},
	{"a query in the path", strings.Replace(h2Good, "/v1/responses", "/v1/responses?x", 1), body, "", "403 route_not_allowed", 0},
	{"a request line in the path", strings.Replace(h2Good, "/v1/responses", "/v1/responses HTTP/1.1", 1), body, "", "403 route_not_allowed", 0},
	{"a line break in the path", strings.Replace(h2Good, "/v1/responses", `/v1/responses HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/files`, 1), body, "", reset, 0},
	{"a line break in the method", strings.Replace(h2Good, ":method: POST", `:method: POST /v1/files HTTP/1.1\r\nHost: x\r\n\r\nPOST`, 1), body, "", reset, 0},
	{"a method in lower case", strings.Replace(h2Good, ":method: POST", ":method: post", 1), body, "", "403 route_not_allowed", 0},

	{"another host than the authority", h2Good + "host: attacker.example\n", body, "", reset, 0},
	{"another authority than the host", strings.Replace(h2Good, ":authority: 127.0.0.1", ":authority: attacker.example", 1) + "host: 127.0.0.1\n", body, "", reset, 0},
	{"an authority with a user", strings.Replace(h2Good, ":authority: 127.0.0.1", ":authority: a@127.0.0.1", 1), body, "", reset, 0},
	{"an authority of the attacker's", strings.Replace(h2Good, ":authority: 127.0.0.1", ":authority: attacker.example", 1), body, "", "403 host_not_allowed", 0},

	{"a protocol on a POST", strings.Replace(h2Good, ":path", ":protocol: websocket\n:path", 1), body, "", reset, 0},
	{"a CONNECT", strings.Replace(h2Good, ":method: POST", ":method: CONNECT", 1), body, "", reset, 0},
	{"a pseudo-header that nobody knows", strings.Replace(h2Good, ":path", ":token: TOKEN\n:path", 1), body, "", reset, 0},
	{"a status in a request", strings.Replace(h2Good, ":path", ":status: 200\n:path", 1), body, "", reset, 0},
	{"a pseudo-header behind a field", "x-proxy-token: TOKEN\n" + h2Post + "content-type: application/json\n", body, "", reset, 0},

	{"a name in capitals", h2Post + "content-type: application/json\nX-Proxy-Token: TOKEN\n", body, "", reset, 0},
	{"a name with a space", h2Good + "x api key: STOLEN\n", body, "", reset, 0},
	{"a name with a colon", h2Good + "x:y: STOLEN\n", body, "", reset, 0},
	{"a name with an underscore", h2Post + "content-type: application/json\nx_proxy_token: TOKEN\n", body, "", "401 missing_token", 0},
	{"a key with an underscore", h2Good + "x_api_key: STOLEN\napi_key: STOLEN\n", body, "", "200", 1},
	{"a line break in a value", h2Good + `x-a: b\r\nx-api-key: STOLEN` + "\n", body, "", reset, 0},
	{"a NUL in a value", h2Good + `x-a: b\0` + "\n", body, "", reset, 0},
	{"a cookie in crumbs", h2Good + "cookie: a=STOLEN\ncookie: b=STOLEN\n", body, "", "200", 1},
	{"a token twice", h2Good + "x-proxy-token: TOKEN\n", body, "", "401 invalid_token", 0},
	{"a type twice", h2Good + "content-type: text/plain\n", body, "", "415 content_type_not_json", 0},

	{"a Connection", h2Good + "connection: authorization\n", body, "", "400", 0},
	{"a Transfer-Encoding", h2Good + "transfer-encoding: chunked\n", body, "", "400", 0},
	{"an Upgrade", h2Good + "upgrade: h2c\n", body, "", "400", 0},
	{"a TE that is not for trailers", h2Good + "te: gzip\n", body, "", "400", 0},

	{"a length that is too short", h2Good + "content-length: 2\n", body, "", reset, 0},
	{"a length that is too long", h2Good + "content-length: 200\n", body, "", "400 request_failed", 0},
	{"a length of 0 beside a body", h2Good + "content-length: 0\n", body, "", reset, bodiless},
	{"a text of length 0 beside a body", strings.Replace(h2Good, "application/json", "text/plain", 1) + "content-length: 0\n", body, "", reset, bodiless},
	{"two lengths, of which the first is right", h2Good + "content-length: 17\ncontent-length: 2\n", body, "", "200", 1},
	{"credentials among the trailers", h2Good, body, "x-api-key: STOLEN\nx-proxy-token: TOKEN\n", "200", 1},
	{"a pseudo-header among the trailers", h2Good, body, ":path: /v1/files\n", reset, 0},
}

func TestOddHTTP2FramesAreNoWayAround(t *testing.T) {
	t.Parallel()
	shared := startTLSGate(t)
	for _, f := range oddFrames {
		t.Run(f.harm, func(t *testing.T) {
			g := shared
			if f.pass == bodiless {
				g = startTLSGate(t) // what goes upstream may do so after the stream's end
			}
			g.Up.Forget()
			conn, err := tls.Dial("tcp", g.Addr, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2"}})
			gatetest.Must(t, err)
			defer conn.Close()
			f.check(t, g, overHTTP2(t, g, conn, f))
		})
	}
}

// Caddy speaks HTTP/2 on a plaintext port to those who begin with it.
func TestOddPlaintextHTTP2FramesAreNoWayAround(t *testing.T) {
	t.Parallel()
	shared := startGate(t)
	for _, f := range oddFrames {
		f.fields = strings.Replace(f.fields, ":scheme: https", ":scheme: http", 1)
		t.Run(f.harm, func(t *testing.T) {
			g := shared
			if f.pass == bodiless {
				g = startGate(t)
			}
			g.Up.Forget()
			f.check(t, g, overHTTP2(t, g, g.Dial(t).Conn, f))
		})
	}
}

// check compares what became of a request with what must.
func (f frames) check(t *testing.T, g *gatetest.Gate, got string) {
	t.Helper()
	if got != f.want && (f.pass >= 0 || got != "200") {
		t.Errorf("the answer is %q, want %q", got, f.want)
	}
	checkUpstream(t, g, f.pass)
}

// overHTTP2 sends a request over a new connection and waits for its end.
func overHTTP2(t *testing.T, g *gatetest.Gate, conn net.Conn, f frames) string {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(gatetest.Patience))
	_, err := io.WriteString(conn, http2.ClientPreface)
	gatetest.Must(t, err)
	framer := http2.NewFramer(conn, conn)
	framer.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	gatetest.Must(t, framer.WriteSettings())
	block := func(list string) []byte {
		var encoded bytes.Buffer
		encoder := hpack.NewEncoder(&encoded)
		for _, field := range fieldsOf(g, list) {
			gatetest.Must(t, encoder.WriteField(hpack.HeaderField{Name: field[0], Value: field[1]}))
		}
		return encoded.Bytes()
	}
	// Errors of writing are no matter: the server may have ended the stream.
	_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(f.fields), EndHeaders: true, EndStream: f.body == ""})
	if f.body != "" {
		_ = framer.WriteData(1, f.trailers == "", []byte(f.body))
	}
	if f.trailers != "" {
		_ = framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(f.trailers), EndHeaders: true, EndStream: true})
	}
	got := ""
	for {
		frame, err := framer.ReadFrame()
		if err != nil {
			return reset
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			if got != "" {
				return got
			}
			return reset
		case *http2.GoAwayFrame:
			if frame.ErrCode != http2.ErrCodeNo { // (a clean one lets the stream end)
				return reset
			}
		case *http2.MetaHeadersFrame:
			if status := frame.PseudoValue("status"); status != "" && status != "100" {
				got = status
				for _, field := range frame.RegularFields() {
					if field.Name == "x-responses-proxy-gate" {
						got += " " + field.Value
					}
				}
			}
			if frame.StreamEnded() {
				return got
			}
		case *http2.DataFrame:
			if frame.StreamEnded() {
				return got
			}
		}
	}
}
