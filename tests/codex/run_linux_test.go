package codex

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// runVerb prepares "caddy responses-proxy run", with the key in its environment.
func runVerb(t *testing.T, upstreamURL string, args ...string) *exec.Cmd {
	t.Helper()
	args = append([]string{"responses-proxy", "run", "--upstream-url", upstreamURL}, args...)
	cmd := command(t, t.TempDir(), gatetest.CaddyBinary, args...)
	cmd.Env = append(cmd.Env, "OPENAI_API_KEY="+operatorKey)
	return cmd
}

// curlTurn is how a script calls the gate, as its environment says.
const curlTurn = `printf 'Authorization: Bearer %s\n' "$OPENAI_API_KEY" | curl -sS -o /dev/null -w '%{http_code}\n' -H @- -H 'Content-Type: application/json' -d '{}' "$OPENAI_BASE_URL/responses"`

func TestTheCommandOfRunCallsTheAPIAndHasNoKey(t *testing.T) {
	upstream := newUpstream(t)
	cmd := runVerb(t, upstream.responsesURL(), "--", "sh", "-c", "env; "+curlTurn)
	cmd.Env = append(cmd.Env, "HTTP_PROXY=http://127.0.0.1:1", "http_proxy=http://127.0.0.1:1", "COPY=a "+operatorKey+" b", "OTHER=other", "LD_OTHER=kept")
	got := run(t, cmd)
	if got.code != 0 || !strings.HasSuffix(got.stdout, "\n200\n") {
		t.Fatalf("exit code %d, %s%s", got.code, got.stdout, got.stderr)
	}
	wantAll(t, got.stdout, []string{
		"OPENAI_BASE_URL=http://127.0.0.1:", "OPENAI_API_KEY=", "OTHER=other", "LD_OTHER=kept",
		"NO_PROXY=127.0.0.1,localhost,127.0.0.1,localhost,::1", "no_proxy=127.0.0.1,localhost,::1",
	})
	if strings.Contains(got.stdout+got.stderr, operatorKey) || strings.Contains(got.stdout, "COPY=") {
		t.Errorf("the key is in the command's environment:\n%s", got.stdout)
	}
	for _, request := range upstream.all() {
		if header := request.header.Get("Authorization"); header != "Bearer "+operatorKey {
			t.Errorf("the upstream got Authorization %q, want the key", header)
		}
	}
	if entries, err := os.ReadDir(cmd.Dir); err != nil || len(entries) > 0 {
		t.Errorf("run has left %v in its home (%v)", entries, err)
	}
}

func TestTheCommandOfRunHasNeitherTheFilesKeyNorTheInheritedOne(t *testing.T) {
	upstream := newUpstream(t)
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(operatorKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	const inherited = "sk-inherited-0123456789"
	for _, key := range []string{inherited, "local"} {
		cmd := runVerb(t, upstream.responsesURL(), "--key-file", keyFile, "--", "sh", "-c", "env; "+curlTurn)
		cmd.Env = append(cmd.Env, "OPENAI_API_KEY="+key, "COPY="+key, "OTHER=a "+operatorKey+" b", "PLACE=/usr/local/bin")
		got := run(t, cmd)
		if got.code != 0 || !strings.HasSuffix(got.stdout, "\n200\n") {
			t.Fatalf("exit code %d, %s%s", got.code, got.stdout, got.stderr)
		}
		wantAll(t, got.stdout, []string{"PLACE=/usr/local/bin\n", "PATH=/"})
		for _, word := range []string{operatorKey, inherited, "COPY=", "OTHER="} {
			if strings.Contains(got.stdout+got.stderr, word) {
				t.Errorf("with %s in OPENAI_API_KEY, the command has %q:\n%s", key, word, got.stdout)
			}
		}
	}
}

// look is a program that looks for the key wherever a command could find it
// without its parent's help.
const look = `
	env
	tr '\0' '\n' </proc/$PPID/cmdline
	for file in environ maps auxv mem; do
		if (exec 9</proc/$PPID/$file) 2>/dev/null; then echo "opens:$file"; fi
	done
	tr '\0' '\n' </proc/$PPID/environ 2>/dev/null
	cat /proc/$PPID/fd/* 2>/dev/null </dev/null
	for fd in /proc/self/fd/*; do case $fd in */[012]) ;; *) cat "$fd" 2>/dev/null ;; esac; done
	cat <&7 2>/dev/null
	exit 5`

func TestNothingHandsTheCommandOfRunTheKey(t *testing.T) {
	upstream := newUpstream(t)
	home := unprivilegedHome(t)
	keyFile := filepath.Join(home, "key")
	if err := os.WriteFile(keyFile, []byte(operatorKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(keyFile, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	looks := func(cmd *exec.Cmd) result {
		t.Helper()
		cmd = unprivileged(t, cmd)
		open, err := os.Open(keyFile)
		if err != nil {
			t.Fatal(err)
		}
		defer open.Close()
		// A shell may have opened the file for itself: descriptor 7.
		for range 4 {
			cmd.ExtraFiles = append(cmd.ExtraFiles, nil)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, open)
		got := run(t, cmd)
		if got.code != 5 {
			t.Fatalf("exit code %d: %s", got.code, got.stderr)
		}
		return got
	}
	// A shell in place of run: there the same look finds everything.
	control := command(t, home, "sh", "-c", `sh -c "$0"; exit $?`, look)
	control.Env = append(control.Env, "OPENAI_API_KEY="+operatorKey)
	seen := looks(control).stdout
	wantAll(t, seen, []string{"opens:environ", "opens:mem", "opens:maps"})
	if strings.Count(seen, operatorKey) < 3 {
		t.Fatalf("the look finds nothing where there is no gate:\n%s", seen)
	}
	for name, args := range map[string][]string{"from the environment": nil, "from a file": {"--key-file", keyFile}} {
		t.Run(name, func(t *testing.T) {
			got := looks(runVerb(t, upstream.responsesURL(), append(args, "--", "sh", "-c", look)...))
			if strings.Contains(got.stdout+got.stderr, operatorKey) {
				t.Errorf("the command found the key:\n%s", got.stdout)
			}
			if strings.Contains(got.stdout, "opens:environ") || strings.Contains(got.stdout, "opens:mem") || strings.Contains(got.stdout, "opens:maps") {
				t.Errorf("the command can look into the gate:\n%s", got.stdout)
			}
		})
	}
}

func TestRunEndsWithTheCommandsExitCode(t *testing.T) {
	upstream := newUpstream(t)
	for name, test := range map[string]struct {
		words []string
		code  int
	}{
		"0":                    {[]string{"true"}, 0},
		"1":                    {[]string{"false"}, 1},
		"7":                    {[]string{"sh", "-c", "exit 7"}, 7},
		"a signal":             {[]string{"sh", "-c", "kill -KILL $$"}, 128 + 9},
		"no such program":      {[]string{"no-such-program-anywhere"}, 127},
		"no program":           {[]string{"/etc/passwd"}, 126},
		"no such path":         {[]string{"/no/such/program"}, 127},
		"flags of the command": {[]string{"sh", "-c", `[ "$*" = "--port x" ] && exit 3`, "sh", "--port", "x"}, 3},
	} {
		for _, dashes := range [][]string{nil, {"--"}} {
			if got := run(t, runVerb(t, upstream.responsesURL(), append(dashes, test.words...)...)); got.code != test.code {
				t.Errorf("%s (%q): exit code %d, want %d; %s", name, dashes, got.code, test.code, got.stderr)
			}
		}
	}
}

// ignored are signals that the tests were started without. Package signal does
// not know that any more once a test has asked for one of them.
var ignored = map[syscall.Signal]bool{syscall.SIGHUP: signal.Ignored(syscall.SIGHUP), syscall.SIGINT: signal.Ignored(syscall.SIGINT)}

func TestRunPassesSignalsOn(t *testing.T) {
	upstream := newUpstream(t)
	for name, sent := range map[string]syscall.Signal{
		"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "QUIT": syscall.SIGQUIT, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
	} {
		if ignored[sent] {
			continue // (as under nohup; then the command ignores it, too)
		}
		cmd := runVerb(t, upstream.responsesURL(), "--", "sh", "-c", fmt.Sprintf("trap 'exit 9' %s; echo ready >&2; while :; do read line || :; done", name))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // away from a terminal of whoever runs the tests
		p := start(t, cmd)
		p.await(t, "ready")
		p.signal(t, sent)
		if code := p.Wait(); code != 9 {
			t.Errorf("SIG%s: exit code %d, want the command's 9", name, code)
		}
	}
}

func TestCtrlCReachesTheCommandOfRunOnce(t *testing.T) {
	upstream := newUpstream(t)
	tty := onTerminal(t, runVerb(t, upstream.responsesURL(), "--", "sh", "-c",
		`n=0; trap 'n=$((n+1)); echo "interrupted"' INT; echo ready; until read line && [ "$line" = end ]; do :; done; exit $((20+n))`))
	tty.await(t, "ready")
	if _, err := tty.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	tty.await(t, "interrupted")
	if _, err := tty.WriteString("end\n"); err != nil {
		t.Fatal(err)
	}
	_ = tty.cmd.Wait()
	if code := tty.cmd.ProcessState.ExitCode(); code != 21 {
		t.Errorf("exit code %d: the command got Ctrl-C %d times, want once", code, code-20)
	}
}

func TestTheCommandEndsWithAGateThatIsKilled(t *testing.T) {
	upstream := newUpstream(t)
	p := start(t, runVerb(t, upstream.responsesURL(), "--", "sh", "-c", "trap 'echo told >&2; exit' TERM; echo ready >&2; while :; do read line || :; done"))
	p.await(t, "ready")
	gatetest.Must(t, p.Cmd.Process.Kill())
	p.await(t, "told")
}

func TestWhatOutlivesTheCommandOfRunFindsNoGate(t *testing.T) {
	upstream := newUpstream(t)
	// It has a request under way when the command ends, and asks again when that has failed.
	release := make(chan struct{})
	t.Cleanup(func() { close(release) })
	arrived := make(chan struct{}, 1)
	upstream.forget(func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	cmd := runVerb(t, upstream.responsesURL(), "--", "sh", "-c",
		`(`+curlTurn+` >/dev/null 2>&1; `+curlTurn+` >/dev/null; echo "again: $?, $OPENAI_BASE_URL" >&2) & read line; exit 4`)
	p := start(t, cmd)
	<-arrived
	if _, err := p.stdin.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	line := p.await(t, "again: 7, ") // curl could not connect
	if code := p.Wait(); code != 4 {
		t.Errorf("exit code %d, want the command's 4", code)
	}
	_, address, _ := strings.Cut(strings.TrimSpace(line), "http://")
	if conn, err := net.Dial("tcp", strings.TrimSuffix(address, "/v1")); err == nil {
		conn.Close()
		t.Errorf("somebody still listens at %s", address)
	}
}

func TestRunAsAnotherUserKeepsTheKeyFromIt(t *testing.T) {
	needsRoot(t)
	upstream := newUpstream(t)
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(operatorKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := "id -u; cat " + keyFile + "; " + curlTurn + "; " + look
	for name, args := range map[string][]string{"from the environment": nil, "from a file": {"--key-file", keyFile}} {
		cmd := runVerb(t, upstream.responsesURL(), append(args, "--as", "nobody", "--", "sh", "-c", script)...)
		cmd.Dir = "/"
		cmd.Env = append(cmd.Env, "ROOTS=secret", "XDG_RUNTIME_DIR=/run/user/0", "TERM=vt100", "LC_ALL=C", "HTTPS_PROXY=http://me:passphrase@127.0.0.1:1", "ALL_PROXY=http://127.0.0.1:1")
		got := run(t, cmd)
		if !strings.HasPrefix(got.stdout, fmt.Sprintf("%d\n200\n", nobody)) {
			t.Fatalf("%s: %s%s", name, got.stdout, got.stderr)
		}
		wantAll(t, got.stdout, []string{"\nUSER=nobody\n", "\nHOME=", "\nTERM=vt100\n", "\nLC_ALL=C\n", "\nPATH=", "\nALL_PROXY=http://127.0.0.1:1\n"})
		for _, word := range []string{operatorKey, "ROOTS", "passphrase", "XDG_RUNTIME_DIR", "opens:environ", "opens:mem", "HOME=" + filepath.Dir(keyFile)} {
			if strings.Contains(got.stdout+got.stderr, word) {
				t.Errorf("%s: the command has %q:\n%s%s", name, word, got.stdout, got.stderr)
			}
		}
	}
}

func TestRunRefusesWhatWouldGiveTheKeyAwayOrCannotWork(t *testing.T) {
	upstream := newUpstream(t)
	for name, test := range map[string]struct {
		env  []string
		args []string
		want string
	}{
		"no key":                  {[]string{"OPENAI_API_KEY="}, []string{"true"}, "--key-file"},
		"a key that is none":      {[]string{"OPENAI_API_KEY=sk secret"}, []string{"true"}, "OPENAI_API_KEY"},
		"a key file that is none": {nil, []string{"--key-file", "/no/such/file", "true"}, "/no/such/file"},
		"an admin socket":         {nil, []string{"--admin-socket", "/tmp/socket", "true"}, "--admin-socket"},
		"rotation":                {nil, []string{"--server-info", "x.json", "--rotate-every", "1h", "true"}, "--rotate-every"},
		"no Codex":                {nil, []string{"--codex", "true"}, "--codex"},
		"no command":              {nil, nil, "arg"},
		"as root":                 {nil, []string{"--as", "root", "true"}, "--as root"},
		"as nobody there is":      {nil, []string{"--as", "no-such-user", "true"}, "--as no-such-user"},
	} {
		cmd := runVerb(t, upstream.responsesURL(), test.args...)
		cmd.Env = append(cmd.Env, test.env...)
		if got := run(t, cmd); got.code != 1 || !strings.Contains(got.stderr, test.want) || strings.Contains(got.stderr, "secret") {
			t.Errorf("%s: exit code %d, want 1 and %q: %s", name, got.code, test.want, got.stderr)
		}
	}
	as := unprivileged(t, runVerb(t, upstream.responsesURL(), "--as", "daemon", "true"))
	if got := run(t, as); got.code != 1 || !strings.Contains(got.stderr, "root") {
		t.Errorf("--as by somebody who is not root: exit code %d: %s", got.code, got.stderr)
	}
}

func TestCodexUnderRunCompletesATurn(t *testing.T) {
	for name, binary := range gatetest.CodexBinaries(t) {
		t.Run(name, func(t *testing.T) {
			upstream := newUpstream(t)
			cmd := runVerb(t, upstream.responsesURL(), "--codex", "--", binary, "exec", "--skip-git-repo-check", "-m", "gpt-5", "hi")
			cmd.Env = append(cmd.Env, "HTTP_PROXY=http://127.0.0.1:1")
			got := run(t, cmd)
			wantTurn(t, upstream, got)
			if strings.Contains(got.stdout+got.stderr, operatorKey) || strings.Contains(got.stderr, "ERROR") {
				t.Errorf("Codex printed the key or an error:\n%s", got.stderr)
			}
			for _, request := range upstream.all() {
				if header := request.header.Get("Authorization"); header != "Bearer "+operatorKey {
					t.Errorf("the upstream got Authorization %q, want the key", header)
				}
			}
		})
	}
}

func TestCodexOnATerminalUnderRunLeavesNoProcess(t *testing.T) {
	for name, binary := range gatetest.CodexBinaries(t) {
		t.Run(name, func(t *testing.T) {
			upstream := newUpstream(t)
			cmd := runVerb(t, upstream.responsesURL(), "--codex", "--", binary)
			cmd.Env = append(cmd.Env, "TERM=xterm-256color", "MARK="+t.Name())
			tty := onTerminal(t, cmd)
			tty.await(t, "\x1b") // it draws
			_ = tty.Close()      // its terminal goes
			_ = tty.cmd.Wait()
			for _, pid := range processesWith(t, "MARK="+t.Name()) {
				t.Errorf("process %s is left", pid)
			}
		})
	}
}

// processesWith are the processes that have a variable in their environment.
func processesWith(t *testing.T, variable string) (pids []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if environ, err := os.ReadFile(file); err == nil && strings.Contains("\x00"+string(environ), "\x00"+variable+"\x00") {
			pids = append(pids, filepath.Base(filepath.Dir(file)))
		}
	}
	return pids
}
