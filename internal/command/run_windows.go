package command

import (
	"errors"
	"os"
	"syscall"
)

// childUser is nobody here.
type childUser struct{}

func (c *child) actAs(string) error {
	return errors.New("not on Windows; leave it out")
}

// environment is what the command has of ours.
func (c *child) environment(ours []string) []string { return ours }

// attributes are what the system is to do when it starts the command.
func (c *child) attributes() *syscall.SysProcAttr { return nil }

// signals are those that must not end this process before the command ends.
func (c *child) signals() []os.Signal { return []os.Signal{os.Interrupt} }

// wants reports whether the command needs to be sent a signal. The console sends
// Ctrl-C to all its processes.
func (c *child) wants(os.Signal) bool { return false }

// exitCodeOfEnd is the command's exit code.
func exitCodeOfEnd(state *os.ProcessState) int { return state.ExitCode() }
