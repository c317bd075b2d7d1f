package process

import (
	"os"
	"runtime"
	"runtime/debug"
	"runtime/metrics"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// The garbage collector's target, for a process that holds little and drops
// much with each request. Go's own default collects when as much has been
// dropped as is held, which for a proxy that holds 10 MB is hundreds of times
// a second under load. A percentage that suits that would let a process with
// thousands of open streams grow to several times its size. So the target is
// an amount.
const (
	gcGarbage    = 64 << 20 // may gather before it is collected, in bytes
	maxGCPercent = 400      // of what is held: a process that does little stays small
	minGCPercent = 50       // of what is held: with 100 MB and more of streams, collecting more often is no gain
)

// gcPercent is the collector's target (GOGC) for a process that holds this
// many bytes.
func gcPercent(held uint64) int {
	return int(min(max(gcGarbage*100/max(held, 1), minGCPercent), maxGCPercent))
}

// TuneMemory sets the collector's target and a memory limit that follows the
// container's or the machine's. GOGC and GOMEMLIMIT in the environment decide
// instead, if they are there.
func TuneMemory() {
	// As Caddy does in its own commands. (Where no limit can be found, there is none.)
	_, _ = memlimit.Set(memlimit.WithProvider(memlimit.ApplyFallback(memlimit.FromCgroup, memlimit.FromSystem)))
	if os.Getenv("GOGC") == "" {
		pace(100) // Go's own
	}
}

// dropped is what is dropped at once, so that its clean-up runs after the
// next collection. (It is too large for Go to put several into one object.)
type dropped struct{ _ [64]byte }

// pace sets the collector's target, which was percent, and again after each
// collection.
func pace(percent int) {
	if next := gcPercent(held()); next != percent {
		debug.SetGCPercent(next) // it stops the process for a few microseconds
		percent = next
	}
	runtime.AddCleanup(new(dropped), pace, percent)
}

// held is how many bytes were held after the last collection.
func held() (bytes uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(samples)
	for _, sample := range samples {
		if sample.Value.Kind() == metrics.KindUint64 {
			bytes += sample.Value.Uint64()
		}
	}
	return bytes
}
