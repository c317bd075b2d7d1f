package budget

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestARequestUnderWayIsCountedAtItsBudgetsEnd(t *testing.T) {
	for name, c := range map[string]struct {
		ends time.Duration
		want Spent
	}{
		"it is cut off a moment later": {time.Second, Spent{Requests: 1, Input: 3, Output: 4}},
		// {"max_output_tokens":900} is 25 bytes
		"it goes on, as after a reload": {time.Minute, Spent{Requests: 1, Output: 909, Estimated: 909}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				folder := t.TempDir()
				h := open(t, folder, daily)
				release := make(chan struct{})
				go call(t, h, "codex", asking(900), waits(release, costs(3, 4)))
				synctest.Wait()
				time.AfterFunc(c.ends, func() { close(release) })
				h.book.leave(h) // as Cleanup does
				if err := h.book.Destruct(); err != nil {
					t.Fatal(err)
				}
				later := open(t, folder, daily)
				if got := spentBy(t, later, "codex", "1d"); got != c.want {
					t.Errorf("%+v is known, not %+v", got, c.want)
				}
				time.Sleep(2 * c.ends) // what ends then is not charged twice
				saved()
				if got := spentBy(t, later, "codex", "1d"); got != c.want {
					t.Errorf("later, %+v is known, not %+v", got, c.want)
				}
			})
		})
	}
}
