//go:build unix

package admin

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAnOperatorListsRotatesAndRevokesFromTheCommandLine(t *testing.T) {
	t.Parallel()
	g := start(t, gatetest.NewUpstream(t, nil), twoClients)
	own, codex, ci := g.Token, tokenOf(t, g, "codex"), tokenOf(t, g, "ci")
	if statusWith(t, g, codex) != 200 {
		t.Fatal("codex is refused from the start")
	}
	do := func(want string, args ...string) {
		t.Helper()
		out, code := run(t, args...)
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%v: exit code %d, want 0 and %q:\n%s", args, code, want, out)
		}
		wantNone(t, "the output", out, own, codex, ci, tokenOf(t, g, "codex"))
	}
	// as caddy reload finds it
	do("codex", "clients", "--config", g.Site.ConfigPath(), "--adapter", "caddyfile")
	do(`"accepted_requests":1`, atSocket(g, "clients", "--json")...)
	do("rotated: gate default, client codex; the new token is in "+clientFile(g.Site.Dir, "codex"), atSocket(g, "rotate", "--client", "codex", "--grace", "1h")...)
	next := tokenOf(t, g, "codex")
	if next == codex || statusWith(t, g, codex) != 200 || statusWith(t, g, next) != 200 {
		t.Error("there is no new token, or one of the two is refused during the grace")
	}
	do("client default", atSocket(g, "rotate", "--grace", "0s")...)
	if statusWith(t, g, own) != 401 || statusWith(t, g, ci) != 200 {
		t.Error("the gate's own token goes on, or another ended")
	}
	do("client ci;", atSocket(g, "rotate", "--all", "--grace", "0s")...)
	if statusWith(t, g, codex) != 401 || statusWith(t, g, next) != 401 || statusWith(t, g, ci) != 401 || statusWith(t, g, tokenOf(t, g, "ci")) != 200 {
		t.Error("a former token goes on, or the new one is refused")
	}
	last := tokenOf(t, g, "ci")
	do("revoked: gate default, client ci\n", atSocket(g, "revoke", "--client", "ci")...)
	if statusWith(t, g, last) != 401 || !gatetest.Missing(clientFile(g.Site.Dir, "ci")) {
		t.Error("the revoked client's token or file is still there")
	}
	do("revoked", atSocket(g, "clients")...)
	wantNone(t, "Caddy's log", g.Output.String(), own, codex, ci, next, last)
	for _, want := range []string{`"msg":"token rotated","gate":"default","client":"codex"`, `"msg":"access revoked","gate":"default","client":"ci"`} {
		if !strings.Contains(g.Output.String(), want) {
			t.Errorf("Caddy's log does not say %s:\n%s", want, g.Output)
		}
	}
}

// Caddy says on stderr which config it reads, and that it is not formatted.
// A job that mails what it prints would mail that.
func TestAVerbThatReadsTheConfigPrintsNothingButItsOwn(t *testing.T) {
	t.Parallel()
	g := start(t, gatetest.NewUpstream(t, nil), twoClients)
	where := []string{"--config", g.Site.ConfigPath(), "--adapter", "caddyfile"}
	for _, verb := range [][]string{{"clients", "--json"}, {"refusals", "--json"}} {
		found, code := run(t, append(verb, where...)...)
		if code != 0 || !json.Valid([]byte(found)) {
			t.Errorf("%s: exit code %d, want 0 and JSON alone:\n%s", verb[0], code, found)
		}
	}
}

func TestAVerbThatCannotDoItsWorkSaysWhatToWrite(t *testing.T) {
	t.Parallel()
	g := start(t, gatetest.NewUpstream(t, nil), twoClients)
	off := gatetest.Site{Dir: gatetest.TempDir(t)}.With(t, g.Up)
	gatetest.WriteFile(t, off.ConfigPath(), off.Caddyfile())
	gone := gatetest.TempDir(t) + "/gone.sock"
	for name, attempt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"with the admin endpoint off":   {[]string{"clients", "--config", off.ConfigPath(), "--adapter", "caddyfile"}, 1, `write \"admin unix//path/of/a/socket\"`},
		"without any config":            {[]string{"clients"}, 1, "--address /path/of/its/socket"},
		"with a config that is missing": {[]string{"clients", "--config", gone}, 1, "no such file"},
		"with no Caddy there":           {[]string{"clients", "--address", "unix/" + gone}, 3, "no Caddy answers"},
		"with nobody on the port":       {[]string{"clients", "--address", fmt.Sprintf("127.0.0.1:%d", gatetest.FreePort(t))}, 3, "no Caddy answers"},
		"with two addresses":            {[]string{"clients", "--address", "127.0.0.1:2019-2020"}, 1, "not one address"},
		"for an unknown client":         {atSocket(g, "rotate", "--client", "other"), 1, `"msg":"gate default has no client \"other\" in`},
		"for an unknown gate":           {atSocket(g, "rotate", "--gate", "other"), 1, `"msg":"there is no gate \"other\" in`},
		"for one client and all":        {atSocket(g, "rotate", "--client", "ci", "--all"), 1, "choose one"},
		"with a grace without a unit":   {atSocket(g, "rotate", "--grace", "5"), 1, "write a duration such as 5m"},
		"with a negative grace":         {atSocket(g, "rotate", "--grace", "-5m"), 1, "write a duration such as 5m"},
		"for nobody in particular":      {atSocket(g, "revoke"), 1, "--client is missing"},
		"with a word too many":          {atSocket(g, "revoke", "ci"), 1, "unknown command"},
	} {
		t.Run(name, func(t *testing.T) {
			out, code := run(t, attempt.args...)
			if code != attempt.code || !strings.Contains(out, attempt.says) {
				t.Errorf("exit code %d, want %d and %q:\n%s", code, attempt.code, attempt.says, out)
			}
		})
	}
	g.Works(t)
}

// What the socket can do, it could also do to the key.
func TestAnotherUserCannotReachTheAdminSocket(t *testing.T) {
	t.Parallel()
	nobody := gatetest.AsNobody(t)
	up := gatetest.NewUpstream(t, nil)
	for name, g := range map[string]*gatetest.Gate{
		"of a Caddyfile":  start(t, up, twoClients),
		"of the command":  startCommand(t, up, gatetest.Launch{}),
		"of a loose user": startCommand(t, up, gatetest.Launch{Umask: "000"}),
	} {
		gatetest.Must(t, os.Chmod(g.Site.Dir, 0o755)) // it can be seen
		info, err := os.Stat(g.Site.AdminSocket())
		gatetest.Must(t, err)
		if info.Mode().Perm() != 0o200 {
			t.Errorf("%s: its mode is %v", name, info.Mode())
		}
		// Caddy sets that mode only after it has made the socket.
		if status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", g.PID())); err == nil && name != "of a Caddyfile" &&
			!strings.Contains(string(status), "\nUmask:\t0077\n") {
			t.Errorf("%s: others could connect to it before: %s", name, status)
		}
		for _, verb := range [][]string{{"clients"}, {"rotate"}, {"revoke", "--client", "default"}} {
			home := gatetest.NobodysDir(t)
			out, code := gatetest.Run(t, gatetest.Launch{Dir: home, User: nobody, Args: append([]string{"responses-proxy"}, atSocket(g, verb...)...)})
			if code != 1 || !strings.Contains(out, "only the user who runs Caddy") {
				t.Errorf("%s, %v: exit code %d\n%s", name, verb, code, out)
			}
		}
		g.Works(t)
	}
}

func startCommand(t *testing.T, up *gatetest.Upstream, l gatetest.Launch) *gatetest.Gate {
	t.Helper()
	s := gatetest.Site{Dir: gatetest.TempDir(t)}
	l.Args = append(l.Args, "--admin-socket", s.AdminSocket(), "--rotate-every", "12h 5m")
	return gatetest.StartCommand(t, up, s, l)
}

func TestTheCommandsTokenIsRotatedThroughItsSocket(t *testing.T) {
	t.Parallel()
	g := startCommand(t, gatetest.NewUpstream(t, nil), gatetest.Launch{})
	leaked := g.Token
	if out, code := run(t, atSocket(g, "rotate", "--grace", "0s")...); code != 0 {
		t.Fatalf("exit code %d: %s", code, out)
	}
	if statusWith(t, g, leaked) != 401 {
		t.Error("the leaked token is still taken")
	}
	g.ReadInfo()
	g.Works(t)
	if out, code := run(t, atSocket(g, "clients")...); code != 0 || !strings.Contains(out, "in 11h") {
		t.Errorf("exit code %d, want the time of the next rotation:\n%s", code, out)
	}
	if !strings.Contains(g.Output.String(), "token rotated") {
		t.Errorf("the log does not tell:\n%s", g.Output)
	}
	wantNone(t, "the log", g.Output.String(), leaked, g.Token)
	socket := g.Site.AdminSocket()
	g.Signal(syscall.SIGTERM)
	if g.Wait() != 0 || !gatetest.Missing(socket) {
		t.Error("the socket stays behind")
	}
}

func TestTheCommandRefusesAnAdminSocketThatOthersCouldReplace(t *testing.T) {
	t.Parallel()
	open := gatetest.TempDir(t)
	gatetest.Mkdir(t, open+"/open", 0o777)
	gatetest.WriteFile(t, open+"/notes.txt", "precious")
	used := startCommand(t, gatetest.NewUpstream(t, nil), gatetest.Launch{}).Site.AdminSocket()
	for name, attempt := range map[string]struct{ flags, says string }{
		"in a directory of everybody's": {"--admin-socket " + open + "/open/a.sock", "others can write to directory"},
		"in no directory":               {"--admin-socket " + open + "/none/a.sock", "does not exist"},
		"in place of a file":            {"--admin-socket " + open + "/notes.txt", "is not a socket"},
		"of another proxy":              {"--admin-socket " + used, "in use by another process"},
		"with a mode of its own":        {"--admin-socket " + open + "/a.sock|0777", "another path"},
		"and a rotation without a file": {"--rotate-every 12h", "it needs --server-info"},
		"and a rotation of no time":     {"--rotate-every often --server-info " + open + "/info.json", "INTERVAL GRACE"},
	} {
		t.Run(name, func(t *testing.T) {
			l := gatetest.Launch{Dir: gatetest.TempDir(t), Stdin: strings.NewReader(gatetest.OperatorKey + "\n")}
			l.Args = append([]string{"responses-proxy"}, strings.Fields(attempt.flags)...)
			out, code := gatetest.Run(t, l)
			if code != 1 || !strings.Contains(out, attempt.says) {
				t.Errorf("exit code %d, want 1 and %q:\n%s", code, attempt.says, out)
			}
		})
	}
	if gatetest.ReadFile(t, open+"/notes.txt") != "precious" {
		t.Error("a file was removed")
	}
}

// Programs read it: nothing but the answer may be on stdout.
func TestTheListForProgramsIsAloneOnStdout(t *testing.T) {
	t.Parallel()
	g := start(t, gatetest.NewUpstream(t, nil), twoClients)
	out, err := exec.Command(gatetest.CaddyBinary, append([]string{"responses-proxy"}, atSocket(g, "clients", "--json")...)...).Output()
	if err != nil || !strings.HasPrefix(string(out), `{"gates":[{"name":"default"`) || !strings.HasSuffix(string(out), "}]}\n") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestAClientIsDisabledAndEnabledAndItsRefusalsAreListedFromTheCommandLine(t *testing.T) {
	t.Parallel()
	g := start(t, gatetest.NewUpstream(t, nil), twoClients)
	codex := tokenOf(t, g, "codex")
	at := func(args ...string) []string { return append(args, "--address", g.Site.AdminSocket()) } // as a path
	do := func(want string, args ...string) {
		t.Helper()
		out, code := run(t, at(args...)...)
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("%v: exit code %d, want 0 and %q:\n%s", args, code, want, out)
		}
		wantNone(t, "the output", out, codex)
	}
	do("disabled: gate default, client codex\n", "disable", "--client", "codex")
	if statusWith(t, g, codex) != 401 || statusWith(t, g, tokenOf(t, g, "ci")) != 200 {
		t.Error("the disabled client passes, or another does not")
	}
	do("disabled", "clients")
	do("enabled: gate default, client codex\n", "enable", "--client", "codex")
	if statusWith(t, g, codex) != 200 || tokenOf(t, g, "codex") != codex {
		t.Error("the token is refused, or is another")
	}
	do("invalid_token", "refusals")
	do(`"path":"/v1/responses","code":"invalid_token","status":401`, "refusals", "--json")
}
