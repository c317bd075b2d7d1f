package command

import (
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// warnOfProxies says so where clients that have this environment would send the
// token, and the prompts, to a proxy: Codex, curl, Python's httpx, Bun and Deno
// do that for loopback addresses, too.
func warnOfProxies(out io.Writer, info infofile.Info) {
	base, err := url.Parse(info.BaseURL)
	if err != nil || base.Scheme != "http" || info.Socket != "" {
		return // through TLS, a proxy sees nothing
	}
	if variable := leadsAway(os.Getenv, base); variable != "" {
		_, _ = fmt.Fprintf(out, "%s is set, and NO_PROXY does not name %s: Codex, curl and others would send the gate's token and their prompts to that proxy; set NO_PROXY=127.0.0.1,localhost,::1\n",
			variable, base.Hostname())
	}
}

// leadsAway is the variable by which requests for base would go to a proxy, or "".
func leadsAway(getenv func(string) string, base *url.URL) (variable string) {
	for _, name := range []string{"http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"} {
		if getenv(name) != "" {
			variable = name
			break
		}
	}
	exempt := false
	for _, name := range []string{"no_proxy", "NO_PROXY"} { // some read the one, some the other
		list := getenv(name)
		if list == "" {
			continue
		}
		if !exempts(list, base) {
			return variable
		}
		exempt = true
	}
	if exempt {
		return ""
	}
	return variable
}

// exempts reports whether a NO_PROXY names the host of base.
func exempts(list string, base *url.URL) bool {
	for entry := range strings.SplitSeq(list, ",") {
		entry = strings.TrimSpace(entry)
		host := strings.Trim(entry, "[]")
		if entry == "*" || strings.EqualFold(host, base.Hostname()) || strings.EqualFold(entry, base.Host) {
			return true
		}
		network, err := netip.ParsePrefix(entry)
		addr, notAddr := netip.ParseAddr(base.Hostname())
		if err == nil && notAddr == nil && network.Contains(addr) {
			return true
		}
	}
	return false
}
