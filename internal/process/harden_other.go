//go:build !linux && !darwin && !windows

package process

// hardenPlatform forbids core dumps. Other systems have no common way to keep
// processes of the same user from tracing this one.
func hardenPlatform() error { return dropCoreLimit() }
