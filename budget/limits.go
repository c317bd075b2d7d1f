package budget

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// limit is what may be spent in a window.
type limit struct {
	window           window
	requests, tokens int64 // 0: any number
	cost             Money // 0: any amount
}

func (l *limit) slot(now time.Time) slot { return l.window.slot(now) }

// limits are a caller's Limits, resolved.
type limits struct {
	per        []limit
	concurrent int
	rules      *rules
}

// capsTokens reports whether it matters what a request costs.
func (l *limits) capsTokens() bool {
	return slices.ContainsFunc(l.per, func(limit limit) bool { return limit.tokens > 0 })
}

// resolve checks and resolves the limits of all callers.
func (h *Handler) resolve() error {
	prices, err := resolvePrices(h.Price, h.Fee)
	if err != nil {
		return err
	}
	if h.limits, err = h.Limits.resolve(); err != nil {
		return err
	}
	if h.limits.rules, err = h.Rules.resolve(h.limits.per, prices); err != nil {
		return err
	}
	h.clients = make(map[string]*limits)
	for _, client := range h.Client {
		if client.Name == "" {
			return errors.New("client: write the name of a caller")
		}
		if h.clients[client.Name] != nil {
			return fmt.Errorf("client %s stands there twice; write one block for it", client.Name)
		}
		own, err := client.resolve()
		if err != nil {
			return fmt.Errorf("client %s: %w", client.Name, err)
		}
		own.over(h.limits)
		if own.rules, err = client.over(&h.Rules).resolve(own.per, prices); err != nil {
			return fmt.Errorf("client %s: %w", client.Name, err)
		}
		h.clients[client.Name] = own
	}
	return nil
}

func (l *Limits) resolve() (*limits, error) {
	resolved := &limits{concurrent: l.Concurrent}
	if l.Concurrent < 0 {
		return nil, errors.New("concurrent: write a number of 1 or more")
	}
	for _, per := range l.Per {
		window, err := parseWindow(per.Window)
		switch {
		case err != nil:
			return nil, err
		case per.Requests < 0 || per.Tokens < 0 || per.Cost < 0:
			return nil, fmt.Errorf("per %s: write numbers of 1 or more", per.Window)
		case per.Requests == 0 && per.Tokens == 0 && per.Cost == 0:
			return nil, fmt.Errorf("per %s: write what may be spent: requests, tokens or cost", per.Window)
		case slices.ContainsFunc(resolved.per, func(other limit) bool { return other.window.name == window.name }):
			return nil, fmt.Errorf("per %s stands there twice; write one block for it", per.Window)
		}
		resolved.per = append(resolved.per, limit{window, per.Requests, per.Tokens, per.Cost})
	}
	return resolved, nil
}

// over fills in from the limits of all callers what a client's leave out.
func (l *limits) over(all *limits) *limits {
	l.concurrent = cmp.Or(l.concurrent, all.concurrent)
	for _, common := range all.per {
		i := slices.IndexFunc(l.per, func(own limit) bool { return own.window.name == common.window.name })
		if i < 0 {
			l.per = append(l.per, common)
			continue
		}
		own := &l.per[i]
		own.requests, own.tokens = cmp.Or(own.requests, common.requests), cmp.Or(own.tokens, common.tokens)
		own.cost = cmp.Or(own.cost, common.cost)
	}
	return l
}

// limitsOf are the limits of a caller.
func (h *Handler) limitsOf(user string) *limits {
	if own := h.clients[user]; own != nil {
		return own
	}
	return h.limits
}

// windows are those of all limits, and the day if there is none: what is spent
// is counted even where nothing caps it.
func (h *Handler) windows() []window {
	var all []window
	add := func(l *limits) {
		for _, limit := range l.per {
			if !slices.Contains(all, limit.window) {
				all = append(all, limit.window)
			}
		}
	}
	add(h.limits)
	for _, l := range h.clients {
		add(l)
	}
	if len(all) == 0 {
		all = append(all, window{"1d", day})
	}
	return all
}
