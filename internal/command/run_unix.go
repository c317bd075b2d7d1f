//go:build !windows

package command

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// childUser is another user whom the command runs as.
type childUser struct {
	account    *user.User
	credential *syscall.Credential
}

// actAs has the command run as another user.
func (c *child) actAs(name string) error {
	if os.Geteuid() != 0 {
		return errors.New("only root can run a command as another user; start this as root, or leave --as out")
	}
	account, err := user.Lookup(name)
	if err != nil {
		if account, err = user.LookupId(name); err != nil {
			return errors.New("there is no such user")
		}
	}
	groups, err := account.GroupIds()
	if err != nil {
		return fmt.Errorf("its groups are unknown: %w", err)
	}
	ids := make([]uint32, 0, len(groups)+2)
	for _, id := range append([]string{account.Uid, account.Gid}, groups...) {
		n, err := strconv.ParseUint(id, 10, 32)
		if err != nil {
			return fmt.Errorf("%q is no id: %w", id, err)
		}
		ids = append(ids, uint32(n))
	}
	if ids[0] == 0 {
		return errors.New("root can read the key; name another user")
	}
	c.user = &childUser{account, &syscall.Credential{Uid: ids[0], Gid: ids[1], Groups: ids[2:]}}
	// On the terminal that it shares with us, it could type what our shell then
	// runs as root (TIOCSTI), unless the kernel forbids that.
	allowed, err := os.ReadFile("/proc/sys/dev/tty/legacy_tiocsti")
	c.apart = err != nil || strings.TrimSpace(string(allowed)) != "0"
	return nil
}

// kept are the variables that say nothing of who set them.
var kept = []string{
	"PATH", "TERM", "COLORTERM", "TZ", "LANG", "LANGUAGE",
	"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy", "no_proxy",
}

// environment is what the command has of ours: all, or if it runs as another
// user, what is no secret of ours.
func (c *child) environment(ours []string) []string {
	if c.user == nil {
		return ours
	}
	account := c.user.account
	theirs := []string{"HOME=" + account.HomeDir, "USER=" + account.Username, "LOGNAME=" + account.Username}
	for _, variable := range ours {
		name, value, _ := strings.Cut(variable, "=")
		if isProxy := strings.HasSuffix(strings.ToLower(name), "_proxy"); isProxy && strings.Contains(value, "@") {
			continue // our password for the proxy may be in front of the @
		}
		if slices.Contains(kept, name) || strings.HasPrefix(name, "LC_") {
			theirs = append(theirs, variable)
		}
	}
	return theirs
}

// attributes are what the system is to do when it starts the command.
func (c *child) attributes() *syscall.SysProcAttr {
	attributes := endsWithUs()
	attributes.Setsid = c.apart
	if c.user != nil {
		attributes.Credential = c.user.credential
	}
	return attributes
}

// signals are those that are passed on. Those that stop and continue a job go
// to all of its processes anyway.
func (c *child) signals() []os.Signal {
	return []os.Signal{
		syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH,
	}
}

// wants reports whether the command needs to be sent a signal that came to us.
// The terminal sends Ctrl-C to all processes in its foreground. Sent once more,
// it would end a program that asks for a second Ctrl-C.
func (c *child) wants(received os.Signal) bool {
	switch received {
	case syscall.SIGINT, syscall.SIGQUIT, syscall.SIGWINCH:
		return c.apart || !inForeground()
	}
	return true
}

// inForeground reports whether this process is in its terminal's foreground.
func inForeground() bool {
	terminal, err := os.Open("/dev/tty")
	if err != nil {
		return false // there is none
	}
	defer terminal.Close()
	group, err := unix.IoctlGetInt(int(terminal.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// exitCodeOfEnd is how a shell would tell the end of a process.
func exitCodeOfEnd(state *os.ProcessState) int {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return exitCodeSignal + int(status.Signal())
	}
	return state.ExitCode()
}
