package responsesproxygate

import (
	"errors"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("responses_proxy_gate", parseCaddyfile)
	// Ahead of every directive that answers, rewrites or reads a body. "header"
	// too comes after, so that what it adds passes through the gate, which
	// drops foreign CORS headers.
	httpcaddyfile.RegisterDirectiveOrder("responses_proxy_gate", httpcaddyfile.Before, "header")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	gate := new(Handler)
	err := gate.UnmarshalCaddyfile(h.Dispenser)
	return gate, err
}

// UnmarshalCaddyfile sets up the gate from Caddyfile tokens. Syntax:
//
//	responses_proxy_gate [<matcher>] {
//		name                 <name>
//		upstream_bearer      <placeholder>
//		upstream_bearer_file <path>
//		upstream_identity {
//			provider        <id>
//			service_account <id>
//			token_file      <path>
//			github_actions  [<audience>] {
//				request_url   <url>
//				request_token <placeholder>
//			}
//			token_type      jwt|id_token
//			endpoint        <url>
//		}
//		upstream_header      <name>
//		token                <placeholder>
//		server_info          <path> {
//			owner <user>[:<group>]
//		}
//		client               <name> {
//			server_info <path> {
//				owner <user>[:<group>]
//			}
//			token       <placeholder>
//			expires     <duration>|<RFC 3339 time>
//		}
//		shared_clients       [<sync interval>]
//		rotate_every         <interval> [<grace>]
//		allow_origin         <origin>...
//		allow_host           <host>...
//		allow_route          <METHOD> <path> [any_query] [http_only] [multipart]
//		allow_route          codex
//		allow_header         <name>...
//		shutdown_endpoint    [<path>]
//		health_endpoint      [<path>]
//		dump_dir             <path>
//		log_accepted
//		harden_process
//		insecure_allow       <risk>...
//	}
//
// Every option stands once at most, except allow_route and client. An option that is
// unknown, or has too few or too many arguments, is an error.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive's name
	if d.NextArg() {
		return d.Err("responses_proxy_gate takes no arguments but a matcher; its options belong in its block")
	}
	seen := make(map[string]bool)
	for d.NextBlock(0) {
		option := d.Val()
		if seen[option] && option != "allow_route" && option != "client" {
			return d.Errf("%s is set twice; keep one", option)
		}
		seen[option] = true
		if err := h.unmarshalOption(d, option); err != nil {
			return err
		}
	}
	if err := h.checkOneKey(); err != nil {
		return d.WrapErr(err)
	}
	if !slices.Contains(h.InsecureAllow, riskLiteralSecret) {
		// Provision refuses literal secrets too. Here they do not even get
		// into what "caddy adapt" prints.
		if err := refuseLiteralSecrets(h); err != nil {
			return d.WrapErr(err)
		}
	}
	return nil
}

func refuseLiteralSecrets(h *Handler) error {
	err := errors.Join(refuseLiteral("upstream_bearer", h.UpstreamBearer), refuseLiteral("token", h.Token),
		refuseLiteral("request_token", h.UpstreamIdentity.requestToken()))
	for _, client := range h.Client {
		err = errors.Join(err, refuseLiteral("token", client.Token))
	}
	err = errors.Join(err, refuseNoPath("upstream_bearer_file", h.UpstreamBearerFile))
	if h.UpstreamIdentity != nil {
		err = errors.Join(err, refuseNoPath("token_file", h.UpstreamIdentity.TokenFile))
	}
	return err
}

// refuseNoPath refuses what may be a secret in place of its file.
func refuseNoPath(option, file string) error {
	if file == "" || isPath(file) || strings.HasPrefix(file, "{") {
		return nil
	}
	_, err := resolvePath(option, file)
	return err
}

func (h *Handler) unmarshalOption(d *caddyfile.Dispenser, option string) error {
	switch option {
	case "name":
		return oneArgument(d, &h.Name)
	case "upstream_bearer":
		return oneArgument(d, &h.UpstreamBearer)
	case "upstream_bearer_file":
		return oneArgument(d, &h.UpstreamBearerFile)
	case "upstream_identity":
		return h.unmarshalIdentity(d)
	case "upstream_header":
		return oneArgument(d, &h.UpstreamHeader)
	case "token":
		return oneArgument(d, &h.Token)
	case "server_info":
		return unmarshalServerInfo(d, &h.ServerInfo)
	case "client":
		return h.unmarshalClient(d)
	case "shared_clients":
		h.SharedClients = new(SharedClients)
		if d.CountRemainingArgs() == 0 {
			return nil
		}
		return oneDuration(d, &h.SharedClients.SyncEvery)
	case "rotate_every":
		return h.unmarshalRotation(d)
	case "allow_origin":
		return someArguments(d, &h.AllowOrigin)
	case "allow_host":
		return someArguments(d, &h.AllowHost)
	case "allow_route":
		return h.unmarshalRoute(d)
	case "allow_header":
		return someArguments(d, &h.AllowHeader)
	case "shutdown_endpoint":
		h.ShutdownEndpoint = defaultShutdownPath
		if d.CountRemainingArgs() == 0 {
			return nil
		}
		return oneArgument(d, &h.ShutdownEndpoint)
	case "health_endpoint":
		h.HealthEndpoint = defaultHealthPath
		if d.CountRemainingArgs() == 0 {
			return nil
		}
		return oneArgument(d, &h.HealthEndpoint)
	case "dump_dir":
		return oneArgument(d, &h.DumpDir)
	case "log_accepted":
		h.LogAccepted = true
		return noArgument(d)
	case "harden_process":
		h.HardenProcess = true
		return noArgument(d)
	case "insecure_allow":
		return someArguments(d, &h.InsecureAllow)
	}
	return unknownOption(d, "responses_proxy_gate")
}

func unmarshalServerInfo(d *caddyfile.Dispenser, info **ServerInfo) error {
	*info = new(ServerInfo)
	if err := oneArgument(d, &(*info).Path); err != nil {
		return err
	}
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if option := d.Val(); option != "owner" {
			return unknownOption(d, "server_info")
		}
		if (*info).Owner != "" {
			return d.Err("owner is set twice; keep one")
		}
		if err := oneArgument(d, &(*info).Owner); err != nil {
			return err
		}
	}
	return nil
}

func (h *Handler) unmarshalClient(d *caddyfile.Dispenser) error {
	var client Client
	if err := oneArgument(d, &client.Name); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if seen[option] {
			return d.Errf("%s is set twice; keep one", option)
		}
		seen[option] = true
		var err error
		switch option {
		case "server_info":
			err = unmarshalServerInfo(d, &client.ServerInfo)
		case "token":
			err = oneArgument(d, &client.Token)
		case "expires":
			err = oneExpiry(d, &client.Expires)
		default:
			err = unknownOption(d, "client")
		}
		if err != nil {
			return err
		}
	}
	h.Client = append(h.Client, client)
	return nil
}

func (h *Handler) unmarshalRotation(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) < 1 || len(args) > 2 {
		return d.Errf("rotate_every wants: <interval> [<grace>]")
	}
	h.RotateEvery = new(Rotation)
	if err := parseDuration(d, "rotate_every", args[0], &h.RotateEvery.Interval); err != nil || len(args) == 1 {
		return err
	}
	h.RotateEvery.Grace = new(caddy.Duration)
	return parseDuration(d, "rotate_every", args[1], h.RotateEvery.Grace)
}

func (h *Handler) unmarshalRoute(d *caddyfile.Dispenser) error {
	routes, err := readRoutes(d.RemainingArgs())
	if err != nil {
		return d.WrapErr(err)
	}
	h.AllowRoute = append(h.AllowRoute, routes...)
	return nil
}

// unknownOption names the option, unless it could be a secret on a line of its own.
func unknownOption(d *caddyfile.Dispenser, of string) error {
	if option := d.Val(); isOptionName(option) {
		return d.Errf("unknown option %q of %s", option, of)
	}
	return d.Errf("unknown option of %s (not quoted: it does not look like an option's name)", of)
}

func isOptionName(s string) bool {
	return len(s) <= 32 && strings.Trim(s, "abcdefghijklmnopqrstuvwxyz_") == ""
}

// noArgument refuses arguments of an option that has none.
func noArgument(d *caddyfile.Dispenser) error {
	if d.CountRemainingArgs() != 0 {
		return d.Errf("%s takes no value", d.Val())
	}
	return nil
}

// oneArgument reads the one argument of an option, which is not empty.
func oneArgument(d *caddyfile.Dispenser, value *string) error {
	option := d.Val()
	args := d.RemainingArgs()
	if len(args) != 1 {
		return d.Errf("%s wants exactly one value, and has %d", option, len(args))
	}
	if args[0] == "" {
		return d.Errf("%s has an empty value", option)
	}
	*value = args[0]
	return nil
}

// oneDuration reads the one argument of an option, which is a duration above zero.
func oneDuration(d *caddyfile.Dispenser, value *caddy.Duration) error {
	option, arg := d.Val(), ""
	if err := oneArgument(d, &arg); err != nil {
		return err
	}
	if err := parseDuration(d, option, arg, value); err != nil {
		return err
	}
	if *value <= 0 {
		return d.Errf("%s is not above zero", option)
	}
	return nil
}

// oneExpiry reads the one argument of an option, which is a duration or a moment.
func oneExpiry(d *caddyfile.Dispenser, value *Expiry) (err error) {
	option, arg := d.Val(), ""
	if err := oneArgument(d, &arg); err != nil {
		return err
	}
	if *value, err = parseExpiry(arg); err != nil {
		return d.Errf("%s: %v", option, err)
	}
	return nil
}

// parseDuration reads a duration, and does not quote what is none: it may be
// a secret on the wrong line.
func parseDuration(d *caddyfile.Dispenser, option, arg string, value *caddy.Duration) error {
	duration, err := caddy.ParseDuration(arg)
	if err != nil {
		return d.Errf("%s wants a duration, such as 90s, 12h or 30d", option)
	}
	*value = caddy.Duration(duration)
	return nil
}

// someArguments reads the one or more arguments of an option.
func someArguments(d *caddyfile.Dispenser, values *[]string) error {
	option := d.Val()
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.Errf("%s wants one or more values", option)
	}
	if slices.Contains(args, "") {
		return d.Errf("%s has an empty value", option)
	}
	*values = args
	return nil
}

// Interface guard
var _ caddyfile.Unmarshaler = (*Handler)(nil)
