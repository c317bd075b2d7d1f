package responsesproxygate

import (
	"context"
	"encoding/pem"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/quic-go/quic-go/http3"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// startTLSUpstream is an upstream of one version of HTTP, and a file with its
// certificate.
func startTLSUpstream(t *testing.T, version string, handler http.HandlerFunc) (addr, certificate string) {
	t.Helper()
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = version == "2"
	server.StartTLS()
	t.Cleanup(server.Close)
	addr = server.Listener.Addr().String()
	if version == "3" {
		packets, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		over3 := &http3.Server{Handler: handler, TLSConfig: http3.ConfigureTLSConfig(server.TLS.Clone())}
		go func() { _ = over3.Serve(packets) }()
		t.Cleanup(func() { _, _ = over3.Close(), packets.Close() })
		addr = packets.LocalAddr().String()
	}
	certificate = filepath.Join(t.TempDir(), "ca.pem")
	content := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(certificate, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return addr, certificate
}

// A request whose caller's access ends while it is sent ends at once, whatever
// the upstream makes of it, and is none of the upstream's failures.
func TestARequestWhoseAccessEndsDoesNotWaitForTheUpstream(t *testing.T) {
	for _, version := range []string{"1.1", "2", "3"} {
		for name, upstream := range map[string]http.HandlerFunc{
			"waits": func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			},
			"breaks off": func(_ http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				panic(http.ErrAbortHandler)
			},
			"has answered": func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.WriteString(w, "early ")
				_ = http.NewResponseController(w).Flush()
				_, _ = io.Copy(io.Discard, r.Body)
				<-r.Context().Done()
			},
		} {
			t.Run("HTTP/"+version+", the upstream "+name, func(t *testing.T) {
				begun := make(chan struct{})
				addr, certificate := startTLSUpstream(t, version, func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.ReadFull(r.Body, make([]byte, 1))
					close(begun)
					upstream(w, r)
				})
				transport := &Transport{HTTPTransport: reverseproxy.HTTPTransport{
					Versions: []string{version}, TLS: &reverseproxy.TLSConfig{
						CARaw: caddyconfig.JSONModuleObject(map[string]any{"pem_files": []string{certificate}}, "provider", "file", nil),
					},
				}}
				ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
				t.Cleanup(cancel)
				if err := transport.Provision(ctx); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = transport.Cleanup() })

				h, _ := testGate()
				caller := h.policy.tokens.callers[0]
				held := &heldKeyContext{Context: t.Context(), held: heldKey{
					header: "Authorization", value: secret.New("Bearer " + testKey),
					access: &access{handler: h, caller: caller, token: markOf(testToken)},
				}}
				content, write := io.Pipe()
				go func() {
					_, _ = io.WriteString(write, "{")
					<-begun
					caller.gone.Store(true)
					_, _ = io.WriteString(write, "}")
				}()
				body := &callersBody{ReadCloser: content, access: held.held.access, left: 2}
				r, err := http.NewRequestWithContext(held, http.MethodPost, "https://"+addr, body)
				if err != nil {
					t.Fatal(err)
				}
				r.ContentLength = 2
				answer, err := transport.RoundTrip(r)
				if name != "has answered" {
					if !errors.Is(err, context.Canceled) { // which reverse_proxy does not count against the upstream
						t.Errorf("the error is %v", err)
					}
					return
				}
				if err != nil {
					return // the access has ended before the answer was there
				}
				if text, err := io.ReadAll(answer.Body); err == nil {
					t.Errorf("the answer goes on to its end: %q", text)
				}
				_ = answer.Body.Close()
			})
		}
	}
}
