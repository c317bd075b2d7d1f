package budget

import (
	"time"

	"go.uber.org/zap"
)

// The parts of a limit, in percent, that are logged once each in a window.
const (
	mostOfIt = 80
	allOfIt  = 100
)

type noteKey struct {
	user, unit string
	slot       slot
}

// note is that a caller has come to a part of a limit for the first time.
type note struct {
	limit        *limit
	unit         string
	percent      int
	spent, total int64
	resets       time.Time
}

// notes are what has come about since the last time, of one caller.
func (l *ledger) notes(user string, limits *limits, now time.Time) (notes []note) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now = l.clock(now)
	for i := range limits.per {
		limit := &limits.per[i]
		s := limit.slot(now)
		spent := l.spent(s, user)
		for _, n := range []note{
			{unit: "tokens", spent: spent.Tokens(), total: limit.tokens},
			{unit: "cost", spent: int64(spent.Costs()), total: int64(limit.cost)},
			{unit: "requests", spent: spent.Calls(), total: limit.requests},
		} {
			n.percent = percentOf(n.spent, n.total)
			key := noteKey{user, n.unit, s}
			if n.percent == 0 || n.percent <= l.noted[key] {
				continue
			}
			l.noted[key] = n.percent
			n.limit, n.resets = limit, limit.window.end(limit.window.start(now))
			notes = append(notes, n)
		}
	}
	return notes
}

// percentOf is the part of a total that is to be logged; 0 if none is.
func percentOf(spent, total int64) int {
	switch {
	case total <= 0:
		return 0
	case spent >= total:
		return allOfIt
	case float64(spent) >= float64(total)*mostOfIt/100:
		return mostOfIt
	}
	return 0
}

// field is a number in its unit.
func (n *note) field(key string, number int64) zap.Field {
	if n.unit == "cost" {
		return zap.String(key, Money(number).String())
	}
	return zap.Int64(key, number)
}

// note logs that a caller has spent most of a limit, or all of it.
func (h *Handler) note(user string, limits *limits, now time.Time) {
	for _, n := range h.book.notes(user, limits, now) {
		message := "a caller has spent most of its budget"
		if n.percent == allOfIt {
			message = "a caller's budget is spent; its requests are refused until it is new"
		}
		h.logger.Warn(message, zap.String("budget", h.Name), zap.String("client", user), zap.String("window", n.limit.window.name),
			zap.String("unit", n.unit), n.field("spent", n.spent), n.field("limit", n.total), zap.Time("resets", n.resets.UTC()))
	}
}
