//go:build unix

package gatetest

import (
	"crypto/rand"
	"fmt"
	"os/exec"
	"strings"
	"testing"
)

// Redis is one with a password, on a loopback port.
type Redis struct {
	*Process
	Dir, Password string
	Port          int
	binary        string
}

// NewRedis starts one. Without redis-server, the test is skipped, or fails if
// CI or REQUIRE_REDIS is set.
func NewRedis(t testing.TB) *Redis {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		SkipOrFail(t, "REQUIRE_REDIS", err)
	}
	r := &Redis{Dir: TempDir(t), Password: rand.Text(), Port: FreePort(t), binary: binary}
	r.Start(t)
	return r
}

// Start starts it again, as examples/fleet wants it: what it has acknowledged
// is on disk.
func (r *Redis) Start(t testing.TB) {
	t.Helper()
	config := fmt.Sprintf("bind 127.0.0.1\nport %d\ndir %s\nrequirepass %s\nappendonly yes\nappendfsync always\nmaxmemory-policy noeviction\n", r.Port, r.Dir, r.Password)
	r.Process = Start(t, Launch{Program: r.binary, Dir: r.Dir, Args: []string{"-"}, Stdin: strings.NewReader(config)})
	r.WaitOutput("Ready to accept connections", 1)
}
