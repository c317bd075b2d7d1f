//go:build unix

package gatetest

import (
	"testing"
	"time"
)

// Await fails the test if an event does not come in time.
func Await(t testing.TB, what string, wait func(done <-chan time.Time) bool) {
	t.Helper()
	if !wait(time.After(Patience)) {
		t.Fatalf("waited %v for %s", Patience, what)
	}
}

// AwaitClosed fails the test if ch is not closed in time.
func AwaitClosed(t testing.TB, what string, ch <-chan struct{}) {
	t.Helper()
	Await(t, what, func(done <-chan time.Time) bool {
		select {
		case <-ch:
			return true
		case <-done:
			return false
		}
	})
}
