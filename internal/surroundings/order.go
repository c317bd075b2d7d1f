package surroundings

import (
	"reflect"
	"slices"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// Order is how gates and proxies stand to each other in a server's routes.
type Order struct {
	Unreachable bool // a reverse_proxy takes every request before it meets the gate
	Beside      bool // requests reach a reverse_proxy in the gate's own list of routes without having met the gate
	Templates   bool // what is behind the gate passes through templates, which run it as a program
}

// OrderOf looks at the routes of a server. Only proxies in the same list as a
// gate count: one in a "handle" of its own was put beside the gate on purpose.
func OrderOf(config Config, server *caddyhttp.Server) (order Order) {
	order.look(config.serverConfig(server.Name()))
	return order
}

// look goes through a part of a config.
func (o *Order) look(part any) {
	switch part := part.(type) {
	case map[string]any:
		if routes, ok := part["routes"].([]any); ok {
			o.inList(routes)
			o.Templates = o.Templates || templatesMeetGate(routes)
		} else if part["handle"] != nil && part["handler"] == nil {
			o.inList([]any{part})
			o.Templates = o.Templates || templatesMeetGate([]any{part})
		}
		for _, child := range part {
			o.look(child)
		}
	case []any:
		for _, child := range part {
			o.look(child)
		}
	}
}

// inList goes through a list of routes as a request does.
func (o *Order) inList(routes []any) {
	var gated []any                           // what the gates' routes match
	open, proxied, gate := true, false, false // some requests have met no gate yet; a proxy has taken all; there is a gate
	var beside bool
	for _, route := range routes {
		fields, _ := route.(map[string]any)
		handlers, _ := fields["handle"].([]any)
		match, all := fields["match"], fields["match"] == nil && fields["group"] == nil
		here := open && !slices.ContainsFunc(gated, func(g any) bool { return reflect.DeepEqual(g, match) })
		for _, handler := range handlers {
			handler, _ := handler.(map[string]any)
			switch {
			case handler["handler"] == "responses_proxy_gate":
				o.Unreachable = o.Unreachable || proxied
				gate, here = true, false
				gated = append(gated, match)
			case handler["handler"] == "reverse_proxy" && handler["handle_response"] == nil:
				beside = beside || here
				proxied = proxied || all && here
				here = false
			}
		}
		if all {
			open = here
		}
	}
	o.Beside = o.Beside || gate && beside
}

// templatesMeetGate reports whether a request can meet templates, in a list of
// routes, together with a gate that is in the list, too.
func templatesMeetGate(routes []any) bool {
	for g, gate := range routes {
		if !has(gate, "responses_proxy_gate") {
			continue
		}
		fields, _ := gate.(map[string]any)
		for r, route := range routes {
			other, _ := route.(map[string]any)
			switch {
			case r == g:
				// Handlers in one list with the gate are looked at with that list.
				handlers, _ := fields["handle"].([]any)
				if slices.ContainsFunc(handlers, func(h any) bool { return has(h, "templates") && !has(h, "responses_proxy_gate") }) {
					return true
				}
			case fields["group"] != nil && fields["group"] == other["group"]:
				// Of a group, a request meets one route only.
			case r < g && other["terminal"] == true, r > g && fields["terminal"] == true:
				// A request that meets the one does not get to the other.
			case has(route, "templates"):
				return true
			}
		}
	}
	return false
}

// has reports whether a part of a config has a handler of a name in it.
func has(part any, name string) bool {
	return Anywhere(part, func(object map[string]any) bool { return object["handler"] == name })
}
