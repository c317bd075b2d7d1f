package surroundings

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// CheckUpstreams refuses a reverse_proxy with an upstream to which the key would
// go in the clear, or to a socket whose place others could take, as far as that
// can be seen before there is a request.
func CheckUpstreams(raw json.RawMessage, check SocketCheck) error {
	var proxy struct {
		Transport struct {
			TLS *struct {
				InsecureSkipVerify bool     `json:"insecure_skip_verify"`
				ExceptPorts        []string `json:"except_ports"`
			} `json:"tls"`
			ForwardProxyURL string          `json:"forward_proxy_url"`
			NetworkProxy    json.RawMessage `json:"network_proxy"`
		} `json:"transport"`
		Upstreams []struct {
			Dial string `json:"dial"`
		} `json:"upstreams"`
	}
	if err := json.Unmarshal(raw, &proxy); err != nil {
		return nil // Caddy itself will refuse it
	}
	const remedy = "or, in the gate: insecure_allow plaintext_upstream"
	for _, upstream := range proxy.Upstreams {
		addr, known := parseDial(upstream.Dial)
		if !known {
			continue // each attempt will tell
		}
		port := strconv.FormatUint(uint64(addr.StartPort), 10)
		tls := proxy.Transport.TLS
		encrypted := tls != nil && !slices.Contains(tls.ExceptPorts, port)
		proxied := proxy.Transport.ForwardProxyURL != "" || proxy.Transport.NetworkProxy != nil
		switch {
		case encrypted && !tls.InsecureSkipVerify:
		case addr.IsUnixNetwork():
			if err := check(addr.Host); err != nil {
				return fmt.Errorf("reverse_proxy %s: whoever takes that place gets the operator's key: %w, %s", upstream.Dial, err, remedy)
			}
		case staysHere(addr) && !proxied:
		case encrypted:
			return fmt.Errorf("reverse_proxy %s: with tls_insecure_skip_verify, whoever answers there gets the operator's key; remove it "+
				"(tls_trust_pool names a certificate authority of your own), %s", upstream.Dial, remedy)
		default:
			return fmt.Errorf("reverse_proxy %s: the operator's key would go there without TLS, for everybody on the way to read; write https://%s, %s",
				upstream.Dial, addr.Host, remedy)
		}
	}
	return nil
}

// RefuseCallersUpstream refuses a reverse_proxy whose upstream, the proxy on the
// way there, or the name that the upstream has to prove, is what a request says: a
// caller would have the key sent to itself.
func RefuseCallersUpstream(raw json.RawMessage) error {
	var proxy struct {
		Upstreams []struct {
			Dial string `json:"dial"`
		} `json:"upstreams"`
		Dynamic   json.RawMessage `json:"dynamic_upstreams"`
		Transport struct {
			ForwardProxyURL string          `json:"forward_proxy_url"`
			NetworkProxy    json.RawMessage `json:"network_proxy"`
			TLS             struct {
				ServerName string `json:"server_name"`
			} `json:"tls"`
		} `json:"transport"`
	}
	if err := json.Unmarshal(raw, &proxy); err != nil {
		return nil // Caddy itself will refuse it
	}
	transport := &proxy.Transport
	targets := []string{string(proxy.Dynamic), transport.ForwardProxyURL, string(transport.NetworkProxy), transport.TLS.ServerName}
	for _, upstream := range proxy.Upstreams {
		targets = append(targets, upstream.Dial)
	}
	for _, target := range targets {
		if strings.Contains(target, "{http.request.") {
			return fmt.Errorf("reverse_proxy %s: {http.request.…} is the caller's, so a caller would say where the operator's key goes; "+
				"write the upstream's address, or let map choose one of those that you write there", target)
		}
	}
	return nil
}

// parseDial is where an upstream is, and whether that is known beforehand.
func parseDial(dial string) (addr caddy.NetworkAddress, known bool) {
	if resolved := caddy.NewReplacer().ReplaceKnown(dial, ""); caddy.IsUnixNetwork(resolved) {
		dial = resolved // (what else is in the environment could be a secret, and stand in an error)
	}
	if dial == "" || strings.Contains(dial, "{") {
		return addr, false
	}
	addr, err := caddy.ParseNetworkAddress(dial)
	return addr, err == nil
}

// StaysHere reports whether a connection to an upstream does not leave this
// machine. A name other than localhost may mean any address.
func StaysHere(dial string) bool {
	addr, known := parseDial(dial)
	return known && staysHere(addr)
}

// staysHere reports whether a connection to addr does not leave this machine.
func staysHere(addr caddy.NetworkAddress) bool {
	return isLoopback(addr) || addr.Host == "" && !addr.IsFdNetwork()
}
