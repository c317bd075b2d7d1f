package responsesproxygate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/callerheader"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"
)

// resolvePath replaces the placeholders of a path, such as {env.XDG_RUNTIME_DIR}.
func resolvePath(option, path string) (string, error) {
	resolved, err := caddy.NewReplacer().ReplaceOrErr(path, true, true)
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	switch {
	case resolved == "":
		return "", fmt.Errorf("%s: the path is missing", option)
	case !isPath(resolved):
		// it may be the key itself, which no error may quote
		return "", fmt.Errorf("%s: this is not a path; write one with a slash, such as /run/secrets/key or ./key", option)
	}
	return resolved, nil
}

// isPath reports whether a value is a path and not, by mistake, a secret itself.
func isPath(value string) bool { return strings.ContainsAny(value, `/\`) }

// validateOrigins refuses what no browser would ever send as an Origin: such
// an entry would silently allow nothing.
func validateOrigins(origins []string) error {
	var errs []error
	for i, origin := range origins {
		if err := validateOrigin(origin); err != nil {
			errs = append(errs, fmt.Errorf("allow_origin %q: %w", origin, err))
		} else if slices.Contains(origins[:i], origin) {
			errs = append(errs, fmt.Errorf("allow_origin %q: named twice", origin))
		}
	}
	return errors.Join(errs...)
}

func validateOrigin(origin string) error {
	switch origin {
	case "*":
		return errors.New("a wildcard would open the gate to every web page; name the origins")
	case "null":
		return errors.New("any page can have the origin \"null\" (a sandboxed frame); name a real origin")
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme == "" || u.Hostname() == "" || u.Opaque != "" || u.User != nil {
		return errors.New("write an origin, such as https://app.example")
	}
	if !isVisible(origin, "") {
		return errors.New("browsers send international names in their xn-- form; write that")
	}
	host, err := serializedHost(u.Hostname())
	if err != nil {
		return err
	}
	port, err := serializedPort(u)
	if err != nil {
		return err
	}
	if serialized := strings.ToLower(u.Scheme) + "://" + host + port; origin != serialized {
		return fmt.Errorf("browsers write it %s; write it so", serialized)
	}
	return nil
}

// endsInNumber is the URL standard's "ends in a number checker".
var endsInNumber = regexp.MustCompile(`(?i)(^|\.)([0-9]+|0x[0-9a-f]*)\.?$`)

// serializedHost is a host as a browser writes it: URL standard, "host
// serializing". That standard knows no zones, and no name with these characters but "*", which is no wildcard here.
func serializedHost(name string) (string, error) {
	addr, err := netip.ParseAddr(name)
	switch {
	case err == nil && addr.Zone() != "":
		return "", errors.New("browsers know no zones; write the address without one")
	case err == nil && addr.Is4In6():
		four := addr.As4()
		return fmt.Sprintf("[::ffff:%x:%x]", binary.BigEndian.Uint16(four[:2]), binary.BigEndian.Uint16(four[2:])), nil
	case err == nil && addr.Is6():
		return "[" + addr.String() + "]", nil
	case err == nil:
		return addr.String(), nil
	case endsInNumber.MatchString(name):
		return "", errors.New("browsers take a name that ends in a number for an address; write the address in full, such as http://127.0.0.1:8080")
	case strings.ContainsAny(name, " #%/:<>?@[\\]^|*"):
		return "", errors.New("write an origin, such as https://app.example")
	}
	return strings.ToLower(name), nil
}

// serializedPort is the port of u as a browser writes it: not at all, if it is
// the default of the scheme.
func serializedPort(u *url.URL) (string, error) {
	switch port := u.Port(); {
	case port == "" && !strings.HasSuffix(u.Host, ":"):
		return "", nil
	default:
		number, err := strconv.ParseUint(port, 10, 16)
		switch {
		case err != nil:
			return "", errors.New("its port is none; write an origin, such as https://app.example:8443")
		case u.Scheme == "https" && number == 443, u.Scheme == "http" && number == 80:
			return "", nil
		}
		return fmt.Sprintf(":%d", number), nil
	}
}

// validateHosts refuses what cannot be the name in a Host header.
func validateHosts(hosts []string) error {
	var errs []error
	for i, host := range hosts {
		name := strings.Trim(host, "[]")
		_, notAddr := netip.ParseAddr(name)
		switch {
		case strings.Contains(host, "*"):
			errs = append(errs, fmt.Errorf("allow_host %q: wildcards are not supported; name the hosts", host))
		case notAddr != nil && (strings.ContainsAny(host, ":/[]@") || !httpguts.ValidHostHeader(host) || !isVisible(host, "") || host == ""):
			errs = append(errs, fmt.Errorf("allow_host %q: write a bare host name or address, without scheme, port and path", host))
		case slices.Contains(hosts[:i], host):
			errs = append(errs, fmt.Errorf("allow_host %q: named twice", host))
		}
	}
	return errors.Join(errs...)
}

// validateHeaders refuses to let callers send what they may send anyway, or what
// is never let pass.
func validateHeaders(names []string) error {
	var errs []error
	for i, name := range names {
		canonical := http.CanonicalHeaderKey(name)
		switch {
		case !slices.Contains(callerheader.Choosers, canonical):
			// (not quoted: it may be a key)
			errs = append(errs, fmt.Errorf("allow_header: the headers that can be named are %s; of all others, credentials never go upstream, and the rest does so anyway",
				listed(callerheader.Choosers)))
		case slices.ContainsFunc(names[:i], func(other string) bool { return http.CanonicalHeaderKey(other) == canonical }):
			errs = append(errs, fmt.Errorf("allow_header %s: named twice", name))
		}
	}
	return errors.Join(errs...)
}

// canonicalHeaders are names as net/http has them.
func canonicalHeaders(names []string) []string {
	canonical := make([]string, 0, len(names))
	for _, name := range names {
		canonical = append(canonical, http.CanonicalHeaderKey(name))
	}
	return canonical
}

// bareHosts makes allow_host ready for comparison with Host headers, whose
// brackets are taken off.
func bareHosts(hosts []string) []string {
	bare := make([]string, 0, len(hosts))
	for _, host := range hosts {
		bare = append(bare, strings.Trim(host, "[]"))
	}
	return bare
}

// headersNotForKeys are framing, routing and hop-by-hop headers: a key there
// would be lost or would break the request.
var headersNotForKeys = []string{
	"Accept-Encoding", "Connection", "Content-Encoding", "Content-Length", "Content-Type", "Expect", "Host",
	"Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Sec-Websocket-Protocol", "Te",
	"Trailer", "Transfer-Encoding", "Upgrade",
}

func validateUpstreamHeader(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("upstream_header %q: not a header name", name)
	}
	if slices.Contains(headersNotForKeys, http.CanonicalHeaderKey(name)) {
		return fmt.Errorf("upstream_header %s: this header cannot carry a key; use Authorization or the one your upstream documents, such as api-key", name)
	}
	return nil
}

// setDefaults fills in what was left out, and refuses names and risks that do
// not exist: everything after relies on them.
func (h *Handler) setDefaults() error {
	if h.Name == "" {
		h.Name = defaultName
	}
	if !adminapi.IsName(h.Name) {
		return fmt.Errorf("name %q: use letters, digits, '.', '_' and '-', 64 at most", h.Name)
	}
	if h.UpstreamHeader == "" {
		h.UpstreamHeader = "Authorization"
	}
	if err := validateUpstreamHeader(h.UpstreamHeader); err != nil {
		return err
	}
	if err := validateClients(h.Name, h.Client); err != nil {
		return err
	}
	if len(h.AllowRoute) == 0 {
		h.AllowRoute = []Route{defaultRoute}
	}
	if !slices.Contains(h.AllowRoute, defaultRoute) {
		h.logger.Warn("allow_route stands in place of the default, so callers cannot use the Responses API over HTTP; to let them, add: allow_route POST /v1/responses",
			zap.String("gate", h.Name))
	}
	for _, risk := range h.InsecureAllow {
		if !slices.Contains(risks, risk) {
			return fmt.Errorf("insecure_allow: there is no risk %q; there are %s", risk, listed(risks))
		}
	}
	return nil
}

// listed writes a list for a sentence.
func listed(words []string) string {
	return strings.Join(words, ", ")
}
