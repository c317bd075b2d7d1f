package process

import (
	"runtime"
	"runtime/debug"
	"testing"
	"time"
)

func TestGarbageIsBoundedByAnAmountAndNotByWhatIsHeld(t *testing.T) {
	const mib = 1 << 20
	for held, want := range map[uint64]int{
		0:          400,
		10 * mib:   400, // 40 MiB
		16 * mib:   400, // 64 MiB
		32 * mib:   200, // 64 MiB
		64 * mib:   100, // 64 MiB
		128 * mib:  50,  // 64 MiB
		4096 * mib: 50,
	} {
		if got := gcPercent(held); got != want {
			t.Errorf("%d MiB held: %d %%, want %d %%", held/mib, got, want)
		}
	}
}

func TestAProcessThatHoldsMoreIsCalmLater(t *testing.T) {
	const mib = 1 << 20
	for held, want := range map[uint64]time.Duration{0: time.Second, 40 * mib: time.Second, 200 * mib: 5 * time.Second} {
		if got := calmAfter(held); got != want {
			t.Errorf("%d MiB held: after %s, want %s", held/mib, got, want)
		}
	}
}

// target waits for the collector's target, and between looks does what is given.
func (p *gcPacer) target(t *testing.T, what string, meanwhile func(), reached func(percent int) bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		p.mu.Lock()
		percent := p.percent
		p.mu.Unlock()
		if reached(percent) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the target is %d %%", what, percent)
		}
		meanwhile()
	}
}

func TestTheCollectorFollowsWhatIsHeld(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	p := newGCPacer()
	p.pace()
	streams := make([]byte, 256<<20)
	p.target(t, "much is held", runtime.GC, func(percent int) bool { return percent == minGCPercent })
	runtime.KeepAlive(streams)
	p.target(t, "it was dropped", runtime.GC, func(percent int) bool { return percent > minGCPercent })
}

func TestACalmProcessGathersLittleGarbageAndABusyOneMuch(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	p := newGCPacer()
	p.pace()
	p.target(t, "nothing was dropped for a second", func() {}, func(percent int) bool { return percent == calmGCPercent })
	p.target(t, "one collection after the other", runtime.GC, func(percent int) bool { return percent > calmGCPercent })
	p.target(t, "nothing was dropped again", func() {}, func(percent int) bool { return percent == calmGCPercent })
}
