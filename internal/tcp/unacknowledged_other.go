//go:build !linux

// Package tcp sets what Go's net package has no word for.
package tcp

import "time"

// LimitUnacknowledged does nothing: keep-alive has to be enough.
func LimitUnacknowledged(uintptr, time.Duration) {}
