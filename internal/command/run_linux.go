package command

import "syscall"

// endsWithUs has the command told to end when this process is gone, even if it
// was killed: its requests would go to whoever takes the port next.
func endsWithUs() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
}
