//go:build unix

package operate

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// clientFile is where a client of these tests is told its token.
func clientFile(g *gatetest.Gate, name string) string {
	return filepath.Join(g.Site.Dir, name+".json")
}

// withClients is a site whose gate has these clients, and no token of its own.
func withClients(dir string, names ...string) gatetest.Site {
	s := gatetest.Site{Dir: dir, NoInfo: true, Gate: "allow_route POST /v1/responses\nallow_route GET /v1/responses", Proxy: "stream_close_delay 1h"}
	for _, name := range names {
		s.Gate += fmt.Sprintf("\nclient %s {\nserver_info %s\n}", name, filepath.Join(dir, name+".json"))
	}
	return s
}

// as makes the gate's requests carry a client's present token.
func as(t *testing.T, g *gatetest.Gate, name string) {
	t.Helper()
	info := gatetest.ReadInfo(t, clientFile(g, name))
	g.Info, g.Token, g.Addr = info, info.AuthToken, fmt.Sprintf("127.0.0.1:%d", info.Port)
}

// reloadTo loads another set of clients, on the same port.
func reloadTo(t *testing.T, g *gatetest.Gate, names ...string) {
	t.Helper()
	next := withClients(g.Site.Dir, names...)
	next.Admin, next.Address, next.To = g.Site.Admin, g.Site.Address, g.Site.To
	next = next.With(t, nil)
	g.MustReload(t, next)
}

func TestAClientThatIsTakenOutLosesItsTokenFileAndWebSocket(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), gatetest.Patience)
	defer cancel()
	up := gatetest.NewLoadUpstream(t)
	dir := gatetest.TempDir(t)
	s := withClients(dir, "leaves", "stays")
	s.To = up.URL
	g := gatetest.StartReloadable(t, nil, s)
	as(t, g, "stays")
	staysSocket := gatetest.DialEcho(t, ctx, g)
	as(t, g, "leaves")
	leavesSocket := gatetest.DialEcho(t, ctx, g)
	g.Works(t)
	token := g.Token

	reloadTo(t, g, "stays", "joins")
	if _, _, err := leavesSocket.Read(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("its WebSocket goes on: %v", err)
	}
	gatetest.WantEcho(t, ctx, staysSocket, "still here")
	_ = staysSocket.Close(websocket.StatusNormalClosure, "")
	if !gatetest.Missing(clientFile(g, "leaves")) {
		t.Error("its server-info is still there")
	}
	gatetest.Refused(t, g.Do(t), http.StatusUnauthorized, "invalid_token")
	for _, name := range []string{"stays", "joins"} {
		as(t, g, name)
		g.Works(t)
	}
	reloadTo(t, g, "leaves")
	if as(t, g, "leaves"); g.Token == token {
		t.Error("back in the config, it has its former token")
	}
	g.Works(t)
}

func TestAFailingReloadLeavesClientsAsTheyWere(t *testing.T) {
	t.Parallel()
	up := gatetest.NewLoadUpstream(t)
	dir := gatetest.TempDir(t)
	s := withClients(dir, "one", "two")
	s.To = up.URL
	g := gatetest.StartReloadable(t, nil, s)
	planted := filepath.Join(dir, "planted.json")
	gatetest.Must(t, os.Symlink(filepath.Join(dir, "target"), planted))
	before := gatetest.ReadFile(t, clientFile(g, "one")) + gatetest.ReadFile(t, clientFile(g, "two"))
	for name, change := range map[string]string{
		"a client taken out beside a typo":      "client one {\nexpire 1h\n}",
		"a client added beside a planted file":  "client one {\nserver_info " + clientFile(g, "one") + "\n}\nclient three {\nserver_info " + planted + "\n}",
		"a client moved to another's file":      "client one {\nserver_info " + clientFile(g, "two") + "\n}\nclient two {\nserver_info " + clientFile(g, "two") + "\n}",
		"a rotation of tokens that nobody sees": "client one\nrotate_every 1h",
		"a user that does not exist":            "client one {\nserver_info " + clientFile(g, "one") + " {\nowner no-such-user\n}\n}",
	} {
		broken := g.Site
		broken.Gate = "allow_route POST /v1/responses\n" + change
		if got := g.Reload(t, broken); got.Status < 400 {
			t.Fatalf("%s: %d %s", name, got.Status, got.Body)
		}
		g.HTTP.CloseIdleConnections()
		if gatetest.ReadFile(t, clientFile(g, "one"))+gatetest.ReadFile(t, clientFile(g, "two")) != before {
			t.Errorf("%s: the files changed", name)
		}
		if !gatetest.Missing(clientFile(g, "three")) || !gatetest.Missing(filepath.Join(dir, "target")) {
			t.Errorf("%s: a file was left behind", name)
		}
		for _, client := range []string{"one", "two"} {
			as(t, g, client)
			g.Works(t)
		}
	}
}

// A reader that takes the token from the file when it needs one never meets a
// moment without a valid one, and the file is never partial.
func TestRotationByTheClockLocksNobodyOut(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	g := gatetest.StartGate(t, up, gatetest.Site{Gate: "rotate_every 1s 500ms"})
	first := g.Token
	seen := map[string]bool{first: true}
	for deadline := time.Now().Add(gatetest.Patience); len(seen) < 4; {
		g.ReadInfo()
		if info, err := os.Stat(g.Site.InfoPath()); err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("the file: %v, %v", info, err)
		}
		seen[g.Token] = true
		g.Works(t)
		if time.Now().After(deadline) {
			t.Fatalf("%d tokens in %v", len(seen), gatetest.Patience)
		}
	}
	g.Token = first
	gatetest.Refused(t, g.Do(t), http.StatusUnauthorized, "invalid_token")
	for token := range seen {
		if strings.Contains(g.Output.String(), token) {
			t.Error("a token is in the log")
		}
	}
}

func TestAnAccessThatExpiresEndsByItself(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), gatetest.Patience)
	defer cancel()
	up := gatetest.NewLoadUpstream(t)
	s := withClients(gatetest.TempDir(t))
	s.To, s.Gate = up.URL, s.Gate+"\nclient guest {\nserver_info "+filepath.Join(s.Dir, "guest.json")+"\nexpires 3s\n}"
	g := gatetest.StartGate(t, nil, s)
	as(t, g, "guest")
	socket := gatetest.DialEcho(t, ctx, g)
	if _, _, err := socket.Read(ctx); err == nil || ctx.Err() != nil {
		t.Fatalf("its WebSocket does not end: %v", err)
	}
	gatetest.Refused(t, g.Do(t), http.StatusUnauthorized, "invalid_token")
	g.WaitOutput("a client's access has expired", 1)
	if !gatetest.Missing(clientFile(g, "guest")) {
		t.Error("its server-info is still there")
	}
}

// readAs reads a file as another user would.
func readAs(t *testing.T, uid uint32, path string) (string, error) {
	t.Helper()
	cat := exec.CommandContext(t.Context(), "cat", path)
	cat.Dir = "/"
	cat.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cat.CombinedOutput()
	return string(out), err
}

func TestRootHandsEachUserItsTokenAndNoOthers(t *testing.T) {
	t.Parallel()
	gatetest.NeedRoot(t)
	up := gatetest.NewUpstream(t, nil)
	dir := gatetest.TempDir(t)
	gatetest.Must(t, os.Chmod(dir, 0o755))
	users := map[string]uint32{"alice": 61001, "bob": 61002}
	s := gatetest.Site{Dir: dir, Gate: "rotate_every 1s 900ms"}
	for name, uid := range users {
		s.Gate += fmt.Sprintf("\nclient %s {\nserver_info %s {\nowner %d:%[3]d\n}\n}", name, filepath.Join(dir, name+".json"), uid)
	}
	g := gatetest.StartGate(t, up, s)
	own := g.Token
	const stranger = 61003
	for round := range 3 { // before and after rotations
		for name, uid := range users {
			content, err := readAs(t, uid, clientFile(g, name))
			if err != nil || !strings.Contains(content, `"auth_token"`) {
				t.Fatalf("%s cannot read its token: %q, %v", name, content, err)
			}
			for other, reader := range map[string]uint32{"the other": users["alice"] ^ users["bob"] ^ uid, "a stranger": stranger} {
				if content, err := readAs(t, reader, clientFile(g, name)); err == nil {
					t.Errorf("%s user reads %s's: %s", other, name, content)
				}
			}
			if content, err := readAs(t, uid, g.Site.InfoPath()); err == nil {
				t.Errorf("%s reads the gate's own: %s", name, content)
			}
			as(t, g, name)
			g.Works(t)
			if g.Token == own {
				t.Errorf("%s has the gate's own token", name)
			}
		}
		g.WaitOutput("token rotated", 6*(round+1))
	}
}
