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

	"github.com/quic-go/quic-go/http3"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// startTLSGate starts a gate behind TLS with a certificate of Caddy's own
// authority, on all interfaces: encrypted, that is no risk.
func startTLSGate(t *testing.T, up *gatetest.Upstream, gate ...string) (*gatetest.Gate, *tls.Config) {
	t.Helper()
	return startTLSSite(t, up, gatetest.Site{Gate: strings.Join(gate, "\n")})
}

// startTLSSite is startTLSGate for a site with more than a gate's options.
func startTLSSite(t *testing.T, up *gatetest.Upstream, s gatetest.Site) (*gatetest.Gate, *tls.Config) {
	t.Helper()
	port := gatetest.FreePort(t)
	s.Admin, s.Bind, s.Before = "unix", "-", "tls internal"
	s.Global += "\nskip_install_trust\nauto_https disable_redirects"
	s.Address = fmt.Sprintf("https://localhost:%d", port)
	g := gatetest.StartGate(t, up, s)
	g.WaitOutput("certificate obtained successfully", 1) // Caddy listens before it has one
	root := gatetest.ReadFile(t, filepath.Join(g.Site.Dir, "data", "caddy", "pki", "authorities", "local", "root.crt"))
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM([]byte(root)) {
		t.Fatal("no root certificate")
	}
	if want := fmt.Sprintf("https://localhost:%d/v1", port); g.Info.BaseURL != want || g.Info.Port != port {
		t.Errorf("server-info says %+v, want base_url %s", g.Info, want)
	}
	g.Addr = fmt.Sprintf("localhost:%d", port)
	config := &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13}
	gatetest.AwaitCertificate(t, g.Addr, config)
	return g, config
}

// overTLS turns a request into one over TLS.
func overTLS(r *http.Request) { r.URL.Scheme = "https" }

func checkOverTLS(t *testing.T, g *gatetest.Gate, client *http.Client, proto string, stream *gatetest.EventStream) {
	t.Helper()
	response, reader := gatetest.OpenStream(t, client, g.Post(overTLS, gatetest.WithDeadline(t), withCallerCredentials, gatetest.SetHeader("X-Proxy-Token", g.Token)))
	if response.Proto != proto {
		t.Errorf("spoke %s, want %s", response.Proto, proto)
	}
	for n := 1; n <= 5; n++ {
		stream.Send(t)
		gatetest.ReadEvent(t, reader, n)
	}
	_ = response.Body.Close()
	gatetest.AwaitClosed(t, "the upstream request to be cancelled", stream.Gone)
	g.Up.Only(t).HasKey(t)
	g.Up.SawNo(t, stolen)
	g.Up.SawNo(t, g.Token)

	trailers := func(r *http.Request) {
		// (Go's HTTP/2 server itself refuses trailers such as Authorization)
		r.Trailer = http.Header{"Api-Key": {stolen}, "X-Proxy-Token": {g.Token}}
		r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(gatetest.RawBody)), -1, nil
	}
	g.Up.SetAnswer(gatetest.AnswerJSON)
	g.Up.Forget()
	if got := gatetest.Do(t, client, g.Post(overTLS, trailers)); got.Status != 200 {
		t.Errorf("with trailers: %d %s", got.Status, got.Body)
	}
	g.Up.Only(t).HasKey(t)
	g.Up.SawNo(t, stolen)
	g.Up.SawNo(t, g.Token)

	for _, a := range []attack{
		{"from a page", edits{gatetest.SetHeader("Origin", "https://attacker.example")}, 403, "origin_not_allowed"},
		{"a body without Content-Type", edits{gatetest.NoHeader("Content-Type")}, 415, "content_type_not_json"},
		{"a body of unknown length without Content-Type", edits{gatetest.NoHeader("Content-Type"), func(r *http.Request) {
			r.Body, r.ContentLength, r.GetBody = io.NopCloser(strings.NewReader(gatetest.RawBody)), -1, nil
		}}, 415, "content_type_not_json"},
		{"without a token", edits{noToken}, 401, "missing_token"},
		{"two tokens", edits{func(r *http.Request) { r.Header["X-Proxy-Token"] = []string{g.Token, g.Token} }}, 401, "invalid_token"},
		{"another path", edits{func(r *http.Request) { r.URL.Path = "/v1/files" }}, 403, "route_not_allowed"},
		{"a query", edits{func(r *http.Request) { r.URL.RawQuery = "x=1" }}, 403, "route_not_allowed"},
		{"an escaped path", edits{func(r *http.Request) { r.URL.Path, r.URL.RawPath = "/v1/responses", "/v1%2Fresponses" }}, 403, "route_not_allowed"},
	} {
		t.Run(a.harm, func(t *testing.T) {
			g.Up.Forget()
			gatetest.Refused(t, gatetest.Do(t, client, g.Post(append(edits{overTLS}, a.edits...)...)), a.status, a.code)
			g.Up.SawNothing(t)
		})
	}
}

func TestHTTP2OverTLSIsGatedAndStreams(t *testing.T) {
	t.Parallel()
	stream := gatetest.NewEventStream()
	g, config := startTLSGate(t, gatetest.NewUpstream(t, stream.Serve))
	client := gatetest.NewClient(t)
	transport := client.Transport.(*http.Transport)
	transport.TLSClientConfig, transport.ForceAttemptHTTP2 = config, true
	checkOverTLS(t, g, client, "HTTP/2.0", stream)
}

func TestHTTP3IsGatedAndStreams(t *testing.T) {
	t.Parallel()
	stream := gatetest.NewEventStream()
	g, config := startTLSGate(t, gatetest.NewUpstream(t, stream.Serve))
	transport := &http3.Transport{TLSClientConfig: config, DisableCompression: true}
	defer transport.Close()
	checkOverTLS(t, g, &http.Client{Transport: transport}, "HTTP/3.0", stream)
}

func TestAUnixSocketTakesAnyHostAndIsPublished(t *testing.T) {
	t.Parallel()
	dir := gatetest.TempDir(t)
	socket := filepath.Join(dir, "gate.sock")
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: dir, Address: "http://", Bind: "unix/" + socket})
	if g.Info.Socket != socket || g.Info.Port != 0 || !strings.HasPrefix(g.Info.BaseURL, "http://") || !strings.HasSuffix(g.Info.BaseURL, "/v1") {
		t.Errorf("server-info %+v", g.Info)
	}
	var keys map[string]any
	if err := json.Unmarshal([]byte(gatetest.ReadFile(t, g.Site.InfoPath())), &keys); err != nil {
		t.Fatal(err)
	}
	if _, hasPort := keys["port"]; hasPort {
		t.Errorf("server-info of a unix socket has a port: %v", keys)
	}
	g.HTTP = gatetest.UnixClient(t, socket)
	g.Addr = "localhost"
	for _, name := range []string{"localhost", "anything.example", "gate"} {
		if got := g.Do(t, host(name)); got.Status != 200 {
			t.Errorf("Host %s: %d %s", name, got.Status, got.Body)
		}
	}
	refusesAll(t, g, []attack{
		{"an Origin over the socket", edits{gatetest.SetHeader("Origin", "https://attacker.example")}, 403, "origin_not_allowed"},
		{"text/plain over the socket", edits{gatetest.SetHeader("Content-Type", "text/plain")}, 415, "content_type_not_json"},
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
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Bind: "[::1]"})
	g.Addr = fmt.Sprintf("[::1]:%d", g.Info.Port)
	if want := "http://" + g.Addr + "/v1"; g.Info.BaseURL != want {
		t.Errorf("base_url %s, want %s", g.Info.BaseURL, want)
	}
	g.Works(t)
}
