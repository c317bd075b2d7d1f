package responsesproxygate

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Route is one thing that may be called.
type Route struct {
	// The HTTP method, in capitals.
	Method string `json:"method"`

	// The path, compared byte by byte with what the caller sent. One of its
	// segments may be `*`: an id, of letters, digits, `_` and `-`, 256 at most.
	// `/v1/responses/*/cancel` is for all responses of the key's, whoever of the
	// callers has asked for them: who knows an id can use it.
	Path string `json:"path"`

	// Whether a query may follow, of visible ASCII and whole escapes (%2F).
	// Default: none may.
	AnyQuery bool `json:"any_query,omitempty"`

	// Whether a WebSocket is refused there. Default: a GET route opens one, too.
	HTTPOnly bool `json:"http_only,omitempty"`

	// Whether a body may be `multipart/form-data`, for uploads. A web page could
	// send that without a preflight; what keeps it out is then `Origin` and
	// `Sec-Fetch-Site`, and the token. Default: JSON only.
	Multipart bool `json:"multipart,omitempty"`
}

// defaultRoute is what may be called if nothing else is said.
var defaultRoute = Route{Method: http.MethodPost, Path: "/v1/responses"}

// presets are routes that one word stands for.
var presets = map[string][]Route{
	"codex": {
		defaultRoute,
		{Method: http.MethodPost, Path: "/v1/responses/compact"},
		{Method: http.MethodGet, Path: "/v1/models", AnyQuery: true, HTTPOnly: true},
		{Method: http.MethodPost, Path: "/v1/alpha/search"},
		{Method: http.MethodPost, Path: "/v1/images/generations"},
		{Method: http.MethodPost, Path: "/v1/images/edits"},
	},
}

var errRouteWords = errors.New("allow_route wants: <METHOD> <path> [any_query] [http_only] [multipart], or: codex")

// readRoutes reads the arguments of allow_route.
func readRoutes(words []string) ([]Route, error) {
	if len(words) == 1 && presets[words[0]] != nil {
		return presets[words[0]], nil
	}
	if len(words) < 2 || slices.Contains(words, "") {
		return nil, errRouteWords
	}
	route := Route{Method: words[0], Path: words[1]}
	for _, word := range words[2:] {
		switch {
		case word == "any_query" && !route.AnyQuery:
			route.AnyQuery = true
		case word == "http_only" && !route.HTTPOnly:
			route.HTTPOnly = true
		case word == "multipart" && !route.Multipart:
			route.Multipart = true
		default:
			return nil, errRouteWords // not quoted: it may be a key
		}
	}
	return []Route{route}, nil
}

// onlyMultipart are routes of the API that take no JSON.
var onlyMultipart = []string{"/v1/files", "/v1/audio/transcriptions", "/v1/audio/translations", "/v1/images/variations"}

func (route Route) validate() error {
	if !slices.Contains(routeMethods, route.Method) {
		return fmt.Errorf("the method is one of %s, in capitals", listed(routeMethods))
	}
	if route.Method == http.MethodPost && !route.Multipart && slices.Contains(onlyMultipart, route.Path) {
		return errors.New("what is sent there is multipart/form-data, which would be refused; write the word multipart behind the path")
	}
	before, after, wild := strings.Cut(route.Path, "*")
	if !wild {
		return validatePath(route.Path)
	}
	if strings.Contains(after, "*") || !strings.HasSuffix(before, "/") || after != "" && after[0] != '/' {
		return errors.New("one * can stand in it, for one whole segment, as in /v1/responses/*/cancel")
	}
	return validatePath(before + "id" + after)
}

// takes reports whether a path is the route's.
func (route *Route) takes(path string) bool {
	before, after, wild := strings.Cut(route.Path, "*")
	if !wild {
		return path == route.Path
	}
	path, begins := strings.CutPrefix(path, before)
	id, ends := strings.CutSuffix(path, after)
	return begins && ends && isID(id)
}

// maxID is the greatest length of what stands for a "*".
const maxID = 256

// isID reports whether a segment of a path is one that all servers read in the
// same way: no dots, no escapes, nothing that divides.
func isID(segment string) bool {
	for i := range len(segment) {
		c := segment[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || isDigit(c) || c == '_' || c == '-') {
			return false
		}
	}
	return segment != "" && len(segment) <= maxID
}

// isForm reports whether r has exactly one Content-Type, and that is
// multipart/form-data with a boundary and nothing else.
func isForm(r *http.Request) bool {
	values := r.Header["Content-Type"]
	if len(values) != 1 || !isVisible(values[0], " ") || strings.Contains(values[0], ",") {
		return false
	}
	kind, parameters, err := mime.ParseMediaType(values[0])
	return err == nil && kind == "multipart/form-data" && len(parameters) == 1 && parameters["boundary"] != ""
}

// takesForms reports whether one of the routes is for uploads.
func takesForms(routes []Route) bool {
	return slices.ContainsFunc(routes, func(route Route) bool { return route.Multipart })
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

// checkRoute compares method and path exactly as they came over the wire
// (r.RequestURI), so that no way of writing a path differently (%2F, //, a
// dot segment, an absolute URI) means one thing here and another upstream.
func (p *policy) checkRoute(r *http.Request) *refusal {
	_, refused := p.findRoute(r)
	return refused
}

// routeOf is which of the gate's routes a request takes that checkRoute lets pass.
func (p *policy) routeOf(r *http.Request) int {
	i, _ := p.findRoute(r)
	return i
}

func (p *policy) findRoute(r *http.Request) (int, *refusal) {
	upgrade := isWebSocketUpgrade(r)
	method := r.Method
	if upgrade {
		method = http.MethodGet // RFC 8441 upgrades with CONNECT; upstream it is a GET
	}
	refused := errRouteNotAllowed
	for i := range p.routes {
		route := &p.routes[i]
		switch {
		case !route.matchesPath(r):
		case route.Method != method, upgrade && route.HTTPOnly:
			if upgrade {
				refused = errWebSocketNotEnabled
			}
		case p.forms && !route.Multipart && isForm(r):
			refused = errContentTypeNotJSON // unless a later route is for uploads
		default:
			return i, nil
		}
	}
	return 0, refused
}

// matchesPath reports whether r asks for the route's path. The parsed URL is
// compared too, because it is what reverse_proxy sends on: a handler before
// the gate may have rewritten it without touching RequestURI.
func (route *Route) matchesPath(r *http.Request) bool {
	path, query, hasQuery := strings.Cut(r.RequestURI, "?")
	if !route.takes(path) || r.URL.Path != path || r.URL.RawPath != "" {
		return false
	}
	if hasQuery || r.URL.RawQuery != "" || r.URL.ForceQuery {
		return route.AnyQuery && query == r.URL.RawQuery && isQuery(query)
	}
	return true
}

// isQuery reports whether every server reads the same in a query: it is visible
// ASCII (over HTTP/2, a caller can send a space, and an upstream might take
// what follows for the protocol) and its escapes are whole.
func isQuery(query string) bool {
	if !isVisible(query, "") {
		return false
	}
	_, err := url.PathUnescape(query) // (QueryUnescape differs in "+" alone)
	return err == nil
}
