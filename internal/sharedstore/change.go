package sharedstore

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Why a change is not made, or not known to be.
var (
	ErrChangedAtOnce = errors.New("the client was changed from elsewhere at the same moment, and that change won; look, and make this one again if it is still needed")
	ErrSlow          = fmt.Errorf("the storage took more than %v, and the client's lock does not last; try again", LockUse)
)

// OutageError says that the storage did not do what a change needed.
type OutageError struct {
	Err    error
	Saving bool // it may have been saved all the same
}

func (e *OutageError) Error() string {
	if e.Saving {
		return fmt.Sprintf("the storage: %v. Whether the change was saved is not certain; make it again when the storage answers", e.Err)
	}
	return fmt.Sprintf("the storage: %v. Nothing was changed", e.Err)
}

func (e *OutageError) Unwrap() error { return e.Err }

// Change reads a client's record, has it edited and saves it. Errors of decide
// come back as they are, those of the storage as OutageError.
func (s *Store) Change(ctx context.Context, client string, decide func(*Record, time.Time) (*Record, error)) (saved *Record, mark string, err error) {
	began := time.Now()
	now := began.UTC().Round(0) // by the wall clock, as other replicas have it
	ctx, cancel := context.WithTimeout(ctx, LockUse)
	defer cancel()
	current, damage := s.Load(ctx, client)
	if damage != nil {
		current = new(Record) // there is one; that is all one can say
	}
	next, err := decide(current, now)
	if err == nil && next != nil && damage != nil {
		err = fmt.Errorf("%w; remove the client, and add it again", damage)
	}
	if err != nil {
		return nil, "", err
	}
	if time.Since(began) > LockUse {
		return nil, "", ErrSlow
	}
	if mark, err = s.save(ctx, client, next); err != nil {
		return nil, "", &OutageError{Err: err, Saving: true}
	}
	saved, err = s.Load(ctx, client)
	switch {
	case err != nil:
		return nil, "", &OutageError{Err: err, Saving: true}
	case (saved == nil) != (next == nil) || saved != nil && !saved.saysAs(next):
		return nil, "", ErrChangedAtOnce
	}
	return saved, mark, nil
}
