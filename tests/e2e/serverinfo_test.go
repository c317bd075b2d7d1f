//go:build unix

package e2e

import (
	"encoding/base64"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
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
			dir := tempDir(t)
			// Two parents are missing.
			path := filepath.Join(dir, "new", "deep", "info.json")
			s := site{dir: dir, noInfo: true, gate: "server_info " + path, umask: umask}
			g := startGate(t, newUpstream(t, nil), s)
			g.waitOutput("server-info written", 1)
			if mode := modeOf(t, path); mode != 0o600 {
				t.Errorf("the file's mode is %v, want -rw-------", mode)
			}
			for _, parent := range []string{filepath.Dir(path), filepath.Join(dir, "new")} {
				if mode := modeOf(t, parent); mode != 0o700|os.ModeDir {
					t.Errorf("the mode of a new parent is %v, want drwx------", mode)
				}
			}
			// Nothing else is left beside it, such as a temporary file.
			if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
				t.Errorf("its directory has %v, %v", entries, err)
			}
			in := readInfo(t, path)
			g.token, g.addr = in.AuthToken, fmt.Sprintf("127.0.0.1:%d", in.Port)
			g.works(t)
		})
	}
}

func TestServerInfoTellsWhatACallerNeeds(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	want := fmt.Sprintf("{\"port\":%d,\"pid\":%d,\"auth_token\":%q,\"base_url\":\"http://127.0.0.1:%d/v1\"}\n",
		g.info.Port, g.pid(), g.token, g.info.Port)
	if got := readFile(t, g.site.infoPath()); got != want {
		t.Errorf("server-info is %q, want %q", got, want)
	}
	if g.info.Port == 0 {
		t.Error("the port is not the one really bound")
	}
	g.works(t)
}

func TestATokenIs256RandomBitsAndNewAtEachLaunch(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	seen := make(map[string]bool)
	for range 3 {
		g := startGate(t, newUpstream(t, nil), site{dir: dir})
		raw, err := base64.RawURLEncoding.Strict().DecodeString(g.token)
		if err != nil || len(raw) != 32 || len(g.token) != 43 {
			t.Errorf("token %q: %d bytes, %v", g.token, len(raw), err)
		}
		if seen[g.token] {
			t.Error("two launches have the same token")
		}
		for old := range seen {
			refused(t, g.do(t, setHeader("Authorization", "Bearer "+old)), 401, "invalid_token")
		}
		seen[g.token] = true
		g.signal(syscall.SIGTERM)
		g.wait()
	}
}

func TestServerInfoIsRemovedAtExit(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(t *testing.T, g *gate){
		"SIGTERM": func(_ *testing.T, g *gate) { g.signal(syscall.SIGTERM) },
		"SIGINT":  func(_ *testing.T, g *gate) { g.signal(syscall.SIGINT) },
		"POST to the shutdown endpoint": func(t *testing.T, g *gate) {
			g.askToShutDown(t, "POST /shutdown HTTP/1.1", append(without(rawGood(), "Content-"), "Content-Length: 0"))
		},
		"GET to the shutdown endpoint": func(t *testing.T, g *gate) {
			g.askToShutDown(t, "GET /shutdown HTTP/1.1", without(rawGood(), "Content-"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := startGate(t, newUpstream(t, nil), site{gate: "shutdown_endpoint"})
			end(t, g)
			if code := g.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if !missing(g.site.infoPath()) {
				t.Error("server-info is still there")
			}
			g.up.sawNothing(t)
		})
	}
}

func (g *gate) askToShutDown(t *testing.T, line string, headers []string) {
	t.Helper()
	got := g.rawDo(t, line, headers, "")
	if got.status != 200 || got.header.Get("Cache-Control") != "no-store" || got.header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("shutdown got %d %v %s", got.status, got.header, got.body)
	}
}

func TestOnlyACallerWithTheTokenCanShutDown(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{gate: "shutdown_endpoint /bye"})
	for _, a := range []struct {
		harm    string
		line    string
		headers []string
		status  int
		code    string
	}{
		{"an img tag", "GET /bye HTTP/1.1", append(without(rawGood(), "Content-"), "Sec-Fetch-Site: cross-site"), 403, "cross_site_request"},
		{"a form", "POST /bye HTTP/1.1", append(without(rawGood(), "Content-"), "Content-Length: 0", "Origin: https://attacker.example"), 403, "origin_not_allowed"},
		{"no token", "POST /bye HTTP/1.1", append(without(rawGood(), "Content-", "X-Proxy"), "Content-Length: 0"), 401, "missing_token"},
		{"the default path", "POST /shutdown HTTP/1.1", rawGood(), 403, "route_not_allowed"},
		{"a query", "POST /bye?x HTTP/1.1", rawGood(), 403, "route_not_allowed"},
		{"PUT", "PUT /bye HTTP/1.1", rawGood(), 403, "route_not_allowed"},
		{"an escape", "POST /%62ye HTTP/1.1", rawGood(), 403, "route_not_allowed"},
	} {
		t.Run(a.harm, func(t *testing.T) {
			body := ""
			if strings.Contains(strings.Join(a.headers, "\n"), "Content-Length: 17") {
				body = rawBody
			}
			refused(t, g.rawDo(t, a.line, a.headers, body), a.status, a.code)
		})
	}
	g.works(t)
}

func TestAfterKill9TheNextLaunchReplacesTheStaleFile(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	first := startGate(t, newUpstream(t, nil), site{dir: dir})
	_ = first.cmd.Process.Kill()
	first.wait()
	if stale := readInfo(t, first.site.infoPath()); stale.AuthToken != first.token {
		t.Fatalf("kill -9 left %+v", stale)
	}
	second := startGate(t, newUpstream(t, nil), site{dir: dir})
	if second.token == first.token || second.info.PID != second.pid() {
		t.Errorf("the next launch has %+v", second.info)
	}
	second.works(t)
}

func TestAFileThatIsNotOursAnyMoreIsLeftAtExit(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{})
	foreign := `{"port":1,"pid":1,"auth_token":"of another gate","base_url":"http://127.0.0.1:1/v1"}` + "\n"
	writeFile(t, g.site.infoPath()+".other", foreign)
	if err := os.Rename(g.site.infoPath()+".other", g.site.infoPath()); err != nil {
		t.Fatal(err)
	}
	g.signal(syscall.SIGTERM)
	g.wait()
	if missing(g.site.infoPath()) || readFile(t, g.site.infoPath()) != foreign {
		t.Error("another gate's server-info was removed or changed")
	}
}

func TestValidateAndAdaptWriteNoServerInfo(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	for _, command := range []string{"validate", "adapt"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			s := site{noInfo: true}.with(t, up)
			s.gate = "server_info " + filepath.Join(s.dir, "new", "info.json")
			l := s.launch(t)
			l.args = append([]string{command}, l.args[1:]...)
			out, code := run(t, l)
			if code != 0 {
				t.Errorf("exit code %d: %s", code, out)
			}
			if !missing(filepath.Join(s.dir, "new")) {
				t.Error("it made the server-info's directory")
			}
			if strings.Contains(out, operatorKey) || strings.Contains(out, "the token of this launch") {
				t.Errorf("it printed a secret: %s", out)
			}
		})
	}
}

func TestWithoutServerInfoTheTokenIsPrintedOnceAndNotLogged(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{noInfo: true, admin: "unix", address: fmt.Sprintf("http://:%d", freePort(t))})
	lines := g.waitOutput("the token of this launch", 1)
	if len(lines) != 1 || strings.HasPrefix(lines[0], "{") {
		t.Fatalf("the token's line is %q", lines)
	}
	words := strings.Fields(lines[0])
	g.token = words[len(words)-1]
	if len(g.token) != 43 {
		t.Errorf("token %q", g.token)
	}
	_, port, _ := strings.Cut(g.site.address, "http://:")
	g.addr = "127.0.0.1:" + port
	g.works(t)

	changed := g.site
	changed.gate = "allow_origin https://app.example"
	g.mustReload(t, changed)
	g.works(t)
	g.signal(syscall.SIGTERM)
	g.wait()
	if n := strings.Count(g.out.String(), g.token); n != 1 {
		t.Errorf("the token was printed %d times, want once in all", n)
	}
}

func TestTheConfiguredOwnerGetsTheFile(t *testing.T) {
	t.Parallel()
	needRoot(t)
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Skip(err)
	}
	uid, _ := strconv.Atoi(nobody.Uid)
	dir := tempDir(t)
	path := filepath.Join(dir, "for-nobody", "info.json")
	config := site{dir: dir, noInfo: true, gate: "server_info " + path + " {\nowner nobody\n}"}
	for range 2 { // the second launch finds the first's file, after kill -9
		g := startGate(t, newUpstream(t, nil), config)
		stat, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		if owner := int(stat.Sys().(*syscall.Stat_t).Uid); owner != uid || stat.Mode() != 0o600 {
			t.Errorf("owner %d mode %v, want %d -rw-------", owner, stat.Mode(), uid)
		}
		_ = g.cmd.Process.Kill()
		g.wait()
	}
	t.Run("an owner who does not exist is refused", func(t *testing.T) {
		s := site{noInfo: true, gate: "server_info " + filepath.Join(dir, "x", "y") + " {\nowner no-such-user-here\n}"}.with(t, newUpstream(t, nil))
		if message := lastError(startRefused(t, s.launch(t))); !strings.Contains(message, "no-such-user-here") {
			t.Errorf("message: %s", message)
		}
		if !missing(filepath.Join(dir, "x")) {
			t.Error("a refused config made a directory")
		}
	})
}
