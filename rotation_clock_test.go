package responsesproxygate

import (
	"testing"
	"time"
	"unsafe"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// afterTheClockWasSet is what time.Now would tell at a moment if somebody had
// set the machine's clock meanwhile: the wall clock is another, and the
// monotonic reading beside it, by which Go compares moments, is not. A test
// cannot set the clock itself, and what fakes it for C programs does not for Go.
func afterTheClockWasSet(t *testing.T, moment time.Time, by time.Duration) time.Time {
	t.Helper()
	const hasMonotonic, secondShift = 1 << 63, 30 // of the first word of a time.Time
	wall := (*uint64)(unsafe.Pointer(&moment))
	if *wall&hasMonotonic == 0 {
		t.Fatalf("%v has no monotonic reading", moment)
	}
	before := moment.Unix()
	*wall = uint64(int64(*wall&^hasMonotonic)+int64(by/time.Second)<<secondShift) | hasMonotonic
	if moment.Unix() != before+int64(by/time.Second) {
		t.Fatalf("the clock says %v after it was set by %v", moment, by)
	}
	return moment
}

func TestAClockThatIsSetNeitherEndsNorProlongsAnything(t *testing.T) {
	const grace, access = time.Hour, 8 * time.Hour
	c := rotating(t, publication{ends: time.Now().Add(access), rotation: &rotation{interval: 2 * time.Hour, grace: grace}})
	former := secret.DigestOf(c.inFile(t))
	if err := c.rotate(grace); err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	for name, by := range map[string]time.Duration{"forward": 24 * 365 * time.Hour, "back": -24 * 365 * time.Hour, "not at all": 0} {
		early := afterTheClockWasSet(t, now.Add(time.Minute), by)
		late := func(after time.Duration) time.Time { return afterTheClockWasSet(t, now.Add(after), by) }
		found := false
		for _, token := range c.ring.tokens() {
			if token.digest != former {
				continue
			}
			found = true
			if !token.usable(early) {
				t.Errorf("set %s, the clock ends a token's grace", name)
			}
			if token.usable(late(grace)) {
				t.Errorf("set %s, the clock prolongs a token's grace", name)
			}
		}
		if !found {
			t.Error("the former token has no grace at all")
		}
		if c.current.ended(early) || !early.Before(c.ends) {
			t.Errorf("set %s, the clock ends a client's access", name)
		}
		if !c.current.ended(late(access)) || late(access).Before(c.ends) {
			t.Errorf("set %s, the clock prolongs a client's access", name)
		}
		if due := c.nextDue(); !early.Before(due) || late(2*time.Hour).Before(due) {
			t.Errorf("set %s, the clock moves the next rotation", name)
		}
	}
}

// rotate replaces the caller's token, whether it was revoked or not.
func (c *caller) rotate(grace time.Duration) error {
	_, err := c.rotateWith(&grace, true)
	return err
}
