//go:build unix

package gatetest

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Patience is how long a test waits for an event that must come. It is long
// because the machine may be busy; a test that passes never waits it out.
const Patience = 30 * time.Second

// ReadyLog is what Caddy logs once its first config runs.
const ReadyLog = "serving initial configuration"

// Output collects what a process writes, and lets tests wait for it.
type Output struct {
	mu      sync.Mutex
	buffer  bytes.Buffer
	changed chan struct{}
}

func newOutput() *Output { return &Output{changed: make(chan struct{})} }

// Write takes more of the output.
func (o *Output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.buffer.Write(data)
}

func (o *Output) snapshot() (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.String(), o.changed
}

// String is what was written so far.
func (o *Output) String() string {
	text, _ := o.snapshot()
	return text
}

// Process is a Caddy, or another program, that a test started.
type Process struct {
	t      testing.TB
	Cmd    *exec.Cmd
	Output *Output // stdout and stderr
	Done   chan struct{}
}

// Launch is how to start Caddy, or another program.
type Launch struct {
	Program string   // default: CaddyBinary
	Dir     string   // holds everything Caddy writes: HOME, XDG directories
	Env     []string // beside the minimal environment
	Umask   string   // through sh; "" inherits
	Limits  string   // arguments of sh's ulimit, such as "-c unlimited"; "" inherits
	Args    []string
	User    *syscall.Credential // default: whoever runs the tests
	Stdin   io.Reader
}

// Command is the command that Start starts.
func (l Launch) Command() *exec.Cmd {
	argv := append([]string{CaddyBinary}, l.Args...)
	if l.Program != "" {
		argv[0] = l.Program
	}
	before := ""
	if l.Umask != "" {
		before += "umask " + l.Umask + " && "
	}
	if l.Limits != "" {
		before += "ulimit " + l.Limits + " && "
	}
	if before != "" {
		argv = append([]string{"/bin/sh", "-c", before + `exec "$0" "$@"`}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = l.Dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + l.Dir,
		"XDG_CONFIG_HOME=" + filepath.Join(l.Dir, "config"),
		"XDG_DATA_HOME=" + filepath.Join(l.Dir, "data"),
		"GORACE=halt_on_error=0",
	}, l.Env...)
	// A test binary that dies must not leave Caddys behind.
	cmd.SysProcAttr = procAttr(l.User)
	cmd.Stdin = l.Stdin
	return cmd
}

// Start starts Caddy and sees to its end.
func Start(t testing.TB, l Launch) *Process {
	t.Helper()
	for _, name := range []string{"config", "data"} {
		dir := filepath.Join(l.Dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if l.User != nil {
			if err := os.Chown(dir, int(l.User.Uid), int(l.User.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return StartCmd(t, l.Command())
}

// StartCmd starts a program and sees to its end. What it writes is collected,
// unless the test has a place of its own for it.
func StartCmd(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{t: t, Cmd: cmd, Output: newOutput(), Done: make(chan struct{})}
	if cmd.Stdout == nil {
		cmd.Stdout = p.Output
	}
	if cmd.Stderr == nil {
		cmd.Stderr = p.Output
	}
	if err := p.Cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", p.Cmd.Path, err)
	}
	go func() {
		_ = p.Cmd.Wait()
		close(p.Done)
	}()
	t.Cleanup(p.finish)
	return p
}

// Run runs Caddy to its end.
func Run(t testing.TB, l Launch) (out string, code int) {
	t.Helper()
	p := Start(t, l)
	code = p.Wait()
	return p.Output.String(), code
}

// String is the program's name.
func (p *Process) String() string { return filepath.Base(p.Cmd.Path) }

// PID is the process id.
func (p *Process) PID() int { return p.Cmd.Process.Pid }

// Signal sends a signal, once Caddy handles signals.
func (p *Process) Signal(sig os.Signal) {
	p.t.Helper()
	p.awaitSignalHandling()
	if err := p.Cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("signal %v: %v", sig, err)
	}
}

// awaitSignalHandling waits until Caddy handles signals: it begins to in
// goroutines of their own, and one that comes within milliseconds of its start
// may still end it at once. SIGUSR2 does not, and Caddy logs it. None may be
// left on its way then: Caddy has room for one, and drops the next.
func (p *Process) awaitSignalHandling() {
	logged := func() (times int, changed <-chan struct{}) {
		text, changed := p.Output.snapshot()
		return strings.Count(text, "SIGUSR2"), changed
	}
	if times, _ := logged(); times > 0 {
		return // an earlier call has waited
	}
	for sent := 1; sent <= 40; sent++ {
		_ = p.Cmd.Process.Signal(syscall.SIGUSR2)
		late := time.After(50 * time.Millisecond) // the log may go elsewhere
		for waiting := true; waiting; {
			times, changed := logged()
			if times >= sent {
				return
			}
			select {
			case <-changed:
			case <-p.Done:
				return
			case <-late:
				if times > 0 {
					return // the others came too early
				}
				waiting = false
			}
		}
	}
}

// Kill ends it as a crash does.
func (p *Process) Kill() {
	_ = p.Cmd.Process.Kill() // (it may have ended)
	<-p.Done
}

// Wait waits for the exit and returns its code, -1 for a signal's.
func (p *Process) Wait() int {
	p.t.Helper()
	select {
	case <-p.Done:
	case <-time.After(Patience):
		p.t.Fatalf("%s did not exit in %v:\n%s", p, Patience, p.Output)
	}
	return p.Cmd.ProcessState.ExitCode()
}

// raceIn finds the functions that a race detector's report is about.
var raceIn = regexp.MustCompile(`(?mi)^\s*(?:previous )?(?:read|write) at .*\n\s*(\S+)$`)

// isCaddysRace reports whether a report is about a race of Caddy's own (v2.11.9),
// which is harmless. There are two. Methods of reverse_proxy have value receivers,
// whose copies take in a field that a reload sets meanwhile if WebSockets are open,
// and do not use it. And an exit writes a WebSocket's last frame while its last
// message is written: both count their bytes, for the access log.
func isCaddysRace(report string) bool {
	functions := raceIn.FindAllStringSubmatch(report, -1)
	sets, counts := 0, 0
	for _, f := range functions {
		switch {
		case strings.Contains(f[1], "/caddyhttp.(*hijackedConn)."), strings.HasSuffix(f[1], "/caddyhttp.(*responseRecorder).Size()"):
			counts++
		case !strings.Contains(f[1], "/caddyhttp/reverseproxy."):
			return false
		case strings.HasSuffix(f[1], ".(*Handler).cleanupConnections()"):
			sets++
		}
	}
	return len(functions) == 2 && (sets == 1 && counts == 0 || counts == 2)
}

// hasRace reports whether the race detector reports one that is not Caddy's own.
func hasRace(out string) bool {
	for report := range strings.SplitSeq(out, "==================") {
		if strings.Contains(report, "WARNING: DATA RACE") && !isCaddysRace(report) {
			return true
		}
	}
	return false
}

// finish ends the process, if it still runs, and reports races in it.
func (p *Process) finish() {
	select {
	case <-p.Done:
	default:
		_ = p.Cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.Done:
		case <-time.After(10 * time.Second):
			// An open stream keeps a graceful exit waiting.
			p.Kill()
		}
	}
	out := p.Output.String()
	if hasRace(out) {
		p.t.Errorf("%s reports a data race", p)
	}
	if strings.Contains(out, "panic: ") || strings.Contains(out, "fatal error: ") {
		p.t.Errorf("%s panicked", p)
	}
	if p.t.Failed() {
		if const16k := 16 << 10; len(out) > const16k && !strings.Contains(out, "DATA RACE") {
			out = "…" + out[len(out)-const16k:]
		}
		p.t.Logf("output of %s (pid %d):\n%s", p, p.PID(), out)
	}
}

// WaitOutput waits until the process has written text n times, and returns the
// lines with it.
func (p *Process) WaitOutput(text string, n int) []string {
	p.t.Helper()
	deadline := time.After(Patience)
	for {
		out, changed := p.Output.snapshot()
		if strings.Count(out, text) >= n && strings.HasSuffix(out, "\n") {
			return LinesWith(out, text)
		}
		select {
		case <-changed:
		case <-p.Done:
			if out = p.Output.String(); strings.Count(out, text) >= n {
				return LinesWith(out, text)
			}
			p.t.Fatalf("%s exited (code %d) and did not write %q:\n%s", p, p.Cmd.ProcessState.ExitCode(), text, out)
		case <-deadline:
			p.t.Fatalf("%s did not write %q in %v:\n%s", p, text, Patience, out)
		}
	}
}

// Started waits until the process has written ready, or has ended without it.
func (p *Process) Started(ready string) bool {
	p.t.Helper()
	deadline := time.After(Patience)
	for {
		out, changed := p.Output.snapshot()
		if strings.Contains(out, ready) {
			return true
		}
		select {
		case <-changed:
		case <-p.Done:
			return strings.Contains(p.Output.String(), ready)
		case <-deadline:
			p.t.Fatalf("%s neither started nor ended in %v:\n%s", p, Patience, out)
		}
	}
}

// StartRefused starts a Caddy that must refuse its config, and returns what
// it said.
func StartRefused(t testing.TB, l Launch) string {
	t.Helper()
	p := Start(t, l)
	if p.Started(ReadyLog) {
		t.Fatalf("Caddy started; it must refuse this config:\n%s", p.Output)
	}
	if code := p.Wait(); code != 1 {
		t.Errorf("exit code %d, want 1", code)
	}
	return p.Output.String()
}

// LastError is the message with which Caddy refused to start.
func LastError(out string) string {
	lines := LinesWith(out, "Error: ")
	if len(lines) == 0 {
		return out
	}
	return lines[len(lines)-1]
}

// LinesWith are the lines that have text in them.
func LinesWith(out, text string) []string {
	var found []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, text) {
			found = append(found, strings.TrimSuffix(line, "\n"))
		}
	}
	return found
}
