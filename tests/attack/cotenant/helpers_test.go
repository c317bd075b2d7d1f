//go:build linux

package cotenant

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func pidText(g *gatetest.Gate) string { return strconv.Itoa(g.PID()) }

func procPath(g *gatetest.Gate, file string) string { return fmt.Sprintf("/proc/%d/%s", g.PID(), file) }

// chownAll gives everything in dir to a user.
func chownAll(dir string, user *syscall.Credential) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, int(user.Uid), int(user.Gid))
	})
}
