package responsesproxygate

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/surroundings"
	"go.uber.org/zap"
)

// The risks that insecure_allow can name.
const (
	riskRemoteListener    = "remote_listener"
	riskTCPAdmin          = "tcp_admin"
	riskLoggedToken       = "logged_token"
	riskLiteralSecret     = "literal_secret"
	riskPlaintextUpstream = "plaintext_upstream"
)

var risks = []string{riskRemoteListener, riskTCPAdmin, riskLoggedToken, riskLiteralSecret, riskPlaintextUpstream}

// configID tells one config from another while both exist.
type configID = surroundings.ConfigID

// allows reports whether the operator takes a risk knowingly.
func (h *Handler) allows(risk string) bool { return slices.Contains(h.InsecureAllow, risk) }

// checkSurroundings refuses surroundings that would undo the gate, unless the operator
// takes that risk.
func (h *Handler) checkSurroundings(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return errors.New("the gate works only as a handler of an HTTP server's routes")
	}
	config, err := surroundings.ConfigOf(ctx)
	if err != nil {
		return err
	}
	h.server, h.config = server, config.ID()
	err = errors.Join(process.RefuseDebugOutput(), h.refusePrintedSecrets(process.PrintsEnvironment()))
	if !h.allows(riskRemoteListener) {
		err = errors.Join(err, surroundings.CheckListeners(server, config, infofile.CheckSocket))
	}
	if !h.allows(riskTCPAdmin) {
		err = errors.Join(err, surroundings.CheckAdmin(config, infofile.CheckSocket))
	}
	if !h.allows(riskLoggedToken) {
		err = errors.Join(err, surroundings.CheckLogs(ctx, server, config))
	}
	surroundings.WarnOfRootsLogFiles(config, h.logger)
	err = errors.Join(err, h.checkOrder(surroundings.OrderOf(config, server)))
	h.trustsUnixAddr = surroundings.AddressesAreReal(config, server)
	if err == nil {
		h.addresses, err = surroundings.ClaimListeners(server)
	}
	return err
}

// checkOrder refuses a gate that no request meets, and warns of requests that
// meet a proxy but no gate: there are good uses of that.
func (h *Handler) checkOrder(order surroundings.Order) error {
	if order.Unreachable {
		return errors.New("a reverse_proxy stands before the gate in the same route and takes every request: nobody would be asked for a token; put responses_proxy_gate before it")
	}
	if order.Templates {
		return errors.New("a templates handler around or behind the gate would run what the upstream answers, or a caller has it answer, as a program: " +
			"that can read Caddy's environment and files, and with them the operator's key. Take templates out, or put it and the gate into handle blocks of their own")
	}
	if order.Beside {
		h.logger.Warn("some requests reach a reverse_proxy without passing the gate: it stands before the gate, or the gate's matcher leaves them out. "+
			"They are asked for no token, and get no key. If that is meant, put that proxy into a handle block of its own", zap.String("gate", h.Name))
	}
	return nil
}

// refusePrintedSecrets refuses secrets from an environment that this process
// has printed already.
func (h *Handler) refusePrintedSecrets(printed bool) error {
	if !printed {
		return nil
	}
	values := []string{h.UpstreamBearer, h.Token, h.UpstreamIdentity.requestToken()}
	for _, client := range h.Client {
		values = append(values, client.Token)
	}
	for _, value := range values {
		if found := secretPlaceholder.FindStringSubmatch(value); found != nil && found[1] == "env" {
			return fmt.Errorf("caddy run --environ has printed the environment, and %s with it (under systemd, to the journal): replace that key or token by a new one, "+
				"take --environ out of the command line (the packaged caddy.service has it), or hand the secret over in a file, such as one of LoadCredential: upstream_bearer_file {env.CREDENTIALS_DIRECTORY}/key, token {file./path}", found[0])
		}
	}
	return nil
}

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

// equip gives the Transport to the proxies in a part of a config, and reports
// whether that has changed it.
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
		e.err = errors.Join(e.err, surroundings.CheckUpstreams(raw, infofile.CheckUpstreamSocket))
	}
	return changed
}

// hasGate reports whether a part of a config has the gate of this name in it.
func hasGate(part any, name string) bool {
	return surroundings.Anywhere(part, func(object map[string]any) bool {
		own, _ := object["name"].(string)
		return object["handler"] == "responses_proxy_gate" && cmp.Or(own, defaultName) == name
	})
}

// decoded is what JSON says, with numbers as they are written; nil if raw is no
// JSON.
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
