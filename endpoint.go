package responsesproxygate

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// describeServer tells how to reach the gate through the listeners that its
// server really has: the port of ":0" is known only now.
func describeServer(server *caddyhttp.Server, hosts []string, routes []Route) (infofile.Info, error) {
	info := infofile.Info{PID: os.Getpid()}
	addr := callerAddress(server.Listeners())
	scheme, host := "http", "localhost"
	if len(server.TLSConnPolicies) > 0 {
		scheme = "https"
	}
	switch addr := addr.(type) {
	case *net.TCPAddr:
		info.Port = addr.Port
		ip := addr.IP
		switch {
		case ip.IsUnspecified() && ip.To4() == nil:
			ip = net.IPv6loopback // it may listen on IPv6 alone
		case ip.IsUnspecified():
			ip = net.IPv4(127, 0, 0, 1)
		}
		host = ip.String()
		if scheme == "https" {
			host = certificateName(hosts)
		}
		host = net.JoinHostPort(host, strconv.Itoa(addr.Port))
	case *net.UnixAddr:
		info.Socket = addr.Name
	default:
		return infofile.Info{}, errors.New("server_info: the gate's server has no TCP or unix listener to tell about")
	}
	info.BaseURL = scheme + "://" + host + basePath(routes)
	return info, nil
}

// callerAddress picks the listener to tell callers about: a loopback one, or
// else the first.
func callerAddress(listeners []net.Listener) net.Addr {
	var first net.Addr
	for _, listener := range listeners {
		addr := listener.Addr()
		if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
			return addr
		}
		if first == nil {
			first = addr
		}
	}
	return first
}

// certificateName is a name that the gate's certificate is likely to have.
func certificateName(hosts []string) string {
	if len(hosts) > 0 {
		return strings.Trim(hosts[0], "[]")
	}
	return "localhost"
}

// basePath is what clients call the API's base: the path of the Responses
// route without its last segment.
func basePath(routes []Route) string {
	for _, route := range routes {
		if base, ok := strings.CutSuffix(route.Path, "/responses"); ok && !strings.Contains(base, "*") {
			return base
		}
	}
	return "/v1"
}
