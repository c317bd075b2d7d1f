//go:build !windows

package responsesproxygate

import (
	"errors"
	"os"
	"syscall"

	"go.uber.org/zap"
)

// processRuns tells whether a process of this id exists. One that we may not
// signal exists too.
func processRuns(pid int) bool {
	err := syscall.Kill(pid, 0)
	return err == nil || errors.Is(err, syscall.EPERM)
}

// exitGracefully sends this process the signal that service managers send,
// which Caddy answers with a graceful exit and code 0.
func exitGracefully(logger *zap.Logger) {
	if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
		logger.Error("cannot shut down", zap.Error(err))
	}
}

// makeFilesPrivate takes all access of others away from files that this
// process makes from now on: Caddy sets the mode of its admin socket only after
// others could have connected to it.
func makeFilesPrivate() error {
	syscall.Umask(0o077)
	return nil
}
