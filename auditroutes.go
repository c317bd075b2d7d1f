package responsesproxygate

import (
	"encoding/json"
	"slices"
)

// routesOf are a server's routes, as they stand in the config; nil if the
// server has none or cannot be found.
func (c runningConfig) routesOf(server string) any {
	var app struct {
		Servers map[string]struct {
			Routes any `json:"routes"`
		} `json:"servers"`
	}
	// A malformed app does not get as far as this.
	_ = json.Unmarshal(c.apps()["http"], &app)
	return app.Servers[server].Routes
}

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

// goesAroundGate tells whether a request can meet a handler that may fail
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
		routeAround, routeGated := scanHandlers(handlers)
		if routeAround {
			return true, false
		}
		if matchers, _ := fields["match"].([]any); routeGated && len(matchers) == 0 {
			return false, true
		}
	}
	return false, false
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
		case !slices.Contains(quietHandlers, name):
			return true, false
		}
	}
	return false, false
}
