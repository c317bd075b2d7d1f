//go:build unix && !linux

package gatetest

import "syscall"

func procAttr(user *syscall.Credential) *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: user, Setpgid: true}
}
