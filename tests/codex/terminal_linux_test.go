package codex

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
	"golang.org/x/sys/unix"
)

// terminal is a pseudo terminal with a program on it.
type terminal struct {
	*os.File // the side of the person who types
	cmd      *exec.Cmd
	shown    bytes.Buffer
}

// onTerminal starts cmd with a terminal for stdin, stdout and stderr.
func onTerminal(t *testing.T, cmd *exec.Cmd) *terminal {
	t.Helper()
	person, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("there are no terminals here: %v", err)
	}
	t.Cleanup(func() { person.Close() })
	if err := unix.IoctlSetPointerInt(int(person.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	number, err := unix.IoctlGetInt(int(person.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = program, program, program
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return &terminal{File: person, cmd: cmd}
}

// await reads what the terminal shows until text is there.
func (tty *terminal) await(t *testing.T, text string) {
	t.Helper()
	timer := time.AfterFunc(patience, func() { _ = tty.cmd.Process.Kill() }) // ends the read
	defer timer.Stop()
	for buffer := make([]byte, 4096); !strings.Contains(tty.shown.String(), text); {
		n, err := tty.Read(buffer)
		tty.shown.Write(buffer[:n])
		if err != nil {
			t.Fatalf("the terminal does not show %q, but %q", text, tty.shown.String())
		}
	}
}

// echoes reports whether the terminal shows what is typed.
func (tty *terminal) echoes(t *testing.T) bool {
	t.Helper()
	settings, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return settings.Lflag&unix.ECHO != 0
}

// awaitEcho waits until the terminal echoes, or no longer does. Nothing tells
// of that change.
func (tty *terminal) awaitEcho(t *testing.T, want bool) {
	t.Helper()
	gatetest.Until(t, fmt.Sprintf("the terminal to echo: %t", want), func() bool { return tty.echoes(t) == want })
}

func TestOnATerminalTheKeyIsAskedForAndNotShown(t *testing.T) {
	upstream := newUpstream(t)
	infoPath := filepath.Join(t.TempDir(), "info.json")
	tty := onTerminal(t, command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy", "--server-info", infoPath, "--upstream-url", upstream.responsesURL()))
	tty.await(t, "API key")
	tty.awaitEcho(t, false)
	if _, err := tty.WriteString(operatorKey + "\n"); err != nil {
		t.Fatal(err)
	}
	tty.await(t, "responses-proxy listening on 127.0.0.1:")
	if strings.Contains(tty.shown.String(), operatorKey) {
		t.Error("the terminal shows the key")
	}
	if !tty.echoes(t) {
		t.Error("the terminal no longer echoes")
	}
	p := &proxy{infoPath: infoPath}
	p.readInfo(t)
	if got := turn().exchange(t, p, patience); got.status != http.StatusOK {
		t.Errorf("status %d, want 200", got.status)
	}
	wantOperator(t, p, upstream.all())
}

func TestAnEmptyKeyOnATerminalEndsTheCommandWithCode1(t *testing.T) {
	tty := onTerminal(t, command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy"))
	tty.await(t, "API key")
	tty.awaitEcho(t, false)
	if _, err := tty.WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	tty.await(t, "empty")
	if _ = tty.cmd.Wait(); tty.cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("exit code %d, want 1", tty.cmd.ProcessState.ExitCode())
	}
}

func TestCtrlCAtThePromptLeavesTheTerminalAsItWas(t *testing.T) {
	tty := onTerminal(t, command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy"))
	tty.await(t, "API key")
	tty.awaitEcho(t, false)
	if _, err := tty.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	_ = tty.cmd.Wait()
	if !tty.echoes(t) {
		t.Error("the terminal no longer echoes")
	}
}

// Caddy's own line has the way through the config before what is wrong.
func TestAnErrorOnATerminalIsSaidInALineOfItsOwn(t *testing.T) {
	ends := func(tty *terminal, line string) {
		t.Helper()
		tty.await(t, line)
		_, _ = io.Copy(&tty.shown, tty) // to the end of the program, which is an error here
		if err := tty.cmd.Wait(); err == nil {
			t.Error("the program does not fail")
		}
	}
	dir := t.TempDir()

	tty := onTerminal(t, command(t, dir, gatetest.CaddyBinary, "responses-proxy", "--server-info", dir))
	tty.await(t, "API key")
	tty.awaitEcho(t, false)
	if _, err := tty.WriteString(operatorKey + "\n"); err != nil {
		t.Fatal(err)
	}
	ends(tty, "--server-info "+dir+": it is a directory")
	if shown := tty.shown.String(); strings.Contains(shown, "http.handlers") || strings.Contains(shown, `{"level"`) || strings.Contains(shown, operatorKey) {
		t.Errorf("it is said in the words of the config, not of the flags: %s", shown)
	}

	config := filepath.Join(dir, "Caddyfile")
	if err := os.WriteFile(config, []byte(`{
	admin off
}
http://:18080 {
	responses_proxy_gate {
		upstream_bearer {env.OPENAI_API_KEY}
	}
	reverse_proxy https://api.openai.com
}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := command(t, dir, gatetest.CaddyBinary, "run", "--config", config)
	cmd.Env = append(cmd.Env, "OPENAI_API_KEY="+operatorKey)
	tty = onTerminal(t, cmd)
	ends(tty, "write bind 127.0.0.1")
	if shown := "\n" + tty.shown.String(); !strings.Contains(shown, "\nresponses_proxy_gate: gate default: the listener \":18080\" is not loopback") {
		t.Errorf("no line begins with what is wrong: %s", shown)
	}
}
