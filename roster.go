package responsesproxygate

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/storage"
	"go.uber.org/zap"
)

// roster is what a gate knows of the clients that it shares with other replicas.
type roster struct {
	gate    string
	known   atomic.Pointer[sharedList] // nil: nothing yet, so nobody passes
	wake    chan struct{}              // something is due earlier than planned
	stop    context.CancelFunc
	stopped chan struct{} // closed when the loop has ended

	mu       sync.Mutex
	configs  map[configID]*rosterConfig
	current  *rosterConfig // the one that holds
	changes  uint64        // made here, so that what was read before one is not taken for news
	lastRead time.Time     // when the storage last had what is known
	trouble  string        // what kind of trouble was logged; "" is none
	failure  error         // the trouble as it is now
	ignored  map[string]bool
}

// sharedList is what is known of the shared clients. It is replaced as a whole.
type sharedList struct {
	mark    string // of the storage's last change that is in it; "" has all be read again
	again   bool   // all is to be read again, although it has the mark
	existed bool   // there has been a mark, so there must be one
	read    time.Time
	clients []*configuredCaller            // by name
	tokens  map[indexKey]*configuredCaller // whose they are
	records map[string]*sharedstore.Record
}

// join adds a config. It holds at once if there is no other, and otherwise once
// it is started.
func (f *roster) join(ctx context.Context, config configID, c *rosterConfig) {
	f.mu.Lock()
	former := f.current
	f.mu.Unlock()
	if former == nil || former.store.Identity != c.store.Identity {
		// Known before the first request comes, in which a client of long
		// standing would be refused.
		first := <-c.store.ReadApart(ctx, "")
		c.first = &first
	} else {
		c.store.Continue(former.store)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.configs[config] = c
	if f.current == nil {
		f.useLocked(c)
	}
}

func newRoster(gate string) *roster {
	ctx, stop := context.WithCancel(context.Background())
	f := &roster{
		gate: gate, wake: make(chan struct{}, 1), stop: stop, stopped: make(chan struct{}),
		configs: make(map[configID]*rosterConfig), ignored: make(map[string]bool),
	}
	go f.run(ctx)
	return f
}

// start makes a config the one that holds.
func (f *roster) start(config configID) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.useLocked(f.configs[config])
}

// useLocked makes a config the one that holds. If its storage is another than
// before, nothing that was known counts any more.
func (f *roster) useLocked(c *rosterConfig) {
	if c == f.current {
		return
	}
	former := f.current
	f.current = c
	if former == nil || former.store.Identity != c.store.Identity {
		f.trouble, f.failure, f.lastRead = "", nil, time.Time{}
		if former != nil {
			f.replaceLocked(nil)
		}
		if c.first != nil {
			f.takeLocked(*c.first)
		}
	}
	f.nudge()
}

// nudge makes the loop look at what is due.
func (f *roster) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Destruct implements caddy.Destructor: no config has shared clients in this
// gate any more, or Caddy exits.
func (f *roster) Destruct() error {
	f.stop()
	if list := f.known.Load(); list != nil {
		for _, c := range list.clients {
			c.gone.Store(true)
			forgetCaller(f.gate, c.name)
		}
	}
	return nil
}

// end ends all sessions.
func (f *roster) end() {
	for _, c := range f.clients() {
		c.sessions.end()
	}
}

// clients are the shared clients as they are known.
func (f *roster) clients() []*configuredCaller {
	if f == nil {
		return nil
	}
	if list := f.known.Load(); list != nil {
		return list.clients
	}
	return nil
}

// has reports whether a shared client of this name is known.
func (f *roster) has(client string) bool {
	if f == nil {
		return false
	}
	list := f.known.Load()
	return list != nil && list.records[client] != nil
}

// clientWith is the shared client that a token may be of; nil for none.
func (f *roster) clientWith(key indexKey) *configuredCaller {
	if f == nil {
		return nil
	}
	if list := f.known.Load(); list != nil {
		return list.tokens[key]
	}
	return nil
}

var errVanished = errors.New("the shared clients are no longer in it; put them back, or restart every replica to begin anew")

// takeLocked makes what was read hold here.
func (f *roster) takeLocked(r sharedstore.Reading) {
	known := f.known.Load()
	switch {
	case r.Err != nil:
		f.troubleLocked("storage", r.Err)
		return
	case !r.Exists && known != nil && known.existed:
		// An unmounted folder looks so, or a database that has lost its data.
		f.troubleLocked("storage", errVanished)
		return
	case r.Same:
		f.troubleLocked("", nil)
		return
	}
	list := &sharedList{mark: r.Mark, existed: r.Exists, read: time.Now(), records: r.Records}
	for client := range r.Damaged {
		list.mark = "" // look again next time
		if known != nil && known.records[client] != nil {
			list.records[client] = known.records[client]
		}
	}
	f.replaceLocked(list)
	if damage := r.Damage(); damage != nil {
		f.troubleLocked("record", damage)
		return
	}
	f.troubleLocked("", nil)
}

// replaceLocked replaces what is known, and ends the sessions of those whose
// access has been taken away.
func (f *roster) replaceLocked(list *sharedList) {
	f.changes++
	former := make(map[string]*configuredCaller)
	for _, c := range f.clients() {
		former[c.name] = c
	}
	var ended []*configuredCaller
	if list != nil {
		list.clients = make([]*configuredCaller, 0, len(list.records))
		list.tokens = make(map[indexKey]*configuredCaller, len(list.records))
		for _, name := range slices.Sorted(maps.Keys(list.records)) {
			record := list.records[name]
			c, lost := f.client(record, former[name])
			list.clients = append(list.clients, c)
			for _, token := range c.ring.tokens() {
				list.tokens[indexKeyOf(token.digest)] = c
			}
			if lost {
				ended = append(ended, c)
			}
			if was := former[name]; was != nil && was.caller == c.caller {
				delete(former, name)
			}
			f.warnOfReservedLocked(name)
		}
	}
	f.known.Store(list)
	for name, c := range former {
		c.gone.Store(true)
		c.sessions.end()
		if (list == nil || list.records[name] == nil) && !f.current.reserved[name] {
			forgetCaller(f.gate, name)
		}
	}
	for _, c := range ended {
		c.sessions.end()
	}
}

// client is a client as its record has it now. What is counted of it, and its
// sessions, are those of before, unless it was removed and added again.
// lost says that a token was taken away from it ahead of its time.
func (f *roster) client(record *sharedstore.Record, former *configuredCaller) (c *configuredCaller, lost bool) {
	if former != nil && former.record == record {
		return former, false
	}
	tokens := acceptedOf(record)
	c = &configuredCaller{name: record.Client, userID: record.Client, ends: record.Expires, record: record}
	if former != nil && former.began.Equal(record.Created) {
		c.caller = former.caller
		for _, token := range former.ring.tokens() {
			is := func(t acceptedToken) bool { return t.digest == token.digest }
			lost = lost || token.usable(time.Now()) && !slices.ContainsFunc(tokens, is)
		}
	} else {
		id := callerID{gate: f.gate, client: record.Client}
		c.caller = &caller{id: id, began: record.Created, metrics: newCallerMetrics(id)}
	}
	if !c.disabled.Swap(record.Disabled) && record.Disabled {
		lost = true
	}
	c.ring.accepted.Store(&tokens)
	return c, lost
}

// acceptedOf are a record's tokens, to compare with.
func acceptedOf(r *sharedstore.Record) []acceptedToken {
	tokens := make([]acceptedToken, 0, len(r.Tokens))
	for _, token := range r.Tokens {
		if digest, err := token.Digest(); err == nil { // (the store has refused others)
			tokens = append(tokens, acceptedToken{digest: digest, until: token.NotAfter})
		}
	}
	return tokens
}

// warnOfReservedLocked says, once, that a client is ignored.
func (f *roster) warnOfReservedLocked(name string) {
	if !f.current.reserved[name] || f.ignored[name] {
		return
	}
	f.ignored[name] = true
	f.current.logger.Warn("a shared client has the name of the gate or of a configured client, which comes first; remove the shared one, or rename the other",
		zap.String("gate", f.gate), zap.String("client", name))
}

// troubleLocked logs the beginning of each outage, once, and its end.
func (f *roster) troubleLocked(kind string, err error) {
	f.failure = err
	if kind != "storage" {
		f.lastRead = time.Now()
	}
	former := f.trouble
	f.trouble = kind
	if kind == former || kind == "record" && former == "storage" { // (most of an outage is over)
		return
	}
	gate := zap.String("gate", f.gate)
	switch {
	case kind == "":
		f.current.logger.Info("the shared clients can be read again", gate)
	case f.known.Load() == nil:
		f.current.logger.Error("the storage's shared clients cannot be read, and none is known: all are refused until it can", gate, zap.Error(err))
	default:
		f.current.logger.Error("the storage's shared clients cannot be read as they should: those that are known pass as before, changes do not get here", gate, zap.Error(err))
	}
}

// run reads the storage again and again, and ends what expires in between.
func (f *roster) run(ctx context.Context) {
	defer close(f.stopped)
	var read storageRead
	for {
		timer := time.NewTimer(time.Until(f.beginRead(ctx, &read)))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-f.wake:
		case content := <-read.content:
			f.endRead(&read, content)
		case <-timer.C:
			f.complainOfHang(&read)
		}
		timer.Stop()
	}
}

// storageRead is the read of the storage that is under way, or else the last one.
type storageRead struct {
	config  *rosterConfig              // whose storage it is
	content <-chan sharedstore.Reading // nil: no read is under way
	began   time.Time
	changes uint64 // made before it
}

// beginRead begins a read if one is due, and says when something is due next.
func (f *roster) beginRead(ctx context.Context, read *storageRead) (due time.Time) {
	f.mu.Lock()
	c, now := f.current, time.Now()
	if c == nil {
		c = &rosterConfig{every: time.Hour}
	}
	if read.config != c && read.config != nil {
		read.content, read.began = nil, time.Time{} // (its goroutine ends by itself)
	}
	if read.content == nil && c.store != nil && !now.Before(read.began.Add(c.every)) {
		*read = storageRead{config: c, content: c.store.ReadApart(ctx, f.sinceLocked(now)), began: now, changes: f.changes}
	}
	f.mu.Unlock()
	switch {
	case c.store == nil:
		due = now.Add(c.every)
	case read.content != nil:
		due = read.began.Add(sharedstore.ReadTimeout)
	default:
		due = read.began.Add(c.every)
	}
	if end := f.endExpired(now); !end.IsZero() && end.Before(due) {
		due = end
	}
	return due
}

// endRead makes what was read hold, unless it is out of date by now.
func (f *roster) endRead(read *storageRead, content sharedstore.Reading) {
	f.mu.Lock()
	defer f.mu.Unlock()
	read.content = nil
	switch {
	case read.config != f.current:
	case read.changes != f.changes:
		read.began = time.Time{} // it may be from before the change: again, at once
	default:
		f.takeLocked(content)
	}
}

// complainOfHang says so if a read takes too long. It stays under way.
func (f *roster) complainOfHang(read *storageRead) {
	if read.content == nil || time.Now().Before(read.began.Add(sharedstore.ReadTimeout)) {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.troubleLocked("storage", storage.ErrHangs)
	read.began = time.Now()
}

// fullReadEvery is how often all is read even if the mark is the same: for
// what was changed by other means, or by a process that was killed before it
// could say so.
const fullReadEvery = time.Minute

// sinceLocked is the mark of what is known; "" is for all to be read.
func (f *roster) sinceLocked(now time.Time) string {
	known := f.known.Load()
	if known == nil || known.again || known.isOld(now) {
		return ""
	}
	return known.mark
}

// isOld reports whether all is to be read again.
func (l *sharedList) isOld(now time.Time) bool { return now.Sub(l.read) >= fullReadEvery }

// endExpired ends the sessions of clients whose access has expired, and tells
// when the next one's does. Whether a request passes does not depend on it.
func (f *roster) endExpired(now time.Time) (next time.Time) {
	for _, c := range f.clients() {
		switch {
		case c.ends.IsZero():
		case !now.Before(c.ends):
			c.sessions.end()
		case next.IsZero() || c.ends.Before(next):
			next = c.ends
		}
	}
	return next
}

// Interface guard
var _ caddy.Destructor = (*roster)(nil)
