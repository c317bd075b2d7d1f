//go:build unix

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func modeOf(t *testing.T, path string) os.FileMode {
	t.Helper()
	stat, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return stat.Mode()
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	stat, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	return stat.Sys().(*syscall.Stat_t).Ino
}

func TestServerInfoIsForItsOwnerOnlyWhateverTheUmask(t *testing.T) {
	t.Parallel()
	for _, umask := range []string{"0000", "0022", "0077", "0777"} {
		t.Run("umask "+umask, func(t *testing.T) {
			t.Parallel()
			dir := gatetest.TempDir(t)
			// Two parents are missing.
			path := filepath.Join(dir, "new", "deep", "info.json")
			s := gatetest.Site{Dir: dir, NoInfo: true, Gate: "server_info " + path, Umask: umask}
			g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), s)
			g.WaitOutput("server-info written", 1)
			if mode := modeOf(t, path); mode != 0o600 {
				t.Errorf("the file's mode is %v, want -rw-------", mode)
			}
			for _, parent := range []string{filepath.Dir(path), filepath.Join(dir, "new")} {
				if mode := modeOf(t, parent); mode != 0o700|os.ModeDir {
					t.Errorf("the mode of a new parent is %v, want drwx------", mode)
				}
			}
			// Nothing is left beside it but its lock: no temporary file.
			if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 || entries[0].Name() != "."+filepath.Base(path)+".lock" {
				t.Errorf("its directory has %v, %v", entries, err)
			} else if mode := modeOf(t, filepath.Join(filepath.Dir(path), entries[0].Name())); mode != 0o600 {
				t.Errorf("the mode of its lock is %v", mode)
			}
			in := gatetest.ReadInfo(t, path)
			g.Token, g.Addr = in.AuthToken, fmt.Sprintf("127.0.0.1:%d", in.Port)
			g.Works(t)
		})
	}
}

func TestServerInfoTellsWhatACallerNeeds(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	want := fmt.Sprintf("{\"port\":%d,\"pid\":%d,\"auth_token\":%q,\"base_url\":\"http://127.0.0.1:%d/v1\"}\n",
		g.Info.Port, g.PID(), g.Token, g.Info.Port)
	if got := gatetest.ReadFile(t, g.Site.InfoPath()); got != want {
		t.Errorf("server-info is %q, want %q", got, want)
	}
	if g.Info.Port == 0 {
		t.Error("the port is not the one really bound")
	}
	g.Works(t)
}

func TestATokenIs256RandomBitsAndNewAtEachLaunch(t *testing.T) {
	t.Parallel()
	dir := gatetest.TempDir(t)
	seen := make(map[string]bool)
	for range 3 {
		g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: dir})
		raw, err := base64.RawURLEncoding.Strict().DecodeString(g.Token)
		if err != nil || len(raw) != 32 || len(g.Token) != 43 {
			t.Errorf("token %q: %d bytes, %v", g.Token, len(raw), err)
		}
		if seen[g.Token] {
			t.Error("two launches have the same token")
		}
		for old := range seen {
			gatetest.Refused(t, g.Do(t, gatetest.SetHeader("Authorization", "Bearer "+old)), 401, "invalid_token")
		}
		seen[g.Token] = true
		g.Signal(syscall.SIGTERM)
		g.Wait()
	}
}

func TestServerInfoIsRemovedAtExit(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, g *gatetest.Gate){
		"SIGTERM": func(_ *testing.T, g *gatetest.Gate) { g.Signal(syscall.SIGTERM) },
		"SIGINT":  func(_ *testing.T, g *gatetest.Gate) { g.Signal(syscall.SIGINT) },
		"POST to the shutdown endpoint": func(t *testing.T, g *gatetest.Gate) {
			askToShutDown(t, g, "POST /shutdown HTTP/1.1", append(gatetest.Without(gatetest.RawGood(), "Content-"), "Content-Length: 0"))
		},
		"GET to the shutdown endpoint": func(t *testing.T, g *gatetest.Gate) {
			askToShutDown(t, g, "GET /shutdown HTTP/1.1", gatetest.Without(gatetest.RawGood(), "Content-"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "shutdown_endpoint"})
			end(t, g)
			if code := g.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if !gatetest.Missing(g.Site.InfoPath()) {
				t.Error("server-info is still there")
			}
			g.Up.SawNothing(t)
		})
	}
}

func askToShutDown(t *testing.T, g *gatetest.Gate, line string, headers []string) {
	t.Helper()
	got := g.RawDo(t, line, headers, "")
	if got.Status != 200 || got.Header.Get("Cache-Control") != "no-store" || got.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("shutdown got %d %v %s", got.Status, got.Header, got.Body)
	}
}

func TestOnlyACallerWithTheTokenCanShutDown(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "shutdown_endpoint /bye"})
	for _, a := range []struct {
		harm    string
		line    string
		headers []string
		status  int
		code    string
	}{
		{"an img tag", "GET /bye HTTP/1.1", append(gatetest.Without(gatetest.RawGood(), "Content-"), "Sec-Fetch-Site: cross-site"), 403, "cross_site_request"},
		{"a form", "POST /bye HTTP/1.1", append(gatetest.Without(gatetest.RawGood(), "Content-"), "Content-Length: 0", "Origin: https://attacker.example"), 403, "origin_not_allowed"},
		{"no token", "POST /bye HTTP/1.1", append(gatetest.Without(gatetest.RawGood(), "Content-", "X-Proxy"), "Content-Length: 0"), 401, "missing_token"},
		{"the default path", "POST /shutdown HTTP/1.1", gatetest.RawGood(), 403, "route_not_allowed"},
		{"a query", "POST /bye?x HTTP/1.1", gatetest.RawGood(), 403, "route_not_allowed"},
		{"PUT", "PUT /bye HTTP/1.1", gatetest.RawGood(), 403, "route_not_allowed"},
		{"an escape", "POST /%62ye HTTP/1.1", gatetest.RawGood(), 403, "route_not_allowed"},
	} {
		t.Run(a.harm, func(t *testing.T) {
			body := ""
			if strings.Contains(strings.Join(a.headers, "\n"), "Content-Length: 17") {
				body = gatetest.RawBody
			}
			gatetest.Refused(t, g.RawDo(t, a.line, a.headers, body), a.status, a.code)
		})
	}
	g.Works(t)
}

func TestAfterKill9TheNextLaunchReplacesTheStaleFile(t *testing.T) {
	t.Parallel()
	dir := gatetest.TempDir(t)
	first := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: dir})
	first.Kill()
	if stale := gatetest.ReadInfo(t, first.Site.InfoPath()); stale.AuthToken != first.Token {
		t.Fatalf("kill -9 left %+v", stale)
	}
	second := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: dir})
	if second.Token == first.Token || second.Info.PID != second.PID() {
		t.Errorf("the next launch has %+v", second.Info)
	}
	second.Works(t)
}

func TestAFileThatIsNotOursAnyMoreIsLeftAtExit(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	foreign := `{"port":1,"pid":1,"auth_token":"of another gate","base_url":"http://127.0.0.1:1/v1"}` + "\n"
	gatetest.WriteFile(t, g.Site.InfoPath()+".other", foreign)
	if err := os.Rename(g.Site.InfoPath()+".other", g.Site.InfoPath()); err != nil {
		t.Fatal(err)
	}
	g.Signal(syscall.SIGTERM)
	g.Wait()
	if gatetest.Missing(g.Site.InfoPath()) || gatetest.ReadFile(t, g.Site.InfoPath()) != foreign {
		t.Error("another gate's server-info was removed or changed")
	}
}

func TestValidateAndAdaptWriteNoServerInfo(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for _, command := range []string{"validate", "adapt"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{NoInfo: true}.With(t, up)
			s.Gate = "server_info " + filepath.Join(s.Dir, "new", "info.json")
			l := s.Launch(t)
			l.Args = append([]string{command}, l.Args[1:]...)
			out, code := gatetest.Run(t, l)
			if code != 0 {
				t.Errorf("exit code %d: %s", code, out)
			}
			if !gatetest.Missing(filepath.Join(s.Dir, "new")) {
				t.Error("it made the server-info's directory")
			}
			if strings.Contains(out, gatetest.OperatorKey) || strings.Contains(out, "the token of this launch") {
				t.Errorf("it printed a secret: %s", out)
			}
		})
	}
}

func TestWithoutServerInfoTheTokenIsPrintedOnceAndNotLogged(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{NoInfo: true, Admin: "unix", Address: fmt.Sprintf("http://:%d", gatetest.FreePort(t))})
	lines := g.WaitOutput("the token of this launch", 1)
	if len(lines) != 1 || strings.HasPrefix(lines[0], "{") {
		t.Fatalf("the token's line is %q", lines)
	}
	words := strings.Fields(lines[0])
	g.Token = words[len(words)-1]
	if len(g.Token) != 43 {
		t.Errorf("token %q", g.Token)
	}
	_, port, _ := strings.Cut(g.Site.Address, "http://:")
	g.Addr = "127.0.0.1:" + port
	g.Works(t)

	changed := g.Site
	changed.Gate = "allow_origin https://app.example"
	g.MustReload(t, changed)
	g.Works(t)
	g.Signal(syscall.SIGTERM)
	g.Wait()
	if n := strings.Count(g.Output.String(), g.Token); n != 1 {
		t.Errorf("the token was printed %d times, want once in all", n)
	}
}

func TestTheConfiguredOwnerGetsTheFile(t *testing.T) {
	t.Parallel()
	gatetest.NeedRoot(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	dir := gatetest.TempDir(t)
	path := filepath.Join(dir, "for-nobody", "info.json")
	config := gatetest.Site{Dir: dir, NoInfo: true, Gate: "server_info " + path + " {\nowner nobody\n}"}
	for range 2 { // the second launch finds the first's file, after kill -9
		g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), config)
		stat, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if owner := int(stat.Sys().(*syscall.Stat_t).Uid); owner != uid || stat.Mode() != 0o600 {
			t.Errorf("owner %d mode %v, want %d -rw-------", owner, stat.Mode(), uid)
		}
		g.Kill()
	}
	t.Run("an owner who does not exist is refused", func(t *testing.T) {
		s := gatetest.Site{NoInfo: true, Gate: "server_info " + filepath.Join(dir, "x", "y") + " {\nowner no-such-user-here\n}"}.With(t, gatetest.NewUpstream(t, nil))
		if message := gatetest.LastError(gatetest.StartRefused(t, s.Launch(t))); !strings.Contains(message, "no-such-user-here") {
			t.Errorf("message: %s", message)
		}
		if !gatetest.Missing(filepath.Join(dir, "x")) {
			t.Error("a refused config made a directory")
		}
	})
}

// As root runs "caddy validate", for a Caddy that will run as another user.
func TestRootCanValidateTheConfigOfTheUserWhoWillRunIt(t *testing.T) {
	t.Parallel()
	gatetest.NeedRoot(t)
	uid, gid := gatetest.Nobody(t)
	home := gatetest.NobodysDir(t)
	for _, name := range []string{"info.json", "key"} {
		gatetest.WriteFile(t, filepath.Join(home, name), gatetest.OperatorKey+"\n")
		gatetest.Must(t, os.Chmod(filepath.Join(home, name), 0o600))
		gatetest.Must(t, os.Chown(filepath.Join(home, name), uid, gid))
	}
	gatetest.Must(t, os.Mkdir(filepath.Join(home, "dumps"), 0o700))
	gatetest.Must(t, os.Chown(filepath.Join(home, "dumps"), uid, gid))
	site := gatetest.Site{
		Admin: "unix/" + filepath.Join(home, "admin.sock"),
		Key:   "upstream_bearer_file " + filepath.Join(home, "key"),
		Info:  filepath.Join(home, "info.json"),
		Gate:  "dump_dir " + filepath.Join(home, "dumps"),
	}.With(t, gatetest.NewUpstream(t, nil))
	answers := func(site gatetest.Site, command, says string) {
		t.Helper()
		l := site.Launch(t)
		l.Args = append([]string{command}, l.Args[1:]...)
		if out, code := gatetest.Run(t, l); (code == 0) != (says == "") || !strings.Contains(out, says) {
			t.Errorf("caddy %s of %s: exit code %d: %s", command, site.Info, code, out)
		}
	}
	answers(site, "validate", "")
	answers(site, "run", "belongs to uid ") // root itself does not put secrets there
	missing := site
	missing.Info, missing.Gate = filepath.Join(home, "new", "info.json"), "dump_dir "+filepath.Join(home, "new", "dumps")
	answers(missing, "validate", "")
	// What would keep that user's Caddy from starting is said to root, too.
	gatetest.Must(t, os.Chmod(site.Info, 0o644))
	answers(site, "validate", "lets its group or others access it")
	gatetest.Must(t, os.Chmod(site.Info, 0o600))
	gatetest.Must(t, os.Chmod(home, 0o777))
	answers(site, "validate", "others can write to directory "+home)
}

// "caddy validate" makes log files that are missing. As root, it makes them
// root's, and the user who runs Caddy could not write them.
func TestALogFileThatRootHasMadeByValidatingIsNamedWithItsRemedy(t *testing.T) {
	t.Parallel()
	user := gatetest.AsNobody(t)
	dir := gatetest.NobodysDir(t)
	file := filepath.Join(dir, "audit.log")
	site := gatetest.Site{
		Dir: dir, Admin: "unix",
		Global: "log audit {\ninclude http.handlers.responses_proxy_gate.audit\noutput file " + file + "\n}",
	}.With(t, gatetest.NewUpstream(t, nil))
	validate := func() string {
		l := site.Launch(t)
		l.Args = append([]string{"validate"}, l.Args[1:]...)
		out, code := gatetest.Run(t, l)
		if code != 0 {
			t.Errorf("caddy validate: exit code %d: %s", code, out)
		}
		return out
	}
	const warning = "a log file belongs to root"
	owner, err := os.Stat(dir)
	gatetest.Must(t, err)
	ids := owner.Sys().(*syscall.Stat_t)
	remedy := fmt.Sprintf("chown -h %d:%d '%s'", ids.Uid, ids.Gid, file)
	if said := validate(); !strings.Contains(said, warning) || !strings.Contains(said, remedy) {
		t.Errorf("it does not say %q and %q: %s", warning, remedy, said)
	}
	asUser := site.Launch(t)
	asUser.User = user
	gatetest.Must(t, os.Chmod(site.ConfigPath(), 0o644))
	if said := gatetest.LastError(gatetest.StartRefused(t, asUser)); !strings.Contains(said, file+": permission denied") {
		t.Errorf("the user's Caddy: %s", said)
	}
	if out, err := exec.Command("sh", "-c", remedy).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if said := validate(); strings.Contains(said, warning) {
		t.Errorf("it still says it: %s", said)
	}
	gatetest.Start(t, asUser).WaitOutput("serving initial configuration", 1)
}
