package responsesproxygate

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

func TestTheCollectorFollowsWhatIsHeld(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(100))
	p := newGCPacer()
	p.pace()
	until := func(what string, reached func(percent int64) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !reached(p.percent.Load()); time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the target is %d %%", what, p.percent.Load())
			}
			runtime.GC()
		}
	}
	streams := make([]byte, 256<<20)
	until("much is held", func(percent int64) bool { return percent == minGCPercent })
	runtime.KeepAlive(streams)
	until("it was dropped", func(percent int64) bool { return percent > minGCPercent })
}
