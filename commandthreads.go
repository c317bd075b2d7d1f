package responsesproxygate

import (
	"os"
	"runtime"
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
func threads(now, processors int) int {
	if now < processors {
		return now // a container's share of the processors: more threads would use it up sooner, and then wait
	}
	return max(now, min(2*processors, fewThreads))
}

// tuneThreads sets the number of threads, unless GOMAXPROCS in the environment
// does. Where Go's own number stays, Go goes on adapting it to the container.
func tuneThreads() {
	now := runtime.GOMAXPROCS(0)
	if n := threads(now, runtime.NumCPU()); n != now && os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(n)
	}
}
