package surroundings

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// claimName names an address. A unix socket is named by its directory's device
// and number, not by its path: containers that share a network, as those of a pod
// do, can each have a file of their own at one path.
func claimName(addr caddy.NetworkAddress) string {
	path, _, _ := strings.Cut(addr.Host, "|")
	if addr.IsUnixNetwork() && filepath.IsAbs(path) {
		if dir, err := os.Stat(filepath.Dir(path)); err == nil {
			stat := dir.Sys().(*syscall.Stat_t)
			return fmt.Sprintf("%s/%d:%d/%s", addr.Network, stat.Dev, stat.Ino, filepath.Base(path))
		}
	}
	return addr.String()
}

// claimAddress keeps this user's other processes with a gate from an address
// while this one starts, so that two that look for it in the same instant do not both find
// it free. It listens at a name in the abstract namespace of sockets, which
// belongs to the network namespace as the ports do, and ends with the process.
//
// Any user can take such a name. That of another user is no reason to refuse a
// start: only processes of one user can share a port or replace a socket.
//
// It returns nil where it has no claim.
func claimAddress(address string) (net.Listener, error) {
	name := &net.UnixAddr{Name: "@responses_proxy_gate/" + address, Net: "unix"}
	listener, err := net.ListenUnix(name.Net, name)
	if err == nil {
		return listener, nil
	}
	if !errors.Is(err, syscall.EADDRINUSE) {
		return nil, nil // a sandbox without unix sockets, or a path that is too long
	}
	for range 10 {
		conn, dialErr := net.DialUnix(name.Net, nil, name)
		if dialErr == nil {
			defer conn.Close()
			if infofile.CheckPeer(conn) != nil {
				return nil, nil
			}
			return nil, err
		}
		time.Sleep(time.Millisecond) // it has the name, and does not listen yet
	}
	return nil, nil
}
