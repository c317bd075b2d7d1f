// Package surroundings answers: is it safe for a gate to stand here? It looks
// at the listeners of its server, at the admin endpoint and at the logs.
package surroundings

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// SocketCheck is what makes sure of the directories of a unix socket: it
// refuses one that others could replace.
type SocketCheck func(path string) error

// CheckListeners refuses plaintext listeners beyond loopback: the token and
// every prompt would cross the network for all to read.
func CheckListeners(server *caddyhttp.Server, config Config, check SocketCheck) error {
	httpPort := config.httpPort()
	for _, listen := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil {
			return fmt.Errorf("listener %s: %w", listen, err)
		}
		// Caddy speaks TLS on every port of a server that has connection
		// policies, but for the HTTP port.
		encrypted := len(server.TLSConnPolicies) > 0 && (httpPort < addr.StartPort || addr.EndPort < httpPort)
		if addr.IsUnixNetwork() {
			path, _, _ := strings.Cut(addr.Host, "|")
			if err := check(path); err != nil {
				return fmt.Errorf("the listener's %w; or: insecure_allow remote_listener", err)
			}
			continue
		}
		if encrypted || isLoopback(addr) {
			continue
		}
		return fmt.Errorf("the listener %q is not loopback and not TLS: other hosts could reach the gate and read its tokens; "+
			"write bind 127.0.0.1 in the site (its address alone is only a Host matcher), use HTTPS, or: insecure_allow remote_listener", listen)
	}
	return nil
}

// AddressesAreReal reports whether the addresses of a server's connections are
// those of its own sockets. A listener wrapper such as proxy_protocol replaces
// them by what it reads from whoever connects, who can call itself a unix
// socket there. Behind a unix socket, that can only make it look like less.
func AddressesAreReal(config Config, server *caddyhttp.Server) bool {
	onlyUnix := len(server.Listen) > 0
	for _, listen := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		onlyUnix = onlyUnix && err == nil && addr.IsUnixNetwork()
	}
	wrappers, _ := config.serverConfig(server.Name())["listener_wrappers"].([]any)
	for _, wrapper := range wrappers {
		fields, _ := wrapper.(map[string]any)
		if name := fields["wrapper"]; name != "tls" && name != "http_redirect" && !onlyUnix {
			return false
		}
	}
	return true
}

// isLoopback reports whether an address can be reached from this host only. A
// listener handed over as a file descriptor could be anything.
func isLoopback(addr caddy.NetworkAddress) bool {
	if addr.IsFdNetwork() {
		return false
	}
	if addr.Host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(addr.Host, "[]"))
	return err == nil && ip.IsLoopback()
}
