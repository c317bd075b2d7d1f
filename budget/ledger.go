package budget

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// slot is one window of one length.
type slot struct {
	window string
	start  int64 // Unix seconds
}

// spending is what each caller has spent in a slot, by user id.
type spending map[string]Spent

// ledger is what the callers of one budget have spent, here and at other
// replicas, and what is reserved here for requests under way. It outlives
// reloads: nothing in it belongs to a config.
type ledger struct {
	mu        sync.Mutex
	latest    time.Time           // see clock
	windows   map[window]int      // by which the configs count, and how many of them
	own       map[slot]spending   // by this launch
	elsewhere map[slot]spending   // by all others together
	held      map[string]held     // by user id
	dirty     map[slot]bool       // own windows that the storage does not have as they are
	noted     map[noteKey]int     // what has been logged: see note
	read      map[string]spending // by key: what the storage had of others
}

// held is what a caller's requests under way may yet cost.
type held struct {
	requests int
	amount
}

// amount is what something costs.
type amount struct {
	tokens int64
	cost   Money
}

func (a amount) plus(b amount) amount { return amount{a.tokens + b.tokens, a.cost + b.cost} }

func (a amount) minus(b amount) amount { return amount{a.tokens - b.tokens, a.cost - b.cost} }

func newLedger() *ledger {
	return &ledger{
		own: make(map[slot]spending), elsewhere: make(map[slot]spending), held: make(map[string]held),
		dirty: make(map[slot]bool), read: make(map[string]spending), windows: make(map[window]int), noted: make(map[noteKey]int),
	}
}

// clock is the time in which windows are. It stands still while the machine's
// clock is behind what it was: whoever sets that back gets no window twice.
func (l *ledger) clock(now time.Time) time.Time {
	if now = now.Round(0); now.After(l.latest) { // (without the monotonic reading: windows follow the wall clock)
		l.latest = now
	}
	return l.latest
}

// reason is why a request is not admitted.
type reason int8

const (
	admitted    reason = iota
	exhausted          // a limit is reached
	reserved           // there would be room but for what is reserved for requests under way
	tooManyOpen        // as many requests are under way as may be
)

// verdict is what admission says.
type verdict struct {
	reason reason
	limit  *limit    // that is reached
	unit   string    // of it: requests, tokens or cost
	now    time.Time // when that was
	resets time.Time // when its window ends
}

// enter takes a place for a caller's request whose cost is not known yet, or
// says why not.
func (l *ledger) enter(user string, limits *limits, now time.Time) (reservation, verdict) {
	l.mu.Lock()
	defer l.mu.Unlock()
	said := l.exhausted(user, limits, l.clock(now))
	if said.reason != admitted {
		return reservation{}, said
	}
	open := l.held[user]
	if limits.concurrent > 0 && open.requests >= limits.concurrent {
		said.reason = tooManyOpen
		return reservation{}, said
	}
	l.held[user] = held{open.requests + 1, open.amount}
	return reservation{ledger: l, user: user}, said
}

// admit counts the request and reserves what it may cost, or says why not. Only
// what is spent refuses for the rest of a window, and what is reserved for a
// moment. A request that fits is let through, and so is the only one under way,
// which may cross a limit: the next is refused then. One that costs no tokens
// needs no room.
func (r *reservation) admit(limits *limits, reserve amount, now time.Time) verdict {
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	said := l.exhausted(r.user, limits, l.clock(now))
	if said.reason != admitted {
		return said
	}
	open := l.held[r.user]
	for i := range limits.per {
		limit := &limits.per[i]
		total := l.spent(limit.slot(said.now), r.user).amount().plus(open.amount).plus(reserve)
		if limit.tokens > 0 && reserve.tokens > 0 && open.tokens > 0 && total.tokens > limit.tokens {
			said.reason, said.limit, said.unit = reserved, limit, "tokens"
			return said
		}
		if limit.cost > 0 && reserve.cost > 0 && open.cost > 0 && total.cost > limit.cost {
			said.reason, said.limit, said.unit = reserved, limit, "cost"
			return said
		}
	}
	r.amount = reserve
	l.held[r.user] = held{open.requests, open.amount.plus(reserve)}
	l.book(r.user, "", Spent{Requests: 1}, said.now)
	return said
}

// exhausted finds the limit that a caller has reached: of several, the one
// that lasts longest.
func (l *ledger) exhausted(user string, limits *limits, now time.Time) verdict {
	said := verdict{now: now}
	for i := range limits.per {
		limit := &limits.per[i]
		spent, unit := l.spent(limit.slot(now), user), ""
		switch {
		case limit.tokens > 0 && spent.Tokens() >= limit.tokens:
			unit = "tokens"
		case limit.cost > 0 && spent.Costs() >= limit.cost:
			unit = "cost"
		case limit.requests > 0 && spent.Calls() >= limit.requests:
			unit = "requests"
		default:
			continue
		}
		if resets := limit.window.end(limit.window.start(now)); resets.After(said.resets) {
			said = verdict{exhausted, limit, unit, now, resets}
		}
	}
	return said
}

// spent is what a caller has spent in a window, as far as it is known here.
func (l *ledger) spent(s slot, user string) Spent {
	return l.own[s][user].plus(l.elsewhere[s][user])
}

// book adds to what a caller has spent, in every window that is counted, and to
// what of it went to a model, if one is named.
func (l *ledger) book(user, model string, cost Spent, now time.Time) {
	if model != "" {
		model = user + modelMark + model
	}
	for w := range l.windows {
		s := w.slot(now)
		mine := l.own[s]
		if mine == nil {
			mine = make(spending)
			l.own[s] = mine
		}
		mine[user] = mine[user].plus(cost)
		if model != "" {
			modelsCost := cost
			modelsCost.Requests = 1
			mine[model] = mine[model].plus(modelsCost)
		}
		l.dirty[s] = true
	}
}

// reservation is a request under way.
type reservation struct {
	ledger *ledger
	user   string
	amount
	ended bool
}

// book books what the request has cost, in place of what was reserved. The
// request is still under way until end.
func (r *reservation) book(model string, cost Spent, now time.Time) {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	r.release(0)
	r.ledger.book(r.user, model, cost, r.ledger.clock(now))
}

// end frees the request's place.
func (r *reservation) end() {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	if !r.ended {
		r.release(1)
		r.ended = true
	}
}

// bookReserved books what is reserved for the requests under way, and no more
// of them: what they book later is paid already.
func (l *ledger) bookReserved(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now = l.clock(now)
	for user, open := range l.held {
		if open.amount == (amount{}) {
			continue // they cost nothing, or have been booked
		}
		cost := Spent{Output: open.tokens, Estimated: open.tokens, Cost: open.cost}
		l.book(user, "", cost, now)
		l.book(user+modelMark+"unknown", "", cost, now)
	}
	clear(l.windows)
}

func (r *reservation) release(requests int) {
	open := r.ledger.held[r.user]
	open = held{open.requests - requests, open.amount.minus(r.amount)}
	r.amount = amount{}
	if open == (held{}) {
		delete(r.ledger.held, r.user)
		return
	}
	r.ledger.held[r.user] = open
}

// forgive takes off what a caller has spent in the present windows.
func (l *ledger) forgive(user string, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now = l.clock(now)
	maps.DeleteFunc(l.noted, func(k noteKey, _ int) bool { return k.user == user })
	for w := range l.windows {
		spent := l.spent(w.slot(now), user)
		if l.own[w.slot(now)] == nil {
			l.own[w.slot(now)] = make(spending)
		}
		mine := l.own[w.slot(now)][user]
		mine.ForgivenRequests += spent.Calls()
		mine.ForgivenTokens += spent.Tokens()
		mine.ForgivenCost += spent.Costs()
		l.own[w.slot(now)][user] = mine
		l.dirty[w.slot(now)] = true
	}
}

// users are all who have spent something in the present windows, or do.
func (l *ledger) users(now time.Time) map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	now = l.clock(now)
	found := make(map[string]bool)
	for user := range l.held {
		found[user] = true
	}
	for w := range l.windows {
		for _, spent := range []spending{l.own[w.slot(now)], l.elsewhere[w.slot(now)]} {
			for key := range spent {
				if _, _, ofModel := strings.Cut(key, modelMark); !ofModel {
					found[key] = true
				}
			}
		}
	}
	return found
}

// standing is how a caller stands: what is spent in a window, and what is held.
func (l *ledger) standing(user string, w window, now time.Time) (Spent, held, slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s := w.slot(l.clock(now))
	return l.spent(s, user), l.held[user], s
}

// join says by which windows a config counts. Until it leaves, they are counted
// beside those of others: of a config that it replaces, or that goes on because
// this one cannot be used.
func (l *ledger) join(windows []window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range windows {
		l.windows[w]++
	}
}

// leave says that a config has ended.
func (l *ledger) leave(windows []window) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, w := range windows {
		if l.windows[w]--; l.windows[w] == 0 {
			delete(l.windows, w)
		}
	}
}

// counted are the windows by which is counted, the shortest first.
func (l *ledger) counted() []window {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.SortedFunc(maps.Keys(l.windows), func(a, b window) int { return cmp.Compare(a.order(), b.order()) })
}

// isIdle reports whether no request is under way.
func (l *ledger) isIdle() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held) == 0
}

// unsaved are the own windows that the storage does not have as they are.
func (l *ledger) unsaved() map[slot]spending {
	l.mu.Lock()
	defer l.mu.Unlock()
	changed := make(map[slot]spending, len(l.dirty))
	for s := range l.dirty {
		changed[s] = maps.Clone(l.own[s])
	}
	clear(l.dirty)
	return changed
}

// stale says that the storage does not have an own window as it is.
func (l *ledger) stale(s slot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.own[s] != nil {
		l.dirty[s] = true
	}
}

// learn takes over what the storage has of others, by its keys. A number that
// has become less, because a file was put back or taken away, stays as it was,
// and is returned for the storage to have it again.
func (l *ledger) learn(found map[string]found, now time.Time) (lost map[string]spending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, f := range found {
		known := l.read[key]
		if known == nil {
			known = make(spending)
			l.read[key] = known
		}
		for user, spent := range f.spending {
			more := known[user].most(spent)
			if l.elsewhere[f.slot] == nil {
				l.elsewhere[f.slot] = make(spending)
			}
			l.elsewhere[f.slot][user] = l.elsewhere[f.slot][user].plus(more.minus(known[user]))
			known[user] = more
		}
	}
	l.forgetEnded(l.clock(now))
	lost = make(map[string]spending)
	for key, known := range l.read {
		if !maps.Equal(known, found[key].spending) {
			lost[key] = maps.Clone(known)
		}
	}
	return lost
}

// forgetEnded drops the windows that nobody needs.
func (l *ledger) forgetEnded(now time.Time) {
	maps.DeleteFunc(l.elsewhere, func(s slot, _ spending) bool { return s.isOver(now) })
	maps.DeleteFunc(l.own, func(s slot, _ spending) bool { return s.isOver(now) && !l.dirty[s] })
	maps.DeleteFunc(l.read, func(key string, _ spending) bool {
		s, _, ok := parseKey(key)
		return !ok || s.isOver(now)
	})
	maps.DeleteFunc(l.noted, func(k noteKey, _ int) bool { return k.slot.isOver(now) })
}

// compare looks for own windows that the storage does not have as they are.
func (l *ledger) compare(saved map[slot]spending) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for s, spent := range l.own {
		if !maps.Equal(spent, saved[s]) {
			l.dirty[s] = true
		}
	}
}
