package responsesproxygate

import (
	"errors"
	"fmt"
	"mime"
	"net/http"
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
