package budget

import (
	"slices"
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
//			cost     <amount>
//		}
//		concurrent        <n>
//		models            <name|prefix*>...
//		max_output_tokens <n>
//		refuse            <what>...
//		allow             <what>...
//		price             <model|prefix*> <input> <cached input> <output>
//		fee               <tool> <each call>
//		client            <name> {
//			per               …
//			concurrent        <n>
//			models            <name|prefix*>...
//			max_output_tokens <n>
//			refuse            <what>...
//			allow             <what>...
//		}
//	}
//
// per stands once for each stretch of time, client once for each caller, price
// once for each model, fee once for each tool, everything else once at most. An option that is unknown, or has too few or
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
		case "price":
			price := Price{}
			if err := arguments(d, &price.Model, &price.Input, &price.CachedInput, &price.Output); err != nil {
				return err
			}
			h.Price = append(h.Price, price)
		case "fee":
			fee := Fee{}
			if err := arguments(d, &fee.Tool, &fee.Call); err != nil {
				return err
			}
			h.Fee = append(h.Fee, fee)
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
	case "models":
		return list(d, &l.Models)
	case "max_output_tokens":
		return number(d, &l.MaxOutputTokens)
	case "refuse":
		return list(d, &l.Refuse)
	case "allow":
		return list(d, &l.Allow)
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
		case "cost":
			if p.Cost != 0 {
				return d.Errf("%s stands there twice", option)
			}
			if err := arguments(d, nil, &p.Cost); err != nil {
				return err
			}
			if p.Cost == 0 {
				return d.Errf("%s: write an amount of more than 0", option)
			}
			continue
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

// list reads the arguments of an option that was not there before.
func list(d *caddyfile.Dispenser, into *[]string) error {
	option := d.Val()
	if *into != nil {
		return d.Errf("%s stands there twice", option)
	}
	*into = d.RemainingArgs()
	if len(*into) == 0 || slices.Contains(*into, "") {
		return d.ArgErr()
	}
	return nil
}

// arguments reads a name, if there is to be one, and amounts.
func arguments(d *caddyfile.Dispenser, name *string, amounts ...*Money) error {
	option, words := d.Val(), d.RemainingArgs()
	if name != nil && len(words) > 0 {
		*name, words = words[0], words[1:]
	}
	if len(words) != len(amounts) || name != nil && *name == "" {
		return d.ArgErr()
	}
	for i, word := range words {
		amount, err := parseMoney(word)
		if err != nil {
			return d.Errf("%s %s: %v", option, word, err)
		}
		*amounts[i] = amount
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
