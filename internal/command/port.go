package command

import (
	"fmt"
	"net"
	"strconv"

	"github.com/caddyserver/caddy/v2"
)

// loopbackHosts are the addresses that mean this host, as far as it has them.
// Many programs take localhost for [::1] first: another user who listened there,
// at the command's port, would be sent their tokens and prompts.
func loopbackHosts() []string {
	hosts := []string{"127.0.0.1"}
	if listener, err := net.Listen("tcp", "[::1]:0"); err == nil {
		_ = listener.Close()
		hosts = append(hosts, "::1")
	}
	return hosts
}

// listen are the addresses at which the proxy listens.
func (o *proxyOptions) listen() []string {
	addresses := make([]string, len(o.hosts))
	for i, host := range o.hosts {
		addresses[i] = net.JoinHostPort(host, strconv.Itoa(int(o.port)))
	}
	return addresses
}

// checkPortIsFree refuses a port that somebody has, on any of the addresses.
// Caddy itself would share it with another process of the same user
// (SO_REUSEPORT), and each would get some of the other's callers.
func (o *proxyOptions) checkPortIsFree() error {
	for _, address := range o.listen() {
		listener, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("--port %d: %w; name another port, or 0", o.port, err)
		}
		_ = listener.Close()
	}
	return nil
}

// maxPortTries is how often a port is picked. That one is free on one address
// and not on the other is rare, and rarer that somebody takes it before we do.
const maxPortTries = 20

// pickPort finds a port that is free on all addresses.
func (o *proxyOptions) pickPort() (err error) {
	for range maxPortTries {
		o.port = 0
		listener, failed := net.Listen("tcp", o.listen()[0])
		if failed != nil {
			return failed
		}
		o.port = uint16(listener.Addr().(*net.TCPAddr).Port)
		_ = listener.Close()
		if err = o.checkPortIsFree(); err == nil {
			return nil
		}
	}
	return err
}

// start runs the proxy, on a port of its own choice if it has no other.
func (o *proxyOptions) start() error {
	free := o.port == 0
	for try := 1; ; try++ {
		if free {
			if err := o.pickPort(); err != nil {
				return err
			}
		}
		config, err := o.config()
		if err != nil {
			return err
		}
		if err = caddy.Run(config); err == nil || !free || try == maxPortTries || o.checkPortIsFree() == nil {
			return err
		}
		// Somebody took the port in that moment.
	}
}
