//go:build unix

package codex

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience bounds everything that a test waits for. Nothing takes that long
// unless it hangs.
const patience = 30 * time.Second

// process is a program under test that was started.
type process struct {
	*exec.Cmd
	stdin io.WriteCloser

	mu     sync.Mutex
	stderr bytes.Buffer
	lines  chan string // stderr, line by line; closed at its end

	exited chan struct{} // closed when the process is gone
	err    error         // of Wait
}

// start starts cmd and sees to its end when the test ends.
func start(t *testing.T, cmd *exec.Cmd) *process {
	t.Helper()
	p := &process{Cmd: cmd, lines: make(chan string, 1024), exited: make(chan struct{})}
	var err error
	if cmd.Stdin == nil {
		if p.stdin, err = cmd.StdinPipe(); err != nil {
			t.Fatal(err)
		}
	}
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.readStderr(stderr)
		p.err = cmd.Wait() // only after the pipe was read to its end
		close(p.exited)
	}()
	t.Cleanup(func() {
		select {
		case <-p.exited:
		default:
			_ = p.Process.Kill()
			<-p.exited
		}
		if t.Failed() {
			t.Logf("%s %q printed to stderr:\n%s", filepath.Base(p.Path), p.Args[1:], p.printed())
		}
	})
	return p
}

func (p *process) readStderr(pipe io.Reader) {
	defer close(p.lines)
	for in := bufio.NewReader(pipe); ; {
		line, err := in.ReadString('\n')
		p.mu.Lock()
		p.stderr.WriteString(line)
		p.mu.Unlock()
		select {
		case p.lines <- line:
		default: // nobody reads them any more
		}
		if err != nil {
			return
		}
	}
}

// printed is what came on stderr so far.
func (p *process) printed() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

// await waits for a line on stderr that has text in it.
func (p *process) await(t *testing.T, text string) string {
	t.Helper()
	for timeout := time.After(patience); ; {
		select {
		case line, ok := <-p.lines:
			if strings.Contains(line, text) {
				return line
			}
			if !ok {
				t.Fatalf("%s ended and never printed %q, but:\n%s", filepath.Base(p.Path), text, p.printed())
			}
		case <-timeout:
			t.Fatalf("%s has not printed %q, but:\n%s", filepath.Base(p.Path), text, p.printed())
		}
	}
}

// exitCode waits for the process's end and tells its exit code, -1 after a signal.
func (p *process) exitCode(t *testing.T) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.ProcessState.ExitCode()
	case <-time.After(patience):
		t.Fatalf("%s does not end", filepath.Base(p.Path))
		return -1
	}
}

// signal sends a signal to the process.
func (p *process) signal(t *testing.T, signal syscall.Signal) {
	t.Helper()
	if err := p.Process.Signal(signal); err != nil {
		t.Fatal(err)
	}
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
		"PATH=" + filepath.Dir(caddyBinary) + string(os.PathListSeparator) + os.Getenv("PATH"),
		"HOME=" + home,
		"CODEX_HOME=" + home,
		"HTTPS_PROXY=http://127.0.0.1:1", "ALL_PROXY=http://127.0.0.1:1", "NO_PROXY=127.0.0.1,localhost",
	}
	cmd.WaitDelay = patience
	return cmd
}
