package backoff

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// begin begins a request that must be let through.
func begin(t *testing.T, b *Backoff) Try {
	t.Helper()
	try, ok := b.Begin()
	if !ok {
		t.Fatal("a request is held back")
	}
	return try
}

// held fails the test if a request is let through.
func held(t *testing.T, b *Backoff) {
	t.Helper()
	if _, ok := b.Begin(); ok {
		t.Fatal("a request is let through")
	}
}

// refused has a try refused, which must begin a wait.
func refused(t *testing.T, b *Backoff, try Try, want time.Duration) {
	t.Helper()
	if wait, began := b.Refused(try); !began || wait != want {
		t.Fatalf("a wait of %v, began: %v; want one of %v", wait, began, want)
	}
}

func TestACredentialThatWasNeverRefusedIsHeldBackNever(t *testing.T) {
	var b Backoff
	for range 3 {
		b.Accepted(begin(t, &b))
	}
}

func TestADeadCredentialIsTriedOnceForEachWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Backoff
		for _, wait := range []time.Duration{1, 2, 4, 8, 16, 32, 60, 60, 60} {
			wait *= time.Second
			refused(t, &b, begin(t, &b), wait)
			held(t, &b)
			time.Sleep(wait - time.Nanosecond)
			held(t, &b)
			time.Sleep(time.Nanosecond)
		}
	})
}

func TestOneRefusalOfManyTogetherCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Backoff
		tries := []Try{begin(t, &b), begin(t, &b), begin(t, &b)}
		refused(t, &b, tries[0], First)
		for _, try := range tries[1:] {
			if _, began := b.Refused(try); began {
				t.Error("a second wait begins")
			}
		}
		b.Accepted(tries[1]) // it was begun before the refusal, and says nothing of what holds now
		held(t, &b)
	})
}

func TestOneOfManyIsTheNextTry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Backoff
		refused(t, &b, begin(t, &b), First)
		time.Sleep(First)
		var through atomic.Int32
		var wait sync.WaitGroup
		for range 50 {
			wait.Go(func() {
				if _, ok := b.Begin(); ok {
					through.Add(1)
				}
			})
		}
		wait.Wait()
		if n := through.Load(); n != 1 {
			t.Errorf("%d requests are let through", n)
		}
	})
}

func TestACredentialThatIsTakenAgainIsHeldBackNoLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Backoff
		refused(t, &b, begin(t, &b), First)
		time.Sleep(First)
		refused(t, &b, begin(t, &b), 2*First)
		time.Sleep(2 * First)
		b.Accepted(begin(t, &b))
		begin(t, &b)
		refused(t, &b, begin(t, &b), First) // and the next wait is the first again
	})
}

// A slow upstream's answer comes when another request has been let through.
func TestALateAnswerCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Backoff
		refused(t, &b, begin(t, &b), First)
		time.Sleep(First)
		late := begin(t, &b)
		held(t, &b)
		time.Sleep(First)
		second := begin(t, &b)
		b.Accepted(late)
		begin(t, &b)
		refused(t, &b, second, First)
	})
}

func TestAnotherCredentialIsNotHeldBack(t *testing.T) {
	var b Backoff
	old := begin(t, &b)
	refused(t, &b, begin(t, &b), First)
	b.Reset()
	next := begin(t, &b)
	if _, began := b.Refused(old); began {
		t.Error("a refusal of the former credential begins a wait")
	}
	b.Accepted(next)
	begin(t, &b)
}

func TestAskingWhetherATryIsDueIsNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var b Backoff
		want := func(ready bool) {
			t.Helper()
			if b.Ready() != ready {
				t.Errorf("ready: %v, want %v", !ready, ready)
			}
		}
		want(true)
		refused(t, &b, begin(t, &b), First)
		want(false)
		time.Sleep(First)
		want(true)
		want(true)
		try := begin(t, &b)
		want(false) // one is under way
		b.Accepted(try)
		want(true)
	})
}
