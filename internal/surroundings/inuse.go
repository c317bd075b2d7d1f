package surroundings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
)

// RefuseAdminInUse keeps a second Caddy with a gate from taking the admin
// endpoint of the first: verbs would then speak to the wrong one, and say that a
// token is revoked that the other still accepts. It is in time only while Caddy
// has not opened the endpoint of the config.
func RefuseAdminInUse(config Config) error {
	listen, enabled := config.adminListen()
	if !enabled || !config.HasGateWithout("") {
		return nil
	}
	resolved, err := caddy.NewReplacer().ReplaceOrErr(listen, true, true)
	if err != nil {
		return nil // Caddy refuses it itself
	}
	addr, err := caddy.ParseNetworkAddress(resolved)
	if err != nil {
		return nil
	}
	if err := refuseInUse(addr); err != nil {
		return fmt.Errorf("the admin endpoint: %w", err)
	}
	return nil
}

// claims are the addresses at which gates of this process are about to listen.
var claims = caddy.NewUsagePool()

// claim is that on one address.
type claim struct{ listener net.Listener }

// Destruct implements caddy.Destructor.
func (c claim) Destruct() error {
	if c.listener == nil {
		return nil
	}
	return c.listener.Close()
}

// Claims are those of one gate.
type Claims []string

// GiveBack ends the claims: once its listeners are open, others find the addresses
// in use. An exit that waits for streams, with its listeners closed, then keeps no
// next launch from them.
func (c *Claims) GiveBack() error {
	var errs []error
	given := *c
	*c = nil
	for _, address := range given {
		_, err := claims.Delete(address)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// ClaimListeners keeps two processes from sharing a gate's port. An admin
// endpoint that is off keeps nobody from starting a second one. A config that is
// only validated may be that of a Caddy that runs. Claims are to be given back
// when the server listens; with an error, too.
func ClaimListeners(server *caddyhttp.Server) (claimed Claims, err error) {
	if process.IsValidating() {
		return nil, nil
	}
	for _, listen := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil {
			return claimed, fmt.Errorf("listener %s: %w", listen, err)
		}
		if addr.IsUnixNetwork() || addr.StartPort != 0 { // (0: the system picks one that is free)
			address := claimName(addr)
			_, _, err = claims.LoadOrNew(address, func() (caddy.Destructor, error) {
				listener, err := claimAddress(address)
				return claim{listener}, err
			})
			if err != nil {
				return claimed, fmt.Errorf("the listener: %s is in use by another process (%w), which starts in the same instant; %s", addr, err, endTheOther)
			}
			claimed = append(claimed, address)
		}
		// After the claim: whoever had it before listens by now.
		if err := refuseInUse(addr); err != nil {
			return claimed, fmt.Errorf("the listener: %w", err)
		}
	}
	return claimed, nil
}

// refuseInUse refuses an address on which another process listens. Caddy would
// not: it shares a port with any other process of its user (SO_REUSEPORT), so
// that each gets some of the other's callers, and it takes a unix socket away
// from its owner. This process may keep its own over a reload.
//
// A gate that runs there is not disturbed: the port is asked for in a way that
// the kernel refuses, and a connection to a socket is closed without a request.
func refuseInUse(addr caddy.NetworkAddress) error {
	if addr.IsUnixNetwork() {
		path, _, _ := strings.Cut(addr.Host, "|")
		return refuseSocketInUse(addr.Network, path)
	}
	switch addr.Network {
	case "tcp", "tcp4", "tcp6":
	default:
		return nil // a plugin's network, or a listener that was handed over
	}
	for offset := range addr.PortRangeSize() {
		if addr.StartPort+offset == 0 {
			continue // the system picks one that is free
		}
		if err := refusePortInUse(addr.At(offset)); err != nil {
			return err
		}
	}
	return nil
}

func refusePortInUse(addr caddy.NetworkAddress) error {
	address := addr.JoinHostPort(0)
	if caddy.ListenerUsage(addr.Network, address) > 0 {
		return nil
	}
	listener, err := net.Listen(addr.Network, address) // without SO_REUSEPORT
	if err == nil {
		return listener.Close()
	}
	// On any other error Caddy does not get the address either, and says why.
	if !errors.Is(err, syscall.EADDRINUSE) || hasOverlapping(addr.Host, addr.StartPort) {
		return nil
	}
	return fmt.Errorf("%s is in use by another process (%w), and its callers would be shared between the two; %s", address, err, endTheOther)
}

// endTheOther is what to do about another process.
const endTheOther = "if that is a Caddy with this config, reload it instead (caddy reload), or end it and wait until its process is gone (systemctl restart does); " +
	"else use another address"

// hasOverlapping reports whether a listener of the running config has the port
// on this host's address, on all addresses, or on any if the host is all: the
// same one may be written in several ways.
func hasOverlapping(host string, port uint) bool {
	app, err := caddy.ActiveContext().AppIfConfigured("http")
	if err != nil {
		return false
	}
	for _, server := range app.(*caddyhttp.App).Servers {
		for _, listener := range server.Listeners() {
			addr, ok := listener.Addr().(*net.TCPAddr)
			if ok && uint(addr.Port) == port && overlaps(host, addr.IP) {
				return true
			}
		}
	}
	return false
}

func overlaps(host string, ip net.IP) bool {
	host = strings.Trim(host, "[]")
	if host == "" || ip.IsUnspecified() {
		return true
	}
	if host == "localhost" {
		return ip.IsLoopback()
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && (addr.IsUnspecified() || ip.Equal(net.IP(addr.AsSlice())))
}

func refuseSocketInUse(network, path string) error {
	if caddy.ListenerUsage(network, path) > 0 {
		return nil
	}
	conn, err := net.DialTimeout(network, path, 5*time.Second)
	pid := 0
	switch {
	case err == nil:
		defer func() { _ = conn.Close() }()
		var known bool
		// (Caddy forgets to count a socket that it kept over a reload)
		if pid, known = peerPID(conn); !known || pid == os.Getpid() {
			return nil
		}
	case errors.Is(err, syscall.EAGAIN):
		// It has more callers waiting than its queue holds.
	default:
		return nil // nobody is there, or it is no socket: that is for others to say
	}
	who := "another process"
	if pid > 0 {
		who += " (pid " + strconv.Itoa(pid) + ")"
	}
	return fmt.Errorf("unix socket %s is in use by %s, which would lose it; %s", path, who, endTheOther)
}
