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
		} else if part["handle"] != nil && part["handler"] == nil {
			o.inList([]any{part})
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
