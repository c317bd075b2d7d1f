package backoff

import (
	"testing"
	"testing/synctest"
	"time"
)

// asks sends a caller's request and reports whether it was let through.
func (s *Shared) asks(caller string, accepted bool) bool {
	try, ok := s.Begin(caller)
	switch {
	case !ok:
		return false
	case accepted:
		s.Accepted(try)
	default:
		s.Refused(try)
	}
	return true
}

func TestWhoIsRefusedAloneHoldsTheOthersBackOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Shared
		refused, held := 0, 0
		for range 100 { // ten seconds
			if s.asks("bad", false) {
				refused++
			}
			if !s.asks("good", true) {
				held++
			}
			time.Sleep(100 * time.Millisecond)
		}
		if held != 10 {
			t.Errorf("the other caller was held back %d times; want 10, in the first second", held)
		}
		if refused > 4 {
			t.Errorf("%d requests of the one were sent; want those after 0, 2 and 4 seconds at most", refused)
		}
	})
}

func TestACredentialThatIsDeadForAllIsTriedOnceForEachWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Shared
		tries := 0
		for range 1270 { // 127 seconds
			for _, caller := range []string{"a", "b"} {
				if s.asks(caller, false) {
					tries++
				}
			}
			time.Sleep(100 * time.Millisecond)
		}
		if tries != 8 { // at 0, 1, 3, 7, 15, 31, 63 and 123 seconds
			t.Errorf("%d tries; want 8", tries)
		}
	})
}

func TestWhoAsksAloneIsNotHeldBackLonger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Shared
		for _, wait := range []time.Duration{1, 2, 4} {
			if !s.asks("a", false) || s.asks("a", false) {
				t.Fatal("not one try for the wait")
			}
			time.Sleep(wait * time.Second)
		}
	})
}

func TestWhoWasRefusedLeavesTheNextTryToTheOthersIfTheyCome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Shared
		s.asks("a", false)
		if s.asks("b", true) {
			t.Error("a wait was not begun")
		}
		time.Sleep(time.Second)
		if s.asks("a", true) {
			t.Error("who was refused has the next try")
		}
		time.Sleep(time.Second)
		if !s.asks("a", true) {
			t.Error("the other does not come, and nobody has the try")
		}
	})
}

func TestAnotherCredentialIsTriedByAll(t *testing.T) {
	var s Shared
	s.asks("bad", false)
	s.Reset()
	if !s.asks("bad", true) || !s.asks("good", true) || !s.Ready() {
		t.Error("a caller is held back")
	}
}
