//go:build !linux

package surroundings

import (
	"net"

	"github.com/caddyserver/caddy/v2"
)

func claimName(addr caddy.NetworkAddress) string { return addr.String() }

// claimAddress does nothing: there is no name that goes with the port.
func claimAddress(string) (net.Listener, error) { return nil, nil }
