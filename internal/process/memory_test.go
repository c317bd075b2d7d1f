package process

import (
	"runtime"
	"runtime/debug"
	"runtime/metrics"
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
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	pace(100)
	streams := make([]byte, 256<<20)
	awaitTarget(t, "much is held", func(percent int) bool { return percent == minGCPercent })
	runtime.KeepAlive(streams)
	awaitTarget(t, "it was dropped", func(percent int) bool { return percent > minGCPercent })
}

// awaitTarget collects until the collector's target is another.
func awaitTarget(t *testing.T, what string, reached func(percent int) bool) {
	t.Helper()
	sample := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	for deadline := time.Now().Add(time.Minute); ; runtime.Gosched() {
		runtime.GC()
		metrics.Read(sample)
		percent := int(sample[0].Value.Uint64())
		if reached(percent) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: the target is %d %%", what, percent)
		}
	}
}
