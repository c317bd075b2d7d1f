package process

import (
	"errors"
	"math"
	"os"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"golang.org/x/sys/windows"
)

// Runs reports whether a process of this id exists.
func Runs(pid int) bool {
	handle, err := windows.OpenProcess(windows.PROCESS_QUERY_LIMITED_INFORMATION, false, uint32(pid))
	if err != nil {
		return err == windows.ERROR_ACCESS_DENIED // it exists, and is not ours
	}
	defer func() { _ = windows.CloseHandle(handle) }()
	const stillActive = 259
	var code uint32
	return windows.GetExitCodeProcess(handle, &code) == nil && code == stillActive
}

// MaxFiles is how many files, connections among them, this process may have
// open: any number.
func MaxFiles() int64 { return math.MaxInt64 }

// ExitGracefully stops Caddy and exits. A Windows process cannot send itself
// the interrupt that Caddy would answer.
func ExitGracefully(logger *zap.Logger) {
	if err := caddy.Stop(); err != nil {
		logger.Error("stopping", zap.Error(err))
		os.Exit(caddy.ExitCodeFailedQuit)
	}
	os.Exit(caddy.ExitCodeSuccess)
}

// DropOthersWriteRights does nothing: there is no umask here.
func DropOthersWriteRights() {}

// MakeFilesPrivate is for sockets, which have no owner here.
func MakeFilesPrivate() error {
	return errors.New("not on Windows, where every user could use the socket; leave it out")
}
