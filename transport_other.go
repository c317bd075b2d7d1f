//go:build !linux

package responsesproxygate

// limitUnacknowledged does nothing where there is no TCP_USER_TIMEOUT: there,
// keep-alive finds a connection dead once it has nothing more to send.
func limitUnacknowledged(uintptr) { _ = unacknowledgedTimeout }
