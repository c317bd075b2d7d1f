package process

import (
	"os"
	"runtime"
	"runtime/debug"
	gometrics "runtime/metrics"
	"sync"
	"time"

	"github.com/KimMachineGun/automemlimit/memlimit"
)

// The garbage collector's target, for a process that holds little and drops
// much with each request. Go's own default collects when as much has been
// dropped as is held, which for a proxy that holds 10 MB is hundreds of times
// a second under load. A percentage that suits that would let a process with
// thousands of open streams grow to several times its size. So the target is
// an amount.
//
// Streams that are open for long drop little with each event. They would
// gather that amount, too, within minutes: so a process that is calm, because
// it has not had to collect for a while, may gather much less.
const (
	gcGarbage     = 64 << 20 // may gather before it is collected, in bytes
	maxGCPercent  = 400      // of what is held: a process that does little stays small
	minGCPercent  = 50       // of what is held: with 100 MB and more of streams, collecting more often is no gain
	calmGCPercent = 10       // of what is held, in a process that is calm
)

// calmAfter is how long a process that holds this many bytes must not have
// collected to be calm. To collect takes about half a millisecond of CPU time
// for each MiB, so that a calm process spends 2 % of a processor at most.
func calmAfter(held uint64) time.Duration {
	return max(time.Second, time.Duration(held>>20)*25*time.Millisecond)
}

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
		newGCPacer().pace()
	}
}

// gcPacer sets the collector's target anew after each collection.
type gcPacer struct {
	mu        sync.Mutex
	samples   []gometrics.Sample // of what is held
	held      uint64             // after the last collection
	collected time.Time          // when that was
	percent   int                // what was set last
	patience  time.Duration      // how long it must not have collected to be calm, if longer than calmAfter
	calm      *time.Timer        // rings when the process has become calm
}

func newGCPacer() *gcPacer {
	p := &gcPacer{samples: []gometrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}}
	p.calm = time.AfterFunc(time.Hour, p.calmDown)
	return p
}

// dropped is what is dropped at once, so that its clean-up runs after the
// next collection. (It is too large for Go to put several into one object.)
type dropped struct{ _ [64]byte }

// pace sets the target after a collection, and again after the next one.
func (p *gcPacer) pace() {
	p.mu.Lock()
	defer p.mu.Unlock()
	gometrics.Read(p.samples)
	p.held = 0
	for _, sample := range p.samples {
		if sample.Value.Kind() == gometrics.KindUint64 {
			p.held += sample.Value.Uint64()
		}
	}
	before := p.collected
	p.collected = time.Now()
	switch soon := calmAfter(p.held); {
	case p.percent != calmGCPercent:
		p.busy(max(soon, p.patience))
	case p.collected.Sub(before) >= soon:
		p.patience = 0 // calm indeed: that little garbage took it long
	default:
		// It was not, in between: or it would go to and fro, and collect twice
		// each time. The next time, it has to rest for longer.
		p.patience = min(2*max(soon, p.patience), 64*soon)
		p.busy(p.patience)
	}
	runtime.AddCleanup(new(dropped), func(p *gcPacer) { p.pace() }, p)
}

// busy sets the target of a process that is not calm before a while.
func (p *gcPacer) busy(rest time.Duration) {
	p.set(gcPercent(p.held))
	p.calm.Reset(rest)
}

// calmDown sets the target of a process that has become calm.
func (p *gcPacer) calmDown() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.collected) >= max(calmAfter(p.held), p.patience) {
		p.set(calmGCPercent)
	}
}

func (p *gcPacer) set(percent int) {
	if p.percent != percent {
		debug.SetGCPercent(percent) // it stops the process for a few microseconds
	}
	p.percent = percent
}
