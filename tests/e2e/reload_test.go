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

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAReloadKeepsTheTokenAndTheFile(t *testing.T) {
	t.Parallel()
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	before, inode := gatetest.ReadFile(t, g.Site.InfoPath()), inodeOf(t, g.Site.InfoPath())
	for i := range 10 {
		changed := g.Site
		changed.Gate = fmt.Sprintf("allow_origin https://app%d.example", i)
		g.MustReload(t, changed)
		g.Works(t)
		if got := g.Do(t, gatetest.SetHeader("Origin", fmt.Sprintf("https://app%d.example", i))); got.Status != 200 {
			t.Errorf("the new config is not in force: %d %s", got.Status, got.Body)
		}
		if gatetest.ReadFile(t, g.Site.InfoPath()) != before || inodeOf(t, g.Site.InfoPath()) != inode {
			t.Fatal("the reload rewrote server-info, in which nothing changed")
		}
	}
	// Handlers of former configs must be gone, whatever they had started.
	profile := g.AdminDo(t, "GET", "/debug/pprof/goroutine?debug=2", "", "")
	if profile.Status != 200 || strings.Contains(profile.Body, "caddy-responses-proxy-gate.") {
		t.Errorf("goroutines of the gate remain (status %d):\n%s", profile.Status, profile.Body)
	}
}

func TestAReloadToAnotherPortRewritesTheFile(t *testing.T) {
	t.Parallel()
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	token, old := g.Token, g.Info.Port
	changed := g.Site
	changed.Address = fmt.Sprintf("http://:%d", gatetest.FreePort(t))
	g.MustReload(t, changed)
	g.ReadInfo()
	if g.Token != token || g.Info.Port == old || g.Site.Address == changed.Address || !strings.HasSuffix(changed.Address, fmt.Sprint(g.Info.Port)) {
		t.Errorf("server-info is %+v; before: port %d", g.Info, old)
	}
	if mode := modeOf(t, g.Site.InfoPath()); mode != 0o600 {
		t.Errorf("mode %v", mode)
	}
	g.Works(t)
}

func TestAReloadToAnotherPathMovesTheFile(t *testing.T) {
	t.Parallel()
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	moved := g.Site
	moved.NoInfo, moved.Gate = true, "server_info "+filepath.Join(g.Site.Dir, "moved.json")
	g.MustReload(t, moved)
	if in := gatetest.ReadInfo(t, filepath.Join(g.Site.Dir, "moved.json")); in.AuthToken != g.Token {
		t.Errorf("the moved file has another token")
	}
	if !gatetest.Missing(g.Site.InfoPath()) {
		t.Error("the file at the former path is still there")
	}
	g.Works(t)
}

func TestTakingServerInfoOutOfTheConfigRemovesTheFile(t *testing.T) {
	t.Parallel()
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	without := g.Site
	without.NoInfo = true
	g.MustReload(t, without)
	if !gatetest.Missing(g.Site.InfoPath()) {
		t.Error("server-info is still there")
	}
	g.Works(t)
	g.MustReload(t, g.Site)
	if again := gatetest.ReadInfo(t, g.Site.InfoPath()); again.AuthToken != g.Token {
		t.Error("the token changed within a launch")
	}
	g.Works(t)
}

func TestTakingTheGateOutOfTheConfigEndsItsTokenAndFile(t *testing.T) {
	t.Parallel()
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	token := g.Token
	bare := fmt.Sprintf("{\nadmin %s\n}\n%s {\nbind 127.0.0.1\nrespond bare\n}\n", g.Site.Admin, g.Site.Address)
	if got := g.AdminDo(t, "POST", "/load", "text/caddyfile", bare); got.Status != 200 {
		t.Fatalf("reload: %d %s", got.Status, got.Body)
	}
	if !gatetest.Missing(g.Site.InfoPath()) {
		t.Error("server-info of a gate that is gone is still there")
	}
	g.MustReload(t, g.Site)
	g.ReadInfo()
	if g.Token == token {
		t.Error("a gate that was gone has its old token again")
	}
	g.Works(t)
}

func TestAFailingReloadLeavesTheOldGateAsItWas(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	g := gatetest.StartReloadable(t, up, gatetest.Site{})
	before, inode := gatetest.ReadFile(t, g.Site.InfoPath()), inodeOf(t, g.Site.InfoPath())
	target := filepath.Join(g.Site.Dir, "target")
	gatetest.WriteFile(t, target, "untouched")
	link := filepath.Join(g.Site.Dir, "link.json")
	if err := os.Symlink(target, link); err != nil {
		t.Fatal(err)
	}
	port := gatetest.FreePort(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()

	for name, breakIt := range map[string]func(*gatetest.Site){
		"an unknown option":                func(s *gatetest.Site) { s.Gate = "allow_orgin https://app.example" },
		"a bad value":                      func(s *gatetest.Site) { s.Gate = "allow_origin *" },
		"no key":                           func(s *gatetest.Site) { s.Key = "" },
		"a key variable that is not set":   func(s *gatetest.Site) { s.Key = "upstream_bearer {env.NOT_SET_AT_ALL}" },
		"a key file that is missing":       func(s *gatetest.Site) { s.Key = "upstream_bearer_file /no/such/file" },
		"a literal key":                    func(s *gatetest.Site) { s.Key = "upstream_bearer sk-literal-in-the-config" },
		"a planted server-info symlink":    func(s *gatetest.Site) { s.NoInfo, s.Gate = true, "server_info "+link },
		"an admin endpoint on TCP":         func(s *gatetest.Site) { s.Admin = fmt.Sprintf("localhost:%d", port) },
		"an admin socket for all":          func(s *gatetest.Site) { s.Admin = "unix/" + filepath.Join(s.Dir, "loose.sock") + "|0666" },
		"a listener on every network":      func(s *gatetest.Site) { s.Bind = "-" },
		"an access log with tokens":        func(s *gatetest.Site) { s.Before = "log {\noutput file " + filepath.Join(s.Dir, "access.log") + "\n}" },
		"an unknown risk":                  func(s *gatetest.Site) { s.Gate = "insecure_allow everything" },
		"a fixed token that is too short":  func(s *gatetest.Site) { s.Gate = "token {file." + target + "}" },
		"two gates of one name":            func(s *gatetest.Site) { s.Proxy = "}\nresponses_proxy_gate {\nupstream_bearer {env.OPENAI_API_KEY}\n" },
		"another port, taken":              func(s *gatetest.Site) { s.Address = "http://:" + fmt.Sprint(taken.Addr().(*net.TCPAddr).Port) },
		"another directive with an error ": func(s *gatetest.Site) { s.Before = "header {\n+\n}\nnot_a_directive" },
	} {
		t.Run(name, func(t *testing.T) {
			broken := g.Site
			breakIt(&broken)
			got := g.Reload(t, broken)
			if got.Status < 400 {
				t.Fatalf("reload: %d %s", got.Status, got.Body)
			}
			if strings.Contains(got.Body, "sk-literal") || strings.Contains(got.Body, g.Token) || strings.Contains(got.Body, gatetest.OperatorKey) {
				t.Errorf("the reload's answer has a secret: %s", got.Body)
			}
			if gatetest.Missing(g.Site.InfoPath()) || gatetest.ReadFile(t, g.Site.InfoPath()) != before || inodeOf(t, g.Site.InfoPath()) != inode {
				t.Fatal("the failed reload changed server-info")
			}
			g.HTTP.CloseIdleConnections()
			g.Works(t)
			if got := g.AdminDo(t, "GET", "/config/", "", ""); got.Status != 200 || !strings.Contains(got.Body, g.Site.AdminSocket()) {
				t.Errorf("the admin socket answers %d %s", got.Status, got.Body)
			}
			if conn, err := net.Dial("tcp", fmt.Sprintf("localhost:%d", port)); err == nil {
				_ = conn.Close()
				t.Errorf("after a refused reload an admin endpoint listens on TCP port %d", port)
			}
		})
	}
	if gatetest.ReadFile(t, target) != "untouched" || modeOf(t, link)&os.ModeSymlink == 0 {
		t.Error("the planted symlink or its target was changed")
	}
	if !gatetest.Missing(filepath.Join(g.Site.Dir, "loose.sock")) {
		t.Error("a refused config left its admin socket")
	}
}

func TestAStreamOutlivesAReload(t *testing.T) {
	t.Parallel()
	stream := gatetest.NewEventStream()
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, stream.Serve), gatetest.Site{})
	_, reader := gatetest.OpenStream(t, g.HTTP, g.Post(gatetest.WithDeadline(t)))
	stream.Send(t)
	gatetest.ReadEvent(t, reader, 1)
	changed := g.Site
	changed.Gate = "allow_origin https://app.example"
	if got := g.Reload(t, changed); got.Status != 200 {
		t.Fatalf("reload: %d %s", got.Status, got.Body)
	}
	for n := 2; n <= 5; n++ {
		stream.Send(t)
		gatetest.ReadEvent(t, reader, n)
	}
	close(stream.Next)
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
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	const reloads, callers = 100, 4
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var served, reset atomic.Int64
	for range callers {
		client := gatetest.NewClient(t)
		client.Transport.(*http.Transport).DisableKeepAlives = true
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				response, err := client.Do(g.Post())
				if err != nil {
					reset.Add(1)
					continue
				}
				body, err := io.ReadAll(response.Body)
				_ = response.Body.Close()
				if err != nil || response.StatusCode != 200 || string(body) != gatetest.JSONAnswer {
					t.Errorf("after %d requests: %d %s %v", served.Load(), response.StatusCode, body, err)
					return
				}
				served.Add(1)
			}
		})
	}
	before := gatetest.ReadFile(t, g.Site.InfoPath())
	for i := range reloads {
		changed := g.Site
		changed.Gate = fmt.Sprintf("allow_origin https://app%d.example", i)
		if got := g.Reload(t, changed); got.Status != 200 {
			t.Errorf("reload %d: %d %s", i, got.Status, got.Body)
			break
		}
	}
	close(stop)
	wg.Wait()
	if served.Load() < reloads {
		t.Errorf("only %d requests were served (%d connections reset): they prove nothing", served.Load(), reset.Load())
	}
	if gatetest.ReadFile(t, g.Site.InfoPath()) != before {
		t.Error("server-info changed")
	}
	t.Logf("%d requests during %d reloads; %d connections reset by Caddy's listener", served.Load(), reloads, reset.Load())
}
