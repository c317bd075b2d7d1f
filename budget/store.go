package budget

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
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

	// storageTimeout is how long one operation may take. One that hangs longer
	// is not waited for; the next begins when it has ended.
	storageTimeout = 10 * time.Second

	// maxValue is the length of a value beyond which no budget has written it.
	maxValue = 16 << 20
)

// book is a ledger with its place in the storage. It lives as long as a config
// has this budget with this storage.
type book struct {
	*ledger
	storage certmagic.Storage
	name    string
	launch  string
	logger  *zap.Logger

	work   chan struct{} // holds one value while something is saved or read
	stop   context.CancelFunc
	done   chan struct{}
	failed bool // the last attempt; so that an outage is logged once
}

func (b *book) folder() string { return "responses_budget/" + b.name + ".budget" }

func (b *book) key(s slot) string {
	return fmt.Sprintf("%s/%s.%d.%s.json", b.folder(), s.window, s.start, b.launch)
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

// openBook reads what the storage has. Without that, nobody knows what is
// spent, so nothing starts.
func openBook(storage certmagic.Storage, name string, logger *zap.Logger) (*book, error) {
	b := &book{ledger: newLedger(), storage: storage, name: name, launch: rand.Text(), logger: logger, work: make(chan struct{}, 1), done: make(chan struct{})}
	ctx, stop := context.WithCancel(context.Background())
	b.stop = stop
	err := within(ctx, b.readAll)
	if err != nil {
		stop()
		return nil, fmt.Errorf("the storage does not say what is spent already: %w", err)
	}
	go b.keep(ctx)
	return b, nil
}

// keep saves and reads, until the context ends.
func (b *book) keep(ctx context.Context) {
	defer close(b.done)
	save, read := time.NewTicker(saveInterval), time.NewTicker(readInterval)
	defer save.Stop()
	defer read.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-save.C:
			b.report(within(ctx, b.saveChanged))
		case <-read.C:
			b.report(within(ctx, b.readAll))
		}
	}
}

// Destruct saves for the last time. It is what caddy.UsagePool calls when no
// config has this budget any more.
func (b *book) Destruct() error {
	b.stop()
	<-b.done
	return within(context.Background(), b.saveChanged)
}

// report logs the first failure of several, and the end of them.
func (b *book) report(err error) {
	switch {
	case errors.Is(err, context.Canceled):
	case err != nil && !b.failed:
		b.failed = true
		b.logger.Error("the storage does not take or tell what is spent; this process goes on with what it knows, and tries again",
			zap.String("budget", b.name), zap.Error(err))
	case err == nil && b.failed:
		b.failed = false
		b.logger.Info("the storage takes and tells what is spent again", zap.String("budget", b.name))
	}
}

// within runs an operation of the storage and does not wait for one that hangs
// where no context reaches it.
func within(ctx context.Context, operation func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, storageTimeout)
	done := make(chan error, 1)
	go func() {
		defer cancel()
		done <- operation(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		select {
		case err := <-done: // (it has ended, too)
			return err
		default:
			return ctx.Err()
		}
	}
}

var errHangs = errors.New("the operation before has not ended")

// saveChanged writes the own windows that have changed.
func (b *book) saveChanged(ctx context.Context) error {
	select {
	case b.work <- struct{}{}:
		defer func() { <-b.work }()
	case <-ctx.Done():
		return errHangs
	}
	var errs []error
	for s, spent := range b.unsaved() {
		value, err := json.Marshal(spent)
		if err == nil {
			err = b.storage.Store(ctx, b.key(s), value)
		}
		if err != nil {
			b.stale(s)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// readAll reads what others have written, and deletes what nobody needs. What
// the storage does not have of one's own, because somebody emptied it or put
// an older state back, is written again.
func (b *book) readAll(ctx context.Context) error {
	select {
	case b.work <- struct{}{}:
		defer func() { <-b.work }()
	case <-ctx.Done():
		return errHangs
	}
	keys, err := b.storage.List(ctx, b.folder(), false)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	now := time.Now()
	others := make(map[string]found)
	saved := make(map[slot]spending)
	var errs []error
	for _, key := range keys {
		s, launch, ok := parseKey(key)
		if !ok {
			continue // (a file that a storage is about to put in place)
		}
		if s.isOver(now) {
			errs = append(errs, b.storage.Delete(ctx, key))
			continue
		}
		spent, err := b.load(ctx, key)
		switch {
		case errors.Is(err, fs.ErrNotExist): // deleted meanwhile
		case err != nil:
			errs = append(errs, fmt.Errorf("%s: %w", key, err))
		case launch == b.launch:
			saved[s] = spent
		default:
			others[key] = found{s, spent}
		}
	}
	b.learn(others, now)
	b.compare(saved)
	return errors.Join(errs...)
}

// load reads one value.
func (b *book) load(ctx context.Context, key string) (spending, error) {
	value, err := b.storage.Load(ctx, key)
	if err != nil {
		return nil, err
	}
	var spent spending
	if len(value) > maxValue {
		return nil, errors.New("it is longer than what a budget writes")
	}
	if err := json.Unmarshal(value, &spent); err != nil {
		return nil, err
	}
	for _, s := range spent {
		if !s.valid() {
			return nil, errors.New("it has a negative number, which no budget writes")
		}
	}
	return spent, nil
}

// identify tells storages apart, by their place and not by their value: each
// config has a value of its own.
func identify(storage certmagic.Storage) string {
	if described, ok := storage.(fmt.Stringer); ok {
		return fmt.Sprintf("%T %s", storage, described)
	}
	return fmt.Sprintf("%T %p", storage, storage)
}

// checkStorage refuses a folder in which other users can change what is
// counted, as far as that can be told from here.
func checkStorage(storage certmagic.Storage) error {
	return nil
}
