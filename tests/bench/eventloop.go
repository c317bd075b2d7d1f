//go:build unix

package main

import (
	"runtime"
	"time"
)

// ready is a socket that can be read from or written to, or that has ended,
// which reading then tells.
type ready struct {
	fd          int
	read, write bool
}

// loopProcessors is how many of Go's processors (GOMAXPROCS) the suite has at
// least: one that is idle beside those of both event loops. Else Go's monitor
// takes theirs from them in every system call of more than 20 µs.
const loopProcessors = 4

// yields lets an event loop pass through Go's scheduler now and then. Go's
// monitor takes its processor from one that does not for 10 ms, and then looks
// every 20 µs whether it can do so again, which costs more than parsing does.
type yields struct{ last time.Time }

func (y *yields) nowAndThen() {
	const interval = 4 * time.Millisecond
	if now := time.Now(); now.Sub(y.last) > interval {
		y.last = now
		runtime.Gosched()
	}
}
