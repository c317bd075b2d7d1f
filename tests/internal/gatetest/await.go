//go:build unix

package gatetest

import (
	"crypto/tls"
	"testing"
	"time"
)

// betweenLooks is how long Until waits before it looks again.
const betweenLooks = 20 * time.Millisecond

// Await fails the test if an event does not come in time.
func Await(t testing.TB, what string, wait func(done <-chan time.Time) bool) {
	t.Helper()
	if !wait(time.After(Patience)) {
		t.Fatalf("waited %v for %s", Patience, what)
	}
}

// Until looks again and again whether something is so, and fails the test if
// it is not in time. It is for what nothing tells of: a file, a counter, what
// another process holds. What tells is awaited.
func Until(t testing.TB, what string, is func() bool) {
	t.Helper()
	Await(t, what, func(done <-chan time.Time) bool {
		for !is() {
			select {
			case <-done:
				return false
			case <-time.After(betweenLooks):
			}
		}
		return true
	})
}

// AwaitCertificate waits until a server has its certificate: it loads it a
// little after it has started.
func AwaitCertificate(t testing.TB, addr string, config *tls.Config) {
	t.Helper()
	Until(t, "a certificate", func() bool {
		conn, err := tls.Dial("tcp", addr, config)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
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
