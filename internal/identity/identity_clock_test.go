package identity

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// setWall has the wall clock say another time than the monotonic one.
func (w *workload) setWall(by time.Duration) {
	w.wall = func() time.Time { return time.Now().Round(0).Add(by) }
}

// The monotonic clock stands still while the machine sleeps.
func TestAMachineThatHasSleptOverTheEndExchangesOnceBeforeItServes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		w := newWorkload(t, i)
		end := w.begin()
		w.uses(t, i)
		end() // the machine sleeps
		for token := range i.ends {
			i.ends[token] = time.Now()
		}
		w.setWall(2 * time.Hour)
		w.ended = make(chan struct{})
		defer w.begin()()
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() { w.uses(t, i) })
		}
		all.Wait()
		if n := i.exchanges(); n != 2 {
			t.Errorf("%d exchanges", n)
		}
	})
}

func TestAWallClockThatIsSetForwardTakesNoTokenAwayInAnOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		w := newWorkload(t, i)
		w.setWall(-50 * 365 * 24 * time.Hour)
		end := w.begin()
		w.uses(t, i)
		end()
		w.setWall(0) // as by NTP, soon after boot
		w.ended = make(chan struct{})
		defer w.begin()()
		i.fail(down)
		w.uses(t, i)
		i.fail(nil)
		time.Sleep(time.Minute)
		w.uses(t, i)
		if left := w.Status().Left; left < 50*time.Minute {
			t.Errorf("the token lives for %v more", left)
		}
	})
}

func TestAWallClockThatIsSetBackKeepsNoEndedToken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		i := newIssuer(time.Hour)
		w := newWorkload(t, i)
		end := w.begin()
		w.uses(t, i)
		end()
		w.setWall(-24 * time.Hour)
		w.ended = make(chan struct{})
		defer w.begin()()
		for range 100 {
			time.Sleep(time.Minute)
			w.uses(t, i)
		}
	})
}
