package faults

import (
	"fmt"
	"net"
	"os"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// few is how many files the gate may have open in these tests.
const few = 64

// openFiles is how many the gate has open.
func openFiles(t *testing.T, g *gatetest.Gate) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.PID()))
	gatetest.Must(t, err)
	return len(entries)
}

// Connections that nobody closes take every descriptor that the gate may have.
func TestAGateWithoutFreeDescriptorsLosesNothingAndComesBack(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Limits: fmt.Sprint("-n ", few), Gate: "rotate_every 1s 500ms",
	})
	g.Works(t)
	g.HTTP.CloseIdleConnections()
	var held []net.Conn
	defer func() {
		for _, conn := range held {
			_ = conn.Close()
		}
	}()
	for range 2 * few { // those that are not accepted wait in the kernel
		conn, err := net.DialTimeout("tcp", g.Addr, gatetest.Patience)
		gatetest.Must(t, err)
		held = append(held, conn)
	}
	gatetest.Until(t, "all files to be open that may be", func() bool { return openFiles(t, g) >= few })
	g.WaitOutput("too many open files", 1)
	g.WaitOutput("could not be replaced or revoked as planned", 2) // rotations, long after a grace would be over
	kept := gatetest.ReadInfo(t, g.Site.InfoPath())
	entries, err := os.ReadDir(g.Site.Dir)
	gatetest.Must(t, err)
	for _, entry := range entries {
		if name := entry.Name(); name != "info.json" && name != ".info.json.lock" && name != "Caddyfile" && name != "config" && name != "data" {
			t.Errorf("%s is left behind", name)
		}
	}
	for _, conn := range held {
		_ = conn.Close()
	}
	g.Token = kept.AuthToken
	rotationsGoOn(t, g)
	g.Works(t)
	noSecretIn(t, "the log", g.Output.String(), kept.AuthToken)
}
