//go:build unix

package e2e

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a test waits for an event that must come. It is long
// because the machine may be busy; a test that passes never waits it out.
const patience = 30 * time.Second

// readyLog is what Caddy logs once its first config runs.
const readyLog = "serving initial configuration"

// tempDir is a directory with a short path: unix sockets allow 100 bytes.
func tempDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "gate")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func readFile(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

func missing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// output collects what a process writes, and lets tests wait for it.
type output struct {
	mu      sync.Mutex
	buffer  bytes.Buffer
	changed chan struct{}
}

func newOutput() *output { return &output{changed: make(chan struct{})} }

func (o *output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	close(o.changed)
	o.changed = make(chan struct{})
	return o.buffer.Write(data)
}

func (o *output) snapshot() (text string, changed <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buffer.String(), o.changed
}

func (o *output) String() string {
	text, _ := o.snapshot()
	return text
}

// process is a Caddy that a test started.
type process struct {
	t    *testing.T
	cmd  *exec.Cmd
	out  *output // stdout and stderr
	done chan struct{}
}

// launch is how to start Caddy.
type launch struct {
	dir   string   // holds everything Caddy writes: HOME, XDG directories
	env   []string // beside the minimal environment
	umask string   // through sh; "" inherits
	args  []string
	user  *syscall.Credential
	stdin string
}

func (l launch) command() *exec.Cmd {
	argv := append([]string{caddyBinary}, l.args...)
	if l.umask != "" {
		argv = append([]string{"/bin/sh", "-c", `umask ` + l.umask + `; exec "$0" "$@"`}, argv...)
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = l.dir
	cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"),
		"HOME=" + l.dir,
		"XDG_CONFIG_HOME=" + filepath.Join(l.dir, "config"),
		"XDG_DATA_HOME=" + filepath.Join(l.dir, "data"),
		"GORACE=halt_on_error=0",
	}, l.env...)
	// A test binary that dies must not leave Caddys behind.
	cmd.SysProcAttr = procAttr(l.user)
	if l.stdin != "" {
		cmd.Stdin = strings.NewReader(l.stdin)
	}
	return cmd
}

// start starts Caddy and sees to its end.
func start(t *testing.T, l launch) *process {
	t.Helper()
	for _, name := range []string{"config", "data"} {
		dir := filepath.Join(l.dir, name)
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if l.user != nil {
			if err := os.Chown(dir, int(l.user.Uid), int(l.user.Gid)); err != nil {
				t.Fatal(err)
			}
		}
	}
	p := &process{t: t, cmd: l.command(), out: newOutput(), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("starting %s: %v", caddyBinary, err)
	}
	go func() {
		_ = p.cmd.Wait()
		close(p.done)
	}()
	t.Cleanup(p.finish)
	return p
}

// run runs Caddy to its end.
func run(t *testing.T, l launch) (out string, code int) {
	t.Helper()
	p := start(t, l)
	code = p.wait()
	return p.out.String(), code
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) signal(sig os.Signal) {
	p.t.Helper()
	p.awaitSignalHandling()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("signal %v: %v", sig, err)
	}
}

// awaitSignalHandling waits until Caddy handles signals: it begins to in
// goroutines of their own, and one that comes within milliseconds of its start
// may still end it at once. SIGUSR2 does not, and Caddy logs it.
func (p *process) awaitSignalHandling() {
	for range 40 {
		text, changed := p.out.snapshot()
		if strings.Contains(text, "SIGUSR2") {
			return
		}
		_ = p.cmd.Process.Signal(syscall.SIGUSR2)
		select {
		case <-changed:
		case <-time.After(50 * time.Millisecond): // the log may go elsewhere
		}
	}
}

// wait waits for the exit and returns its code, -1 for a signal's.
func (p *process) wait() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatalf("Caddy did not exit in %v:\n%s", patience, p.out)
	}
	return p.cmd.ProcessState.ExitCode()
}

// finish ends the process, if it still runs, and reports races in it.
func (p *process) finish() {
	select {
	case <-p.done:
	default:
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			// An open stream keeps a graceful exit waiting.
			_ = p.cmd.Process.Kill()
			<-p.done
		}
	}
	out := p.out.String()
	if strings.Contains(out, "WARNING: DATA RACE") {
		p.t.Errorf("Caddy reports a data race")
	}
	if strings.Contains(out, "panic: ") || strings.Contains(out, "fatal error: ") {
		p.t.Errorf("Caddy panicked")
	}
	if p.t.Failed() {
		if const16k := 16 << 10; len(out) > const16k && !strings.Contains(out, "DATA RACE") {
			out = "…" + out[len(out)-const16k:]
		}
		p.t.Logf("output of Caddy (pid %d):\n%s", p.pid(), out)
	}
}

// waitOutput waits until Caddy has written text n times, and returns the
// lines with it.
func (p *process) waitOutput(text string, n int) []string {
	p.t.Helper()
	deadline := time.After(patience)
	for {
		out, changed := p.out.snapshot()
		if strings.Count(out, text) >= n && strings.HasSuffix(out, "\n") {
			return linesWith(out, text)
		}
		select {
		case <-changed:
		case <-p.done:
			if out = p.out.String(); strings.Count(out, text) >= n {
				return linesWith(out, text)
			}
			p.t.Fatalf("Caddy exited (code %d) and did not write %q:\n%s", p.cmd.ProcessState.ExitCode(), text, out)
		case <-deadline:
			p.t.Fatalf("Caddy did not write %q in %v:\n%s", text, patience, out)
		}
	}
}

// startRefused starts a Caddy that must refuse its config, and returns what
// it said.
func startRefused(t *testing.T, l launch) string {
	t.Helper()
	p := start(t, l)
	deadline := time.After(patience)
	for {
		out, changed := p.out.snapshot()
		if strings.Contains(out, readyLog) {
			t.Fatalf("Caddy started; it must refuse this config:\n%s", out)
		}
		select {
		case <-changed:
		case <-p.done:
			if code := p.cmd.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d, want 1", code)
			}
			return p.out.String()
		case <-deadline:
			t.Fatalf("Caddy neither started nor refused in %v:\n%s", patience, out)
		}
	}
}

// lastError is the message with which Caddy refused to start.
func lastError(out string) string {
	lines := linesWith(out, "Error: ")
	if len(lines) == 0 {
		return out
	}
	return lines[len(lines)-1]
}

func linesWith(out, text string) []string {
	var found []string
	for line := range strings.Lines(out) {
		if strings.Contains(line, text) {
			found = append(found, strings.TrimSuffix(line, "\n"))
		}
	}
	return found
}
