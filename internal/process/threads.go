package process

import (
	"os"
	"runtime"

	"go.uber.org/automaxprocs/maxprocs"
)

// fewThreads is how many threads may run Go code at once on a machine with few
// processors.
const fewThreads = 4

// threads is how many threads may run Go code at once (GOMAXPROCS) in a process
// that Go would give as many as now, on a machine with so many processors.
//
// Go's one for each processor is best for a program that has them to itself. A
// local proxy shares them with its callers, and most of its time is system
// calls: on two processors, two threads that were put aside or are sending hold
// up every request that could go on.
//
// A container may have only a share of the processors' time: more threads would
// use that up sooner, and then all wait.
func threads(now, processors int, onlyShare bool) int {
	if onlyShare || now < processors {
		return now
	}
	return max(now, min(2*processors, fewThreads))
}

// TuneThreads sets the number of threads, unless GOMAXPROCS in the environment
// does. Where Go's own number stays, Go goes on adapting it to the container.
func TuneThreads() {
	if os.Getenv("GOMAXPROCS") != "" {
		return
	}
	now := runtime.GOMAXPROCS(0)
	if n := threads(now, runtime.NumCPU(), hasOnlyShare()); n != now {
		runtime.GOMAXPROCS(n)
	}
}

// hasOnlyShare reports whether a cgroup limits the process's CPU time. Go's own
// number does not tell: it is rounded up, to two at least.
func hasOnlyShare() (only bool) {
	undo, _ := maxprocs.Set(maxprocs.RoundQuotaFunc(func(float64) int {
		only = true
		return runtime.GOMAXPROCS(0)
	}))
	undo()
	if only {
		runtime.SetDefaultGOMAXPROCS() // for Go to go on adapting it
	}
	return only
}
