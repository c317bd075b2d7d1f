//go:build linux

// Package cotenant attacks the gate as another user of the same host does:
// through files, /proc, the admin endpoint, ports and floods of connections.
// The attacker is a process of another user, not a pretence of one, so the
// tests need root.
//
// Where it can be, the same attack is made on the program that the gate
// replaces, or on a Caddy that somebody configured by hand, and has to
// succeed there: an attack that never succeeds would show nothing.
package cotenant

import (
	"encoding/json"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) {
	os.Exit(gatetest.Main(
		m,
		gatetest.Role{Name: "swapper", Play: swap},
		gatetest.Role{Name: "looker", Play: look},
		gatetest.Role{Name: "reader", Play: read},
		gatetest.Role{Name: "usurper", Play: usurp},
		gatetest.Role{Name: "squatter", Play: squat},
		gatetest.Role{Name: "flooder", Play: flood},
	))
}

// attacker starts a role as nobody.
func attacker(t *testing.T, role string, args ...string) *gatetest.Actor {
	t.Helper()
	return gatetest.StartRole(t, gatetest.AsNobody(t), role, args...)
}

// untilEnd is closed when the test has the role end.
func untilEnd() <-chan struct{} {
	end := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	return end
}

func ended(end <-chan struct{}) bool {
	select {
	case <-end:
		return true
	default:
		return false
	}
}

// report prints what a role has to tell, as its last line.
func report(what any) error { return json.NewEncoder(os.Stdout).Encode(what) }

// reported ends a role and reads its report.
func reported[T any](t *testing.T, actor *gatetest.Actor) (what T) {
	t.Helper()
	lines := strings.Split(strings.TrimSpace(actor.End()), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &what); err != nil {
		t.Fatalf("the role's report: %v\n%s", err, actor.Output)
	}
	return what
}

// shared is a directory that every user may enter, and write to with a mode
// that lets them.
func shared(t *testing.T, mode os.FileMode) string {
	t.Helper()
	dir := gatetest.TempDir(t)
	gatetest.Must(t, os.Chmod(dir, mode))
	return dir
}

// worldTemp is the mode of /tmp.
const worldTemp = 0o777 | os.ModeSticky
