package budget

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
)

// What a caller spends is also counted by model, under its user id, this mark
// and the model. That is for the operator to read: it limits nothing, and is
// not forgiven.
const modelMark = "\x00"

// models are what a caller has spent on each model, the dearest first.
func (l *ledger) models(user string, w window, now time.Time) []adminapi.Model {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := w.slot(l.clock(now))
	sums := make(spending)
	for _, known := range []spending{l.own[s], l.elsewhere[s]} {
		for key, spent := range known {
			if who, model, ok := strings.Cut(key, modelMark); ok && who == user {
				sums[model] = sums[model].plus(spent)
			}
		}
	}
	var found []adminapi.Model
	for model, spent := range sums {
		found = append(found, adminapi.Model{Model: model, Requests: spent.Requests, Tokens: spent.Tokens(), Cost: spent.Cost.number()})
	}
	slices.SortFunc(found, func(a, b adminapi.Model) int {
		return cmp.Or(cmp.Compare(sums[b.Model].Cost, sums[a.Model].Cost), cmp.Compare(b.Tokens, a.Tokens), cmp.Compare(a.Model, b.Model))
	})
	return found
}
