//go:build !windows

package process

import (
	"errors"
	"math"
	"os"
	"syscall"

	"go.uber.org/zap"
)

// Runs reports whether a process of this id exists. One that we may not
// signal exists too.
func Runs(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// MaxFiles is how many files, connections among them, this process may have open.
func MaxFiles() int64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return math.MaxInt64
	}
	return int64(min(limit.Cur, math.MaxInt64)) // (Cur is unsigned on some systems)
}

// ExitGracefully sends this process the signal that service managers send,
// which Caddy answers with a graceful exit and code 0.
func ExitGracefully(logger *zap.Logger) {
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		logger.Error("cannot shut down", zap.Error(err))
	}
}

// MakeFilesPrivate takes all access of others away from files that this
// process makes from now on: Caddy sets the mode of its admin socket only after
// others could have connected to it.
func MakeFilesPrivate() error {
	syscall.Umask(0o077)
	return nil
}

// DropOthersWriteRights takes the right to write from the group and others for
// whatever this process makes from now on. Caddy gives the admin socket its
// mode only once it listens there, and under a loose umask others could connect
// in that moment.
func DropOthersWriteRights() {
	syscall.Umask(syscall.Umask(0o077) | 0o022)
}
