package budget

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
)

// join says that a config has the budget; leave, that it has no longer.
func (b *book) join(h *Handler) {
	b.handlersMu.Lock()
	defer b.handlersMu.Unlock()
	b.handlers = append(b.handlers, h)
	b.ledger.join(h.windows())
}

// The windows of the last config stay: its requests under way end after it.
func (b *book) leave(h *Handler) {
	b.handlersMu.Lock()
	defer b.handlersMu.Unlock()
	b.handlers = slices.DeleteFunc(b.handlers, func(other *Handler) bool { return other == h })
	if len(b.handlers) > 0 {
		b.ledger.leave(h.windows())
	}
}

// newest is the budget in the newest config that has it; nil if none has.
func (b *book) newest() *Handler {
	b.handlersMu.Lock()
	defer b.handlersMu.Unlock()
	if len(b.handlers) == 0 {
		return nil
	}
	return b.handlers[len(b.handlers)-1]
}

// Usage is what the callers of all budgets have spent in the present windows,
// as far as it is known here.
func Usage(now time.Time) adminapi.Budgets {
	all := adminapi.Budgets{Budgets: []adminapi.Budget{}} // (an empty list is not null)
	books.Range(func(_, value any) bool {
		if b := value.(*book); b.newest() != nil {
			all.Budgets = append(all.Budgets, b.usage(now))
		}
		return true
	})
	slices.SortFunc(all.Budgets, func(a, b adminapi.Budget) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func (b *book) usage(now time.Time) adminapi.Budget {
	h := b.newest()
	users := b.users(now)
	for user := range h.clients {
		users[user] = true
	}
	tells := adminapi.Budget{Name: b.name, Clients: []adminapi.Spending{}}
	for user := range users {
		tells.Clients = append(tells.Clients, b.spending(user, h.limitsOf(user), now))
	}
	slices.SortFunc(tells.Clients, func(a, b adminapi.Spending) int { return cmp.Compare(a.Name, b.Name) })
	return tells
}

// spending is what one caller has spent, by windows from the shortest on.
func (b *book) spending(user string, limits *limits, now time.Time) adminapi.Spending {
	tells := adminapi.Spending{Name: user, Windows: []adminapi.Window{}}
	for _, w := range b.counted() {
		spent, open, s := b.standing(user, w, now)
		start := time.Unix(s.start, 0).UTC()
		window := adminapi.Window{
			Window: w.name, Began: start, Resets: w.end(start), Requests: spent.Calls(), Tokens: spent.Tokens(),
			Input: spent.Input, Cached: spent.Cached, Output: spent.Output, Reasoning: spent.Reasoning, Estimated: spent.Estimated,
			Cost: spent.Costs().number(), Models: b.models(user, w, now),
		}
		if i := slices.IndexFunc(limits.per, func(l limit) bool { return l.window == w }); i >= 0 {
			window.RequestsLimit, window.TokensLimit = limits.per[i].requests, limits.per[i].tokens
			window.CostLimit = limits.per[i].cost.number()
		}
		tells.Windows = append(tells.Windows, window)
		tells.UnderWay, tells.Reserved = open.requests, open.tokens
	}
	return tells
}

// Reset forgives a caller what it has spent in the present windows of a
// budget, at all replicas. It reports whether there is such a budget, and a
// caller who has spent something.
func Reset(name, user string, now time.Time) (tells adminapi.Spending, err error) {
	err = fmt.Errorf("there is no budget %q in the running config", name)
	books.Range(func(_, value any) bool {
		b := value.(*book)
		h := b.newest()
		if b.name != name || h == nil {
			return true
		}
		if !b.users(now)[user] {
			err = fmt.Errorf("budget %s: %q has spent nothing in the present windows", name, user)
			return true
		}
		b.forgive(user, now)
		b.logger.Info("a caller is forgiven what it has spent", zap.String("budget", name), zap.String("client", user))
		tells, err = b.spending(user, h.limitsOf(user), now), nil
		return true
	})
	return tells, err
}
