//go:build unix

package e2e

import (
	"io"
	"net/http"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// serversOption is the example's own option of Caddy's servers.
func serversOption(t *testing.T) string {
	t.Helper()
	option := regexp.MustCompile(`(?ms)^\tservers \{.*?^\t\}$`).FindString(gatetest.ReadFile(t, filepath.Join(gatetest.RepoRoot, "Caddyfile.example")))
	if !strings.Contains(option, "max_header_size") {
		t.Fatalf("the example has no max_header_size in its option servers: %q", option)
	}
	return option
}

// Agents send tens of KB of headers; of more, Go's server says so by itself.
func TestHeadersOfAgentsPassAndLongerOnesAreRefused(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	ours := gatetest.StartGate(t, up, gatetest.Site{Global: serversOption(t)})
	command := gatetest.StartCommand(t, up, gatetest.Site{}, gatetest.Launch{})
	stock := gatetest.StartGate(t, up, gatetest.Site{})
	encrypted, tlsConfig := startTLSSite(t, up, gatetest.Site{Global: strings.Replace(serversOption(t), "protocols h1\n", "protocols h1 h2\n", 1)})
	onlyHTTP2 := new(http.Protocols)
	onlyHTTP2.SetHTTP2(true)
	for name, test := range map[string]struct {
		gate        *gatetest.Gate
		client      http.RoundTripper
		scheme      string
		proto       int
		longestGood int // KiB
	}{
		"the example's servers, HTTP/1": {ours, http.DefaultTransport, "http", 1, 60},
		"the command":                   {command, http.DefaultTransport, "http", 1, 60},
		"TLS, HTTP/1":                   {encrypted, &http.Transport{TLSClientConfig: tlsConfig.Clone()}, "https", 1, 60},
		"TLS, HTTP/2":                   {encrypted, &http.Transport{TLSClientConfig: tlsConfig.Clone(), Protocols: onlyHTTP2}, "https", 2, 60},
		"stock Caddy's servers":         {stock, http.DefaultTransport, "http", 1, 10}, // the control
	} {
		t.Run(name, func(t *testing.T) {
			client := &http.Client{Transport: test.client}
			t.Cleanup(client.CloseIdleConnections)
			// (Whether 20 get through stock Caddy depends on the portions in which they come.)
			for _, size := range []int{10, 30, 60, 90, 200} {
				up.Forget()
				long := strings.Repeat("m", size<<10)
				r := test.gate.Post(gatetest.SetHeader("X-Codex-Turn-Metadata", long))
				r.URL.Scheme = test.scheme
				response, err := client.Do(r)
				status := 0
				if err == nil {
					_, _ = io.Copy(io.Discard, response.Body)
					_ = response.Body.Close()
					status = response.StatusCode
					if response.ProtoMajor != test.proto {
						t.Errorf("%d KiB went over %s", size, response.Proto)
					}
				}
				if size <= test.longestGood {
					if status != http.StatusOK {
						t.Errorf("%d KiB of headers: status %d (%v), want 200", size, status, err)
					} else if seen := up.Only(t); seen.Header.Get("X-Codex-Turn-Metadata") != long {
						t.Errorf("%d KiB of headers did not arrive whole", size)
					}
					continue
				}
				// Over HTTP/2, the server has told the client its limit. (It cuts
				// off one that does not heed it.)
				told := test.proto == 2 && err != nil && strings.Contains(err.Error(), "larger than peer's advertised limit")
				if up.SawNothing(t); status != http.StatusRequestHeaderFieldsTooLarge && !told {
					t.Errorf("%d KiB of headers: status %d (%v), want 431", size, status, err)
				}
			}
		})
	}
}
