package budget

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/storage"
)

// A budget is in Caddy's storage as a counter that only grows, with one key for
// each launch and window, which that launch alone writes: so there are no
// locks, nothing that two replicas could undo for each other, and the sum is
// right whatever comes first. The launch is a random text, because replicas
// on one folder share Caddy's own instance id.
//
//	responses_budget/<name>.budget/<window>.<start>.<launch>.json

const (
	saveInterval = 2 * time.Second
	readInterval = 5 * time.Second

	// roundTimeout is how long it may take to save or to read everything, and
	// keyTimeout how long one key may take. A call that hangs longer is not
	// waited for, and not made again until it has come back.
	roundTimeout = 10 * time.Second
	keyTimeout   = 2 * time.Second

	// endTimeout is how long the end of the last config waits for requests
	// that were cut off, so that they are counted.
	endTimeout = 2 * time.Second

	// maxLoads is how many keys are read at a time.
	maxLoads = 16

	// maxValue is the length of a value beyond which no budget has written it.
	maxValue = 16 << 20
)

// book is a ledger with its place in the storage. It lives as long as a config
// has this budget with this storage.
type book struct {
	*ledger
	storage *storage.Storage
	name    string
	launch  string
	logger  *zap.Logger

	handlersMu sync.Mutex
	handlers   []*Handler // of the configs that have this budget, the newest last

	before readBefore // readAll's alone

	stop   chan struct{}
	done   chan struct{}
	failed bool // the last attempt; so that an outage is logged once
}

func folderOf(name string) string { return "responses_budget/" + name + ".budget" }

func (b *book) key(s slot) string {
	return fmt.Sprintf("%s/%s.%d.%s.json", folderOf(b.name), s.window, s.start, b.launch)
}

// parseKey is the slot and the launch of a key.
func parseKey(key string) (s slot, launch string, ok bool) {
	parts := strings.Split(key[strings.LastIndexByte(key, '/')+1:], ".")
	if len(parts) != 4 || parts[3] != "json" {
		return slot{}, "", false
	}
	start, err := strconv.ParseInt(parts[1], 10, 64)
	return slot{parts[0], start}, parts[2], err == nil
}

// found is a value of the storage.
type found struct {
	slot     slot
	spending spending
}

// readBefore is what was read last, and the states in which it need not be read
// again. Most records are of launches that have ended.
type readBefore struct {
	values map[string]found
	states map[string]storage.State
}

// openBook reads what the storage has. Without that, nobody knows what is
// spent, so nothing starts.
func openBook(of certmagic.Storage, name string, logger *zap.Logger) (*book, error) {
	b := &book{
		ledger: newLedger(), storage: storage.New(of), name: name, launch: rand.Text(), logger: logger,
		stop: make(chan struct{}), done: make(chan struct{}),
	}
	// (Without the check here, files that others could write would be read.)
	if err := b.storage.CheckWritable(folderOf(name) + "/x.0.x.json"); err != nil {
		return nil, fmt.Errorf("others could change what is counted in the storage, or this process could not: %w", err)
	}
	if err := b.readAll(); err != nil {
		return nil, fmt.Errorf("the storage does not say what is spent already: %w; see that it can be reached, and remove a record that is damaged (what it counts is forgotten then)", err)
	}
	go b.keep()
	return b, nil
}

// keep saves and reads, until it is told to stop.
func (b *book) keep() {
	defer close(b.done)
	save, read := time.NewTicker(saveInterval), time.NewTicker(readInterval)
	defer save.Stop()
	defer read.Stop()
	for {
		select {
		case <-b.stop:
			return
		case <-save.C:
			b.report(b.saveChanged())
		case <-read.C:
			b.report(b.readAll())
		}
	}
}

// Destruct saves for the last time. It is what caddy.UsagePool calls when no
// config has this budget any more. Requests that were cut off end a moment
// later than the server. Those that go on, as after a reload, are charged what
// is reserved for them: nobody is there to count them later.
func (b *book) Destruct() error {
	close(b.stop)
	<-b.done
	for began := time.Now(); !b.isIdle() && time.Since(began) < endTimeout; {
		time.Sleep(10 * time.Millisecond)
	}
	b.bookReserved(time.Now())
	return b.saveChanged()
}

// report logs the first failure of several, and the end of them.
func (b *book) report(err error) {
	switch {
	case err != nil && !b.failed:
		b.failed = true
		b.logger.Error("the storage does not take or tell what is spent; this process goes on with what it knows, and tries again",
			zap.String("budget", b.name), zap.Error(err))
	case err == nil && b.failed:
		b.failed = false
		b.logger.Info("the storage takes and tells what is spent again", zap.String("budget", b.name))
	}
}

// saveChanged writes the own windows that have changed.
func (b *book) saveChanged() error {
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	var errs []error
	for s, spent := range b.unsaved() {
		if err := b.save(ctx, b.key(s), spent); err != nil {
			b.stale(s)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// save writes one value.
func (b *book) save(ctx context.Context, key string, spent spending) error {
	value, err := json.Marshal(spent)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	if err := b.storage.Put(ctx, key, value); err != nil {
		return fmt.Errorf("%s: %w", key, err)
	}
	return nil
}

// readAll reads what others have written, and deletes what nobody needs. What
// the storage no longer has as it was, because somebody emptied it or put an
// older state back, is written again: one's own, and what is known of others,
// who may have ended.
func (b *book) readAll() error {
	ctx, cancel := context.WithTimeout(context.Background(), roundTimeout)
	defer cancel()
	keys, err := b.storage.Names(ctx, folderOf(b.name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now := time.Now()
	errs := b.removeEnded(ctx, keys, now)
	values, unread, failures := b.loadAll(ctx, keys, now)
	saved, others := make(map[slot]spending), make(map[string]found)
	for key, value := range values {
		if _, launch, _ := parseKey(key); launch == b.launch {
			saved[value.slot] = value.spending
		} else {
			others[key] = value
		}
	}
	for key, spent := range b.learn(others, now) {
		if !unread[key] {
			errs = append(errs, b.save(ctx, key, spent))
		}
	}
	b.compare(saved)
	return errors.Join(append(errs, failures...)...)
}

// removeEnded deletes the windows that nobody needs.
func (b *book) removeEnded(ctx context.Context, keys []string, now time.Time) (errs []error) {
	for _, key := range keys {
		if s, _, ok := parseKey(key); ok && s.isOver(now) {
			ctx, cancel := context.WithTimeout(ctx, keyTimeout)
			if err := b.storage.Drop(ctx, key); err != nil && !errors.Is(err, fs.ErrNotExist) {
				errs = append(errs, fmt.Errorf("%s: %w", key, err))
			}
			cancel()
		}
	}
	return errs
}

// loadAll loads the values of windows that count. Those that are there and
// could not be read are unread; of those that are damaged, the same process's
// memory may have what was in them.
func (b *book) loadAll(ctx context.Context, keys []string, now time.Time) (values map[string]found, unread map[string]bool, errs []error) {
	var (
		group sync.WaitGroup
		mu    sync.Mutex
		slots = make(chan struct{}, maxLoads)
	)
	values, unread = make(map[string]found), make(map[string]bool)
	states := make(map[string]storage.State)
	same, err := b.storage.AsTheyWere(ctx, b.before.states)
	if err != nil {
		errs = append(errs, err)
	}
	for _, key := range keys {
		s, _, ok := parseKey(key)
		if !ok || s.isOver(now) {
			continue // (or a file that a storage is about to put in place)
		}
		if same[key] {
			mu.Lock()
			values[key], states[key] = b.before.values[key], b.before.states[key]
			mu.Unlock()
			continue
		}
		slots <- struct{}{}
		group.Go(func() {
			defer func() { <-slots }()
			spent, state, err := b.load(ctx, key)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
			case err != nil:
				unread[key] = !errors.Is(err, errDamaged)
				errs = append(errs, fmt.Errorf("%s: %w", key, err))
			default:
				values[key] = found{s, spent}
				if state != (storage.State{}) {
					states[key] = state
				}
			}
		})
	}
	group.Wait()
	b.before = readBefore{values, states}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return values, unread, errs
}

// errDamaged says that a value is none that a budget writes.
var errDamaged = errors.New("the record is damaged")

// load reads one value.
func (b *book) load(ctx context.Context, key string) (spending, storage.State, error) {
	ctx, cancel := context.WithTimeout(ctx, keyTimeout)
	defer cancel()
	value, state, err := b.storage.Read(ctx, key, maxValue)
	if err != nil {
		return nil, state, err
	}
	var spent spending
	if len(value) > maxValue {
		return nil, state, fmt.Errorf("%w: it has more than %d bytes", errDamaged, maxValue)
	}
	if err := json.Unmarshal(value, &spent); err != nil {
		return nil, state, fmt.Errorf("%w: %w", errDamaged, err)
	}
	for _, s := range spent {
		if !s.valid() {
			return nil, state, fmt.Errorf("%w: it has a number that no budget writes", errDamaged)
		}
	}
	return spent, state, nil
}
