//go:build unix

package e2e

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go/http3"
)

// startTLSGate starts a gate behind TLS with a certificate of Caddy's own
// authority, on all interfaces: encrypted, that is no risk.
func startTLSGate(t *testing.T, up *upstream) (*gate, *tls.Config) {
	t.Helper()
	port := freePort(t)
	g := startGate(t, up, site{
		global:  "skip_install_trust\nauto_https disable_redirects",
		address: fmt.Sprintf("https://localhost:%d", port),
		bind:    "-",
		before:  "tls internal",
	})
	g.waitOutput("certificate obtained successfully", 1) // Caddy listens before it has one
	root := readFile(t, filepath.Join(g.site.dir, "data", "caddy", "pki", "authorities", "local", "root.crt"))
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(root)) {
		t.Fatal("no root certificate")
	}
	if want := fmt.Sprintf("https://localhost:%d/v1", port); g.info.BaseURL != want || g.info.Port != port {
		t.Errorf("server-info says %+v, want base_url %s", g.info, want)
	}
	g.addr = fmt.Sprintf("localhost:%d", port)
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	// The certificate that was obtained is loaded a little later, and nothing
	// tells when.
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		conn, err := tls.Dial("tcp", g.addr, config)
		if err == nil {
			_ = conn.Close()
			return g, config
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// overTLS turns a request into one over TLS.
func overTLS(r *http.Request) { r.URL.Scheme = "https" }

func (g *gate) checkOverTLS(t *testing.T, client *http.Client, proto string, stream *eventStream) {
	t.Helper()
	response, reader := openStream(t, client, g.post(overTLS, withDeadline(t), withCallerCredentials, setHeader("X-Proxy-Token", g.token)))
	if response.Proto != proto {
		t.Errorf("spoke %s, want %s", response.Proto, proto)
	}
	for n := 1; n <= 5; n++ {
		stream.send(t)
		readEvent(t, reader, n)
	}
	_ = response.Body.Close()
	awaitClosed(t, "the upstream request to be cancelled", stream.gone)
	g.up.only(t).hasKey(t)
	g.up.sawNo(t, stolen)
	g.up.sawNo(t, g.token)

	trailers := func(r *http.Request) {
		// (Go's HTTP/2 server itself refuses trailers such as Authorization)
		r.Trailer = http.Header{"Api-Key": {stolen}, "X-Proxy-Token": {g.token}}
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(rawBody)), -1, nil
	}
	g.up.setAnswer(answerJSON)
	g.up.forget()
	if got := do(t, client, g.post(overTLS, trailers)); got.status != 200 {
		t.Errorf("with trailers: %d %s", got.status, got.body)
	}
	g.up.only(t).hasKey(t)
	g.up.sawNo(t, stolen)
	g.up.sawNo(t, g.token)

	for _, a := range []attack{
		{"from a page", edits{setHeader("Origin", "https://attacker.example")}, 403, "origin_not_allowed"},
		{"a body without Content-Type", edits{noHeader("Content-Type")}, 415, "content_type_not_json"},
		{"a body of unknown length without Content-Type", edits{noHeader("Content-Type"), func(r *http.Request) {
			r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(rawBody)), -1, nil
		}}, 415, "content_type_not_json"},
		{"without a token", edits{noToken}, 401, "missing_token"},
		{"two tokens", edits{func(r *http.Request) { r.Header["X-Proxy-Token"] = []string{g.token, g.token} }}, 401, "invalid_token"},
		{"another path", edits{func(r *http.Request) { r.URL.Path = "/v1/files" }}, 403, "route_not_allowed"},
		{"a query", edits{func(r *http.Request) { r.URL.RawQuery = "x=1" }}, 403, "route_not_allowed"},
		{"an escaped path", edits{func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/v1/responses", "/v1%2Fresponses" }}, 403, "route_not_allowed"},
	} {
		t.Run(a.harm, func(t *testing.T) {
			g.up.forget()
			refused(t, do(t, client, g.post(append(edits{overTLS}, a.edits...)...)), a.status, a.code)
			g.up.sawNothing(t)
		})
	}
}

func TestHTTP2OverTLSIsGatedAndStreams(t *testing.T) {
	t.Parallel()
	stream := newEventStream()
	g, config := startTLSGate(t, newUpstream(t, stream.serve))
	client := newClient(t)
	transport := client.Transport.(*http.Transport)
	transport.TLSClientConfig, transport.ForceAttemptHTTP2 = config, true
	g.checkOverTLS(t, client, "HTTP/2.0", stream)
}

func TestHTTP3IsGatedAndStreams(t *testing.T) {
	t.Parallel()
	stream := newEventStream()
	g, config := startTLSGate(t, newUpstream(t, stream.serve))
	transport := &http3.Transport{TLSClientConfig: config, DisableCompression: true}
	defer transport.Close()
	g.checkOverTLS(t, &http.Client{Transport: transport}, "HTTP/3.0", stream)
}

func TestAUnixSocketTakesAnyHostAndIsPublished(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	socket := filepath.Join(dir, "gate.sock")
	g := startGate(t, newUpstream(t, nil), site{dir: dir, address: "http://", bind: "unix/" + socket})
	if g.info.Socket != socket || g.info.Port != 0 || !strings.HasPrefix(g.info.BaseURL, "http://") || !strings.HasSuffix(g.info.BaseURL, "/v1") {
		t.Errorf("server-info %+v", g.info)
	}
	var keys map[string]any
	if err := json.Unmarshal([]byte(readFile(t, g.site.infoPath())), &keys); err != nil {
		t.Fatal(err)
	}
	if _, hasPort := keys["port"]; hasPort {
		t.Errorf("server-info of a unix socket has a port: %v", keys)
	}
	g.http = unixClient(t, socket)
	g.addr = "localhost"
	for _, name := range []string{"localhost", "anything.example", "gate"} {
		if got := g.do(t, host(name)); got.status != 200 {
			t.Errorf("Host %s: %d %s", name, got.status, got.body)
		}
	}
	g.refusesAll(t, []attack{
		{"an Origin over the socket", edits{setHeader("Origin", "https://attacker.example")}, 403, "origin_not_allowed"},
		{"text/plain over the socket", edits{setHeader("Content-Type", "text/plain")}, 415, "content_type_not_json"},
		{"no token over the socket", edits{noToken}, 401, "missing_token"},
	})
}

func TestIPv6LoopbackIsPublishedWithItsRealPort(t *testing.T) {
	t.Parallel()
	probe, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("this machine has no IPv6 loopback: ", err)
	}
	_ = probe.Close()
	g := startGate(t, newUpstream(t, nil), site{bind: "[::1]"})
	g.addr = fmt.Sprintf("[::1]:%d", g.info.Port)
	if want := "http://" + g.addr + "/v1"; g.info.BaseURL != want {
		t.Errorf("base_url %s, want %s", g.info.BaseURL, want)
	}
	g.works(t)
}
