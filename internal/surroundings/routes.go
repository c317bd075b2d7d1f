package surroundings

import (
	"encoding/json"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/callerheader"
)

// Anywhere reports whether any object in a part of a config is what is looked
// for.
func Anywhere(part any, is func(object map[string]any) bool) bool {
	look := func(child any) bool { return Anywhere(child, is) }
	switch part := part.(type) {
	case map[string]any:
		return is(part) || slices.ContainsFunc(slices.Collect(maps.Values(part)), look)
	case []any:
		return slices.ContainsFunc(part, look)
	}
	return false
}

// chosenLoggers are the names that log_name directives give to logs: they set
// the variable access_logger_names.
func chosenLoggers(part any) (names []string) {
	Anywhere(part, func(object map[string]any) bool {
		chosen, _ := object["access_logger_names"].([]any)
		for _, name := range chosen {
			if name, ok := name.(string); ok {
				names = append(names, name)
			}
		}
		return false // there may be more
	})
	return names
}

// quietHandlers return no error of their own to Caddy.
var quietHandlers = []string{"headers", "log_append", "map", "tracing", "vars"}

// quietMatchers cannot fail with a status of 500 or more. (An expression can,
// and so can a file matcher.)
var quietMatchers = []string{
	"client_ip", "header", "header_regexp", "host", "method", "path", "path_regexp", "protocol", "query", "remote_ip", "tls",
}

// goesAroundGate reports whether a request can meet something that may fail
// without having passed a gate: then Caddy's error log prints its headers, and
// among them a token that was sent there by mistake.
func goesAroundGate(routes any) bool {
	around, _ := scanRoutes(routes)
	return around
}

// scanRoutes goes through routes in the order in which a request meets them.
// gated says that none gets past them without having met a gate.
func scanRoutes(routes any) (around, gated bool) {
	list, _ := routes.([]any)
	for _, route := range list {
		fields, _ := route.(map[string]any)
		handlers, _ := fields["handle"].([]any)
		matchers, _ := fields["match"].([]any)
		if slices.ContainsFunc(matchers, mayFail) {
			return true, false
		}
		routeAround, routeGated := scanHandlers(handlers)
		if routeAround {
			return true, false
		}
		// (of a group, a request meets one route only)
		if routeGated && len(matchers) == 0 && fields["group"] == nil {
			return false, true
		}
	}
	return false, false
}

// mayFail reports whether a matcher set has a matcher that is not a quiet one.
func mayFail(set any) bool {
	matchers, _ := set.(map[string]any)
	for name, matcher := range matchers {
		if name == "not" {
			if negated, _ := matcher.([]any); slices.ContainsFunc(negated, mayFail) {
				return true
			}
		} else if !slices.Contains(quietMatchers, name) {
			return true
		}
	}
	return false
}

func scanHandlers(handlers []any) (around, gated bool) {
	for _, handler := range handlers {
		fields, _ := handler.(map[string]any)
		name, _ := fields["handler"].(string)
		switch {
		case name == "responses_proxy_gate":
			return false, true
		case name == "subroute":
			if around, gated = scanRoutes(fields["routes"]); around || gated {
				return around, gated
			}
		case name == "static_response" && isPlainStatus(fields["status_code"]):
			// an answer that is written as it stands
		case !slices.Contains(quietHandlers, name):
			return true, false
		}
	}
	return false, false
}

// isPlainStatus reports whether a status is absent or a number: a placeholder
// may turn out to be none.
func isPlainStatus(status any) bool {
	switch status := status.(type) {
	case nil, float64:
		return true
	case string:
		return strings.Trim(status, "0123456789") == ""
	}
	return false
}

// headerPlaceholder is one that stands for a header of the request.
var headerPlaceholder = regexp.MustCompile(`(?i)\{http\.request\.header\.([^{}]+)\}`)

// appendedSecret is the header of a credential that log_append writes, or that
// vars or map keep for it; "" if there is none.
func appendedSecret(part any) (header string) {
	if !has(part, "log_append") {
		return ""
	}
	Anywhere(part, func(object map[string]any) bool {
		if name, _ := object["handler"].(string); !slices.Contains([]string{"log_append", "vars", "map"}, name) {
			return false
		}
		text, _ := json.Marshal(object)
		for _, found := range headerPlaceholder.FindAllStringSubmatch(string(text), -1) {
			if name := http.CanonicalHeaderKey(found[1]); callerheader.IsCredential(name) {
				header = name
			}
		}
		return header != ""
	})
	return header
}
