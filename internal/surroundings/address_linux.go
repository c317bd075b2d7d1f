package surroundings

import (
	"errors"
	"net"
	"syscall"
)

// claimAddress keeps other processes with a gate from an address from now on, so
// that two that look for it in the same instant do not both find it free. It is
// a name in the abstract namespace of sockets, which belongs to the network
// namespace as the ports do, and ends with the process. Whoever takes it first
// keeps a gate from starting, as with the port itself.
//
// It returns nil where there are no such names.
func claimAddress(address string) (*net.UnixConn, error) {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: "@responses_proxy_gate/" + address, Net: "unixgram"})
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, err
	}
	if err != nil {
		return nil, nil // a sandbox without unix sockets, or a path that is too long
	}
	return conn, nil
}
