package responsesproxygate

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/surroundings"
)

// equipProxies gives the Transport to the reverse_proxy handlers behind the
// gate, which are still JSON while the gate is provisioned. It refuses a config
// in which none of them would get the key, or one of them would send it where
// others could read it.
func (h *Handler) equipProxies(ctx caddy.Context) error {
	e := &equipment{gate: h.Name, anyWay: h.allows(riskPlaintextUpstream), named: h.server.NamedRoutes}
	e.behindGate(h.server.Routes)
	if h.server.Errors != nil {
		e.behindGate(h.server.Errors.Routes)
	}
	for _, route := range h.server.NamedRoutes {
		if route != nil {
			e.behindGate(caddyhttp.RouteList{*route}) // (a copy has the same handlers)
		}
	}
	for _, module := range ctx.Modules() {
		if around, ok := module.(*caddyhttp.Subroute); ok {
			e.behindGate(around.Routes)
			if around.Errors != nil {
				e.behindGate(around.Errors.Routes)
			}
		}
	}
	if e.proxies == 0 && e.err == nil {
		return errNoProxy
	}
	return e.err
}

var errNoProxy = errors.New("no reverse_proxy behind the gate would send the operator's key; put reverse_proxy after responses_proxy_gate, " +
	"and if its transport is another than http, or it has handle_response, write in it: transport responses_proxy_gate")

// equipment gives the Transport to handlers.
type equipment struct {
	gate    string
	anyWay  bool
	named   map[string]*caddyhttp.Route
	invoked []string // names of named routes
	proxies int      // that will send the key
	err     error
}

// behindGate equips what comes after the gate in routes, if it is there.
func (e *equipment) behindGate(routes caddyhttp.RouteList) {
	behind := false
	for _, route := range routes {
		for i, raw := range route.HandlersRaw {
			switch {
			case behind:
				route.HandlersRaw[i] = e.equipped(raw)
			case hasGate(decoded(raw), e.gate):
				behind = true
			}
		}
	}
}

// equipped is a handler, and all within it, with the Transport.
func (e *equipment) equipped(raw json.RawMessage) json.RawMessage {
	handler := decoded(raw)
	if !e.equip(handler) {
		return raw
	}
	return rawJSON(handler)
}

// equip reports whether it has changed part, a part of a config.
func (e *equipment) equip(part any) (changed bool) {
	switch part := part.(type) {
	case map[string]any:
		switch part["handler"] {
		case "reverse_proxy":
			return e.equipProxy(part)
		case "invoke":
			name, _ := part["name"].(string)
			e.equipNamed(name)
		}
		for _, child := range part {
			changed = e.equip(child) || changed
		}
	case []any:
		for _, child := range part {
			changed = e.equip(child) || changed
		}
	}
	return changed
}

// equipNamed equips a named route that is invoked behind the gate.
func (e *equipment) equipNamed(name string) {
	route := e.named[name]
	if route == nil || slices.Contains(e.invoked, name) {
		return
	}
	e.invoked = append(e.invoked, name)
	for i, raw := range route.HandlersRaw {
		route.HandlersRaw[i] = e.equipped(raw)
	}
}

// equipProxy equips a reverse_proxy. One with handle_response may be no way to
// the upstream: forward_auth is one.
func (e *equipment) equipProxy(proxy map[string]any) (changed bool) {
	transport, _ := proxy["transport"].(map[string]any)
	protocol, _ := transport["protocol"].(string)
	if protocol != transportName {
		responders, _ := proxy["handle_response"].([]any)
		if len(responders) > 0 || transport != nil && protocol != "http" {
			return false
		}
		if transport == nil {
			transport = make(map[string]any)
			proxy["transport"] = transport
		}
		transport["protocol"] = transportName
		changed = true
	}
	e.proxies++
	raw := rawJSON(proxy)
	e.err = errors.Join(e.err, surroundings.RefuseCallersUpstream(raw))
	if !e.anyWay {
		e.err = errors.Join(e.err, surroundings.AuditUpstreams(raw, infofile.CheckUpstreamSocket))
	}
	return changed
}

// hasGate reports whether a part of a config has the gate of this name in it.
func hasGate(part any, name string) bool {
	switch part := part.(type) {
	case map[string]any:
		if part["handler"] == "responses_proxy_gate" {
			own, _ := part["name"].(string)
			return own == name || own == "" && name == defaultName
		}
		for _, child := range part {
			if hasGate(child, name) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(part, func(child any) bool { return hasGate(child, name) })
	}
	return false
}

// decoded is JSON as Go has it, with numbers as they are written; nil if it is none.
func decoded(raw json.RawMessage) (part any) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.UseNumber()
	if decoder.Decode(&part) != nil {
		return nil
	}
	return part
}

// object is a part of Caddy's JSON config.
type object = map[string]any

// rawJSON encodes a part of the config that always encodes.
func rawJSON(part any) json.RawMessage { return caddyconfig.JSON(part, nil) }
