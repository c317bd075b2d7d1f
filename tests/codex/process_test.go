//go:build unix

package codex

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const patience = gatetest.Patience

// process is a program under test that was started.
type process struct {
	*gatetest.Process
	stdin io.WriteCloser
}

// start starts cmd and sees to its end when the test ends.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	var stdin io.WriteCloser
	if cmd.Stdin == nil {
		var err error
		if stdin, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	return &process{gatetest.StartCmd(t, cmd), stdin}
}

// printed is what the process has written so far.
func (p *process) printed() string { return p.Output.String() }

// await waits for a line that has text in it.
func (p *process) await(t *testing.T, text string) string {
	t.Helper()
	return p.WaitOutput(text, 1)[0]
}

// signal sends a signal to the process, which may be one that ends with any.
func (p *process) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	gatetest.Must(t, p.Cmd.Process.Signal(signal))
}

// result is what a program left behind that ran to its end.
type result struct {
	stdout, stderr string
	code           int
	status         syscall.WaitStatus
	took           time.Duration
}

// run runs cmd to its end.
func run(t *testing.T, cmd *exec.Cmd) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	begin := time.Now()
	err := cmd.Run()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		t.Fatalf("%q: %v\n%s", cmd.Args, err, stderr.String())
	}
	took := time.Since(begin)
	status, _ := cmd.ProcessState.Sys().(syscall.WaitStatus)
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode(), status, took}
}

// command prepares a program that knows nothing of whoever runs the tests: its
// home is empty, and the network behind loopback is out of its reach, if it
// heeds the usual variables.
func command(t *testing.T, home, program string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*patience+silence())
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = home
	cmd.Env = []string{
		"PATH=" + filepath.Dir(gatetest.CaddyBinary) + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + home,
		"CODEX_HOME=" + home,
		"HTTPS_PROXY=http://127.0.0.1:1", "ALL_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1,localhost",
	}
	cmd.WaitDelay = patience
	return cmd
}
