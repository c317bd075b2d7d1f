package budget

import (
	"strconv"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	httpcaddyfile.RegisterHandlerDirective("responses_budget", parseCaddyfile)
	// Behind every authentication, and behind "encode", which would compress
	// what is read here; next to what answers.
	httpcaddyfile.RegisterDirectiveOrder("responses_budget", httpcaddyfile.Before, "invoke")
}

func parseCaddyfile(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	handler := new(Handler)
	err := handler.UnmarshalCaddyfile(h.Dispenser)
	return handler, err
}

// UnmarshalCaddyfile sets up the budget from Caddyfile tokens. Syntax:
//
//	responses_budget [<matcher>] {
//		name       <name>
//		per        <duration>|1d|7d|month {
//			requests <n>
//			tokens   <n>
//		}
//		concurrent <n>
//		client     <name> {
//			per        …
//			concurrent <n>
//		}
//	}
//
// per stands once for each stretch of time, client once for each caller,
// everything else once at most. An option that is unknown, or has too few or
// too many arguments, is an error.
func (h *Handler) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the directive
	if d.NextArg() {
		return d.ArgErr()
	}
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		switch option := d.Val(); option {
		case "name":
			if seen[option] {
				return d.Errf("%s stands there twice", option)
			}
			seen[option] = true
			if err := oneArgument(d, &h.Name); err != nil {
				return err
			}
		case "client":
			client := Client{}
			if err := oneArgument(d, &client.Name); err != nil {
				return err
			}
			if err := client.unmarshal(d); err != nil {
				return err
			}
			h.Client = append(h.Client, client)
		default:
			if err := h.Limits.unmarshalOption(d); err != nil {
				return err
			}
		}
	}
	return nil
}

// unmarshal reads a block of limits.
func (l *Limits) unmarshal(d *caddyfile.Dispenser) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := l.unmarshalOption(d); err != nil {
			return err
		}
	}
	return nil
}

func (l *Limits) unmarshalOption(d *caddyfile.Dispenser) error {
	switch option := d.Val(); option {
	case "per":
		per := Per{}
		if err := oneArgument(d, &per.Window); err != nil {
			return err
		}
		if err := per.unmarshal(d); err != nil {
			return err
		}
		l.Per = append(l.Per, per)
	case "concurrent":
		n := int64(l.Concurrent)
		if err := number(d, &n); err != nil {
			return err
		}
		l.Concurrent = int(n)
	default:
		return d.Errf("unknown option '%s'", option)
	}
	return nil
}

func (p *Per) unmarshal(d *caddyfile.Dispenser) error {
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		var into *int64
		switch option := d.Val(); option {
		case "requests":
			into = &p.Requests
		case "tokens":
			into = &p.Tokens
		default:
			return d.Errf("unknown option '%s'", option)
		}
		if err := number(d, into); err != nil {
			return err
		}
	}
	return nil
}

// oneArgument reads the only argument of an option.
func oneArgument(d *caddyfile.Dispenser, into *string) error {
	if !d.AllArgs(into) || *into == "" {
		return d.ArgErr()
	}
	return nil
}

// number reads a number of 1 or more, as the only argument of an option that
// was not there before.
func number(d *caddyfile.Dispenser, into *int64) error {
	option, text := d.Val(), ""
	if *into != 0 {
		return d.Errf("%s stands there twice", option)
	}
	if err := oneArgument(d, &text); err != nil {
		return err
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 1 || n > maxTokens {
		return d.Errf("%s: write a whole number of 1 or more", option)
	}
	*into = n
	return nil
}
