package gatetest

import "syscall"

// procAttr has the kernel end Caddy with the test binary, whatever happens.
func procAttr(user *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user, Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
