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

func TestWhoIsRefusedAloneHoldsNobodyElseBack(t *testing.T) {
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
		if held != 0 {
			t.Errorf("the other caller was held back %d times", held)
		}
		if refused != 4 {
			t.Errorf("%d requests of the one were sent; want those after 0, 1, 3 and 7 seconds", refused)
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
		if tries != 8 { // of both at once, and after 2, 6, 14, 30, 62 and 122 seconds
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
		s.asks("b", false)
		s.asks("a", false)
		if s.asks("b", true) {
			t.Error("a wait was not begun")
		}
		time.Sleep(2 * time.Second)
		if s.asks("a", true) {
			t.Error("who was refused last has the next try")
		}
		time.Sleep(leaveFor)
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

// Answers can take longer than waits.
func TestWhoIsRefusedAgainAndAgainMeanwhileHoldsNobodyElseBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Shared
		s.asks("bad", false)
		good, ok := s.Begin("good")
		for range 100 {
			s.asks("bad", false)
			time.Sleep(100 * time.Millisecond)
		}
		s.Accepted(good)
		if try, _ := s.Begin("bad"); !ok || !try.Alone() || !s.Ready() {
			t.Error("the refusals are about all")
		}
	})
}

func TestWhoIsRefusedIsFoundOutThoughEachRefusalMakesAnotherCredential(t *testing.T) {
	var s Shared
	s.asks("bad", false)
	s.Reset()
	s.asks("good", true)
	if try, _ := s.Begin("bad"); !try.Alone() {
		t.Error("the next refusal makes another credential, too")
	}
	if try, ok := s.Begin("good"); !ok || try.Alone() {
		t.Error("who was accepted is held back")
	}
}

func TestAnOutageOfTheCredentialSetsNobodyApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var s Shared
		s.asks("a", false)
		s.asks("b", false)
		time.Sleep(First + First)
		if !s.asks("a", true) {
			t.Fatal("it is not tried again")
		}
		for _, caller := range []string{"a", "b"} {
			if try, ok := s.Begin(caller); !ok || try.Alone() {
				t.Errorf("%s is set apart", caller)
			}
		}
	})
}
