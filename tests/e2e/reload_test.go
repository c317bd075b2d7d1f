//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// adminDo speaks to the admin endpoint through its socket.
func (g *gate) adminDo(t *testing.T, method, path, contentType, body string) answer {
	t.Helper()
	client := unixClient(t, g.site.adminSocket())
	defer client.CloseIdleConnections() // a config's admin server waits for them when it ends
	var lost error
	for range 5 {
		r, err := http.NewRequestWithContext(t.Context(), method, "http://127.0.0.1"+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if contentType != "" {
			r.Header.Set("Content-Type", contentType)
		}
		response, err := client.Do(r)
		if err != nil {
			// Each load starts a new admin server on the socket. A connection
			// that the former one still accepts as it ends gets no answer.
			lost = err
			continue
		}
		defer response.Body.Close()
		answered, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return answer{response.StatusCode, response.Header, string(answered), response.Proto}
	}
	t.Fatal(lost)
	return answer{}
}

// reload has Caddy take another config.
func (g *gate) reload(t *testing.T, s site) answer {
	t.Helper()
	g.reloaded.Store(true)
	return g.adminDo(t, http.MethodPost, "/load", "text/caddyfile", s.caddyfile())
}

func (g *gate) mustReload(t *testing.T, s site) {
	t.Helper()
	if got := g.reload(t, s); got.status != 200 {
		t.Fatalf("reload: %d %s", got.status, got.body)
	}
	g.http.CloseIdleConnections() // (they belong to the old config's server)
}

// reloadable is a gate with an admin socket and a port of its own.
func reloadable(t *testing.T, up *upstream, s site) *gate {
	t.Helper()
	s.admin, s.address = "unix", fmt.Sprintf("http://:%d", freePort(t))
	return startGate(t, up, s)
}

func TestAReloadKeepsTheTokenAndTheFile(t *testing.T) {
	t.Parallel()
	g := reloadable(t, newUpstream(t, nil), site{})
	before, inode := readFile(t, g.site.infoPath()), inodeOf(t, g.site.infoPath())
	for i := range 10 {
		changed := g.site
		changed.gate = fmt.Sprintf("allow_origin https://app%d.example", i)
		g.mustReload(t, changed)
		g.works(t)
		if got := g.do(t, setHeader("Origin", fmt.Sprintf("https://app%d.example", i))); got.status != 200 {
			t.Errorf("the new config is not in force: %d %s", got.status, got.body)
		}
		if readFile(t, g.site.infoPath()) != before || inodeOf(t, g.site.infoPath()) != inode {
			t.Fatal("the reload rewrote server-info, in which nothing changed")
		}
	}
	// Handlers of former configs must be gone, whatever they had started.
	profile := g.adminDo(t, "GET", "/debug/pprof/goroutine?debug=2", "", "")
	if profile.status != 200 || strings.Contains(profile.body, "caddy-responses-proxy-gate.") {
		t.Errorf("goroutines of the gate remain (status %d):\n%s", profile.status, profile.body)
	}
}

func TestAReloadToAnotherPortRewritesTheFile(t *testing.T) {
	t.Parallel()
	g := reloadable(t, newUpstream(t, nil), site{})
	token, old := g.token, g.info.Port
	changed := g.site
	changed.address = fmt.Sprintf("http://:%d", freePort(t))
	g.mustReload(t, changed)
	g.readInfo()
	if g.token != token || g.info.Port == old || g.site.address == changed.address || !strings.HasSuffix(changed.address, fmt.Sprint(g.info.Port)) {
		t.Errorf("server-info is %+v; before: port %d", g.info, old)
	}
	if mode := modeOf(t, g.site.infoPath()); mode != 0o600 {
		t.Errorf("mode %v", mode)
	}
	g.works(t)
}

func TestAReloadToAnotherPathMovesTheFile(t *testing.T) {
	t.Parallel()
	g := reloadable(t, newUpstream(t, nil), site{})
	moved := g.site
	moved.noInfo, moved.gate = true, "server_info "+filepath.Join(g.site.dir, "moved.json")
	g.mustReload(t, moved)
	if in := readInfo(t, filepath.Join(g.site.dir, "moved.json")); in.AuthToken != g.token {
		t.Errorf("the moved file has another token")
	}
	if !missing(g.site.infoPath()) {
		t.Error("the file at the former path is still there")
	}
	g.works(t)
}

func TestTakingServerInfoOutOfTheConfigRemovesTheFile(t *testing.T) {
	t.Parallel()
	g := reloadable(t, newUpstream(t, nil), site{})
	without := g.site
	without.noInfo = true
	g.mustReload(t, without)
	if !missing(g.site.infoPath()) {
		t.Error("server-info is still there")
	}
	g.works(t)
	g.mustReload(t, g.site)
	if again := readInfo(t, g.site.infoPath()); again.AuthToken != g.token {
		t.Error("the token changed within a launch")
	}
	g.works(t)
}

func TestTakingTheGateOutOfTheConfigEndsItsTokenAndFile(t *testing.T) {
	t.Parallel()
	g := reloadable(t, newUpstream(t, nil), site{})
	token := g.token
	bare := fmt.Sprintf("{\nadmin %s\n}\n%s {\nbind 127.0.0.1\nrespond bare\n}\n", g.site.admin, g.site.address)
	if got := g.adminDo(t, "POST", "/load", "text/caddyfile", bare); got.status != 200 {
		t.Fatalf("reload: %d %s", got.status, got.body)
	}
	if !missing(g.site.infoPath()) {
		t.Error("server-info of a gate that is gone is still there")
	}
	g.mustReload(t, g.site)
	g.readInfo()
	if g.token == token {
		t.Error("a gate that was gone has its old token again")
	}
	g.works(t)
}

func TestAFailingReloadLeavesTheOldGateAsItWas(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	g := reloadable(t, up, site{})
	before, inode := readFile(t, g.site.infoPath()), inodeOf(t, g.site.infoPath())
	target := filepath.Join(g.site.dir, "target")
	writeFile(t, target, "untouched")
	link := filepath.Join(g.site.dir, "link.json")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()

	for name, breakIt := range map[string]func(*site){
		"an unknown option":                func(s *site) { s.gate = "allow_orgin https://app.example" },
		"a bad value":                      func(s *site) { s.gate = "allow_origin *" },
		"no key":                           func(s *site) { s.key = "" },
		"a key variable that is not set":   func(s *site) { s.key = "upstream_bearer {env.NOT_SET_AT_ALL}" },
		"a key file that is missing":       func(s *site) { s.key = "upstream_bearer_file /no/such/file" },
		"a literal key":                    func(s *site) { s.key = "upstream_bearer sk-literal-in-the-config" },
		"a planted server-info symlink":    func(s *site) { s.noInfo, s.gate = true, "server_info "+link },
		"an admin endpoint on TCP":         func(s *site) { s.admin = fmt.Sprintf("localhost:%d", port) },
		"an admin socket for all":          func(s *site) { s.admin = "unix/" + filepath.Join(s.dir, "loose.sock") + "|0666" },
		"a listener on every network":      func(s *site) { s.bind = "-" },
		"an access log with tokens":        func(s *site) { s.before = "log {\noutput file " + filepath.Join(s.dir, "access.log") + "\n}" },
		"an unknown risk":                  func(s *site) { s.gate = "insecure_allow everything" },
		"a fixed token that is too short":  func(s *site) { s.gate = "token {file." + target + "}" },
		"two gates of one name":            func(s *site) { s.proxy = "}\nresponses_proxy_gate {\nupstream_bearer {env.OPENAI_API_KEY}\n" },
		"another port, taken":              func(s *site) { s.address = "http://:" + fmt.Sprint(taken.Addr().(*net.TCPAddr).Port) },
		"another directive with an error ": func(s *site) { s.before = "header {\n+\n}\nnot_a_directive" },
	} {
		t.Run(name, func(t *testing.T) {
			broken := g.site
			breakIt(&broken)
			got := g.reload(t, broken)
			if got.status < 400 {
				t.Fatalf("reload: %d %s", got.status, got.body)
			}
			if strings.Contains(got.body, "sk-literal") || strings.Contains(got.body, g.token) || strings.Contains(got.body, operatorKey) {
				t.Errorf("the reload's answer has a secret: %s", got.body)
			}
			if missing(g.site.infoPath()) || readFile(t, g.site.infoPath()) != before || inodeOf(t, g.site.infoPath()) != inode {
				t.Fatal("the failed reload changed server-info")
			}
			g.http.CloseIdleConnections()
			g.works(t)
			if got := g.adminDo(t, "GET", "/config/", "", ""); got.status != 200 || !strings.Contains(got.body, g.site.adminSocket()) {
				t.Errorf("the admin socket answers %d %s", got.status, got.body)
			}
			if conn, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", port)); err == nil {
				_ = conn.Close()
				t.Errorf("after a refused reload an admin endpoint listens on TCP port %d", port)
			}
		})
	}
	if readFile(t, target) != "untouched" || modeOf(t, link)&os.ModeSymlink == 0 {
		t.Error("the planted symlink or its target was changed")
	}
	if !missing(filepath.Join(g.site.dir, "loose.sock")) {
		t.Error("a refused config left its admin socket")
	}
}

func TestAStreamOutlivesAReload(t *testing.T) {
	t.Parallel()
	stream := newEventStream()
	g := reloadable(t, newUpstream(t, stream.serve), site{})
	_, reader := openStream(t, g.http, g.post(withDeadline(t)))
	stream.send(t)
	readEvent(t, reader, 1)
	changed := g.site
	changed.gate = "allow_origin https://app.example"
	if got := g.reload(t, changed); got.status != 200 {
		t.Fatalf("reload: %d %s", got.status, got.body)
	}
	for n := 2; n <= 5; n++ {
		stream.send(t)
		readEvent(t, reader, n)
	}
	close(stream.next)
	if rest, err := reader.ReadString(0); rest != "" || err.Error() != "EOF" {
		t.Errorf("the stream ends with %q, %v", rest, err)
	}
}

// Requests that are made while configs change all get their answer from one
// gate or another, with the one token of the launch.
//
// A connection that Caddy's old listener has not accepted yet when it closes
// is reset by the kernel, with a gate or without one. Such a request got no
// answer and reached nobody; callers make it again, as clients do.
func TestReloadsUnderLoadRefuseOrCutOffNoRequest(t *testing.T) {
	t.Parallel()
	g := reloadable(t, newUpstream(t, nil), site{})
	const reloads, callers = 100, 4
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var served, reset atomic.Int64
	for range callers {
		client := newClient(t)
		client.Transport.(*http.Transport).DisableKeepAlives = true
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				response, err := client.Do(g.post())
				if err != nil {
					reset.Add(1)
					continue
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err != nil || response.StatusCode != 200 || string(body) != jsonAnswer {
					t.Errorf("after %d requests: %d %s %v", served.Load(), response.StatusCode, body, err)
					return
				}
				served.Add(1)
			}
		})
	}
	before := readFile(t, g.site.infoPath())
	for i := range reloads {
		changed := g.site
		changed.gate = fmt.Sprintf("allow_origin https://app%d.example", i)
		if got := g.reload(t, changed); got.status != 200 {
			t.Errorf("reload %d: %d %s", i, got.status, got.body)
			break
		}
	}
	close(stop)
	wg.Wait()
	if served.Load() < reloads {
		t.Errorf("only %d requests were served (%d connections reset): they prove nothing", served.Load(), reset.Load())
	}
	if readFile(t, g.site.infoPath()) != before {
		t.Error("server-info changed")
	}
	t.Logf("%d requests during %d reloads; %d connections reset by Caddy's listener", served.Load(), reloads, reset.Load())
}
