//go:build !linux && !windows

package command

import "syscall"

// endsWithUs does nothing here: only Linux tells a process that its parent is gone.
func endsWithUs() *syscall.SysProcAttr { return new(syscall.SysProcAttr) }
