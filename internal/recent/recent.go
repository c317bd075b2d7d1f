// Package recent keeps the last few entries of each kind, in bounded memory: a
// flood of one kind does not push out the others.
package recent

import (
	"slices"
	"sync"
	"time"
)

// PerKind is how many entries of one kind are kept.
const PerKind = 20

// Entries are the last entries of each kind. There must be a bounded number of
// kinds. The zero value is empty. It may be used by many goroutines.
type Entries[T any] struct {
	mu     sync.Mutex
	byKind map[string][]entry[T]
}

type entry[T any] struct {
	at   time.Time
	what T
}

// Add keeps an entry, and forgets the oldest of its kind if there are too many.
func (e *Entries[T]) Add(kind string, at time.Time, what T) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.byKind == nil {
		e.byKind = make(map[string][]entry[T])
	}
	kept := e.byKind[kind]
	if len(kept) == PerKind {
		copy(kept, kept[1:])
		kept = kept[:PerKind-1]
	}
	e.byKind[kind] = append(kept, entry[T]{at, what})
}

// All are the entries that are kept, the oldest first.
func (e *Entries[T]) All() []T {
	e.mu.Lock()
	var kept []entry[T]
	for _, ofKind := range e.byKind {
		kept = append(kept, ofKind...)
	}
	e.mu.Unlock()
	slices.SortStableFunc(kept, func(a, b entry[T]) int { return a.at.Compare(b.at) })
	all := make([]T, 0, len(kept))
	for _, k := range kept {
		all = append(all, k.what)
	}
	return all
}
