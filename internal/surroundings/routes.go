package surroundings

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
)

// chosenLoggers are the names that log_name directives give to logs: they set
// the variable access_logger_names.
func chosenLoggers(part any) (names []string) {
	switch part := part.(type) {
	case map[string]any:
		if chosen, ok := part["access_logger_names"].([]any); ok {
			for _, name := range chosen {
				if name, ok := name.(string); ok {
					names = append(names, name)
				}
			}
		}
		for _, child := range part {
			names = append(names, chosenLoggers(child)...)
		}
	case []any:
		for _, child := range part {
			names = append(names, chosenLoggers(child)...)
		}
	}
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

// appendedSecret is the header of a credential that log_append writes, or that
// vars or map keep for it; "" if there is none.
func appendedSecret(part any) string {
	if !hasHandler(part, "log_append") {
		return ""
	}
	for _, header := range append([]string{tokenHeader, "Api-Key", "X-Api-Key"}, RedactedByCaddy...) {
		if takesHeader(part, strings.ToLower("{http.request.header."+header+"}")) {
			return header
		}
	}
	return ""
}

// hasHandler reports whether a handler is anywhere in a part of a config.
func hasHandler(part any, name string) bool {
	switch part := part.(type) {
	case map[string]any:
		return part["handler"] == name || slices.ContainsFunc(slices.Collect(maps.Values(part)), func(child any) bool { return hasHandler(child, name) })
	case []any:
		return slices.ContainsFunc(part, func(child any) bool { return hasHandler(child, name) })
	}
	return false
}

// takesHeader reports whether a handler that can keep values for a log has a
// placeholder in it.
func takesHeader(part any, placeholder string) bool {
	switch part := part.(type) {
	case map[string]any:
		if name, _ := part["handler"].(string); slices.Contains([]string{"log_append", "vars", "map"}, name) {
			text, _ := json.Marshal(part)
			return strings.Contains(strings.ToLower(string(text)), placeholder)
		}
		return slices.ContainsFunc(slices.Collect(maps.Values(part)), func(child any) bool { return takesHeader(child, placeholder) })
	case []any:
		return slices.ContainsFunc(part, func(child any) bool { return takesHeader(child, placeholder) })
	}
	return false
}
