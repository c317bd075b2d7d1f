//go:build unix

// Package gatetest is the harness of the black-box tests: it builds Caddy with
// the gate in it, starts it as a process of its own around a configurable
// site, stands in for the upstream, and speaks HTTP to it in ways that no
// library does. A test of it sees only what a caller, an upstream, another
// user or an operator could see.
//
// A package of such tests has this TestMain:
//
//	func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }
//
// and its tests begin with:
//
//	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
package gatetest

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/caddybuild"
)

// CaddyBinary is the Caddy under test. Every user may run it.
var CaddyBinary string

// tempRoot goes when the tests have run. Every user can enter it.
var tempRoot string

// RepoRoot is where Caddyfile.example and cmd/caddy are.
var RepoRoot string

// binDir is where the programs under test are, for every user to run.
var binDir string

// Main finds the Caddy under test, runs the tests and returns the exit code.
// If StartRole started this process, it plays that role instead.
func Main(m *testing.M, roles ...Role) int {
	if name := os.Getenv(roleVariable); name != "" {
		return play(name, roles)
	}
	flag.Parse()
	if testing.Short() {
		fmt.Println("not with -short: these tests build Caddy and start it")
		return 0
	}
	dir, err := os.MkdirTemp("", "gate-caddy")
	if err != nil {
		fmt.Fprintln(os.Stderr, "gatetest:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := prepare(dir); err != nil {
		fmt.Fprintln(os.Stderr, "gatetest:", err)
		return 1
	}
	// The tests mostly wait, for processes to start and to end: run more of them
	// at a time than there are processors, unless the command line says how many.
	if f := flag.Lookup("test.parallel"); f != nil && f.Value.String() == f.DefValue {
		_ = f.Value.Set("8")
	}
	return m.Run()
}

func prepare(dir string) (err error) {
	binDir = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	tempRoot = dir
	if RepoRoot, err = caddybuild.Root(); err != nil {
		return err
	}
	CaddyBinary, err = findCaddy(dir)
	return err
}

// findCaddy puts the Caddy under test into dir. A Caddy that is not there, or
// has no gate, is a failure, never a skip.
func findCaddy(dir string) (string, error) {
	how := caddybuild.Build{}
	if raceEnabled {
		how.Args = []string{"-race"}
	}
	binary, err := caddybuild.Find(context.Background(), dir, how)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	list := exec.CommandContext(ctx, binary, "list-modules")
	list.Env = append(os.Environ(), "HOME="+dir, "XDG_CONFIG_HOME="+dir, "XDG_DATA_HOME="+dir)
	out, err := list.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s list-modules: %w\n%s", binary, err, out)
	}
	if !strings.Contains(string(out), "http.handlers.responses_proxy_gate") {
		return "", fmt.Errorf("%s has no module http.handlers.responses_proxy_gate", binary)
	}
	return binary, nil
}
