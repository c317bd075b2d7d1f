package responsesproxygate

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
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
	if err != nil || u.Scheme == "" || u.Hostname() == "" || strings.HasSuffix(u.Host, ":") || u.Opaque != "" || u.User != nil || strings.Contains(origin, "*") {
		return errors.New("write an origin, such as https://app.example")
	}
	serialized := strings.ToLower(u.Scheme + "://" + u.Host)
	switch {
	case u.Scheme == "https" && u.Port() == "443", u.Scheme == "http" && u.Port() == "80":
		serialized = strings.TrimSuffix(serialized, ":"+u.Port())
	}
	if !isVisible(origin, "") {
		return errors.New("browsers send international names in their xn-- form; write that")
	}
	if origin != serialized {
		return fmt.Errorf("browsers write it %s; write it so", serialized)
	}
	return nil
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

// validateRoutes refuses routes that could never match, or that match more
// than they seem to.
func validateRoutes(routes []Route, shutdownPath string) error {
	var errs []error
	for i, route := range routes {
		if err := route.validate(); err != nil {
			errs = append(errs, fmt.Errorf("allow_route %s %s: %w", route.Method, route.Path, err))
		}
		for _, former := range routes[:i] {
			if former.Method == route.Method && former.Path == route.Path {
				errs = append(errs, fmt.Errorf("allow_route %s %s: named twice", route.Method, route.Path))
			}
		}
		if route.takes(shutdownPath) {
			errs = append(errs, fmt.Errorf("allow_route %s %s: this is the shutdown_endpoint; give that another path", route.Method, route.Path))
		}
	}
	if shutdownPath != "" {
		if err := validatePath(shutdownPath); err != nil {
			errs = append(errs, fmt.Errorf("shutdown_endpoint %s: %w", shutdownPath, err))
		}
	}
	return errors.Join(errs...)
}

// routeMethods are the methods an API has. CONNECT and TRACE would turn the
// gate into something else; OPTIONS is for preflights.
var routeMethods = []string{
	http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
}

// validatePath admits paths that have one spelling only.
func validatePath(path string) error {
	if !strings.HasPrefix(path, "/") {
		return errors.New("a path begins with /")
	}
	for i := range len(path) {
		c := path[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("/-._~:@$&+,;=", c) >= 0) {
			return fmt.Errorf("the character %q cannot stand in it: paths are compared exactly, without wildcards, escapes and queries (see any_query)", c)
		}
	}
	for segment := range strings.SplitSeq(path[1:], "/") {
		if segment == "." || segment == ".." || segment == "" && path != "/" {
			return errors.New("it has an empty or a dot segment, which servers read in different ways")
		}
	}
	return nil
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

// listed writes a list for a sentence.
func listed(words []string) string {
	return strings.Join(words, ", ")
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
