//go:build linux

package cotenant

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// The control: a token check that somebody wrote by hand into a Caddyfile.
// Caddy's admin endpoint undoes it for every user of the machine.
func TestAHandWrittenTokenCheckGivesTheKeyAwayThroughTheAdminEndpoint(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	dir := gatetest.TempDir(t)
	admin := fmt.Sprintf("127.0.0.1:%d", gatetest.FreePort(t))
	path := filepath.Join(dir, "Caddyfile")
	gatetest.WriteFile(t, path, fmt.Sprintf(`{
	admin %s
}
http://127.0.0.1:%d {
	bind 127.0.0.1
	@token header X-Proxy-Token {env.GATE_TOKEN}
	handle @token {
		reverse_proxy %s {
			header_up Authorization "Bearer {env.OPENAI_API_KEY}"
		}
	}
	respond 401
}
`, admin, gatetest.FreePort(t), up.URL))
	p := gatetest.Start(t, gatetest.Launch{
		Dir: dir, Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey, "GATE_TOKEN=" + strings.Repeat("t", 43)},
		Args: []string{"run", "--adapter", "caddyfile", "--config", path},
	})
	p.WaitOutput(gatetest.ReadyLog, 1)
	if got := reported[usurperReport](t, attacker(t, "usurper", "tcp", admin)); got.Key != gatetest.OperatorKey {
		t.Errorf("the attack does not even succeed against a Caddyfile of one's own: it shows nothing; %+v", got)
	}
}

// No umask of the operator's and no moment of a start opens the endpoint.
func TestAnotherUserCannotReachTheAdminSocketInAnyMoment(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for _, umask := range []string{"0000", "0002", "0022"} {
		t.Run("umask "+umask, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{Dir: shared(t, 0o755), Admin: "unix", Umask: umask}.With(t, up)
			actor := attacker(t, "usurper", "unix", s.AdminSocket())
			for range 10 {
				g := gatetest.StartGate(t, up, s)
				g.Works(t)
				if got := g.AdminDo(t, "GET", "/config/", "", ""); got.Status != 200 {
					t.Errorf("its own user gets %d", got.Status)
				}
				g.Signal(syscall.SIGTERM)
				g.Wait()
			}
			got := reported[usurperReport](t, actor)
			t.Logf("%d tries", got.Tries)
			if got.Connected > 0 || got.Answered > 0 || got.Key != "" {
				t.Errorf("another user reached the admin endpoint: %+v", got)
			}
		})
	}
}

// The control: under a loose umask, Caddy's admin socket is open to everybody
// between the moment it listens and the moment it has its mode.
func TestWithoutAGateAnotherUserReachesTheAdminSocketAsItIsMade(t *testing.T) {
	t.Parallel()
	dir, config := shared(t, 0o755), filepath.Join(gatetest.TempDir(t), "Caddyfile")
	socket := filepath.Join(dir, "admin.sock")
	gatetest.WriteFile(t, config, "{\n\tadmin unix/"+socket+"\n}\n")
	actor := attacker(t, "usurper", "unix", socket)
	for deadline := time.Now().Add(3 * gatetest.Patience); !strings.Contains(actor.Output.String(), "connected"); {
		if time.Now().After(deadline) {
			t.Fatal("the attack does not even succeed against Caddy without a gate: it shows nothing")
		}
		p := gatetest.Start(t, gatetest.Launch{
			Dir: gatetest.TempDir(t), Umask: "0000", Args: []string{"run", "--adapter", "caddyfile", "--config", config},
		})
		p.Started(gatetest.ReadyLog)
		p.Kill()
	}
}

// Caddy gives a socket its mode by name. Where others can put a link in the
// socket's place, that would be another file's mode.
func TestASocketWhereOthersCanPutLinksIsRefusedAndChangesNoOtherFile(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for what, c := range map[string]struct {
		name, reason string
		theirs       bool
		place        func(s *gatetest.Site, socket string)
	}{
		"the admin endpoint's":                      {"the admin endpoint's", "others can write to directory ", false, func(s *gatetest.Site, socket string) { s.Admin = "unix/" + socket }},
		"the listener's":                            {"the listener's", "others can write to directory ", false, func(s *gatetest.Site, socket string) { s.Bind = "unix/" + socket }},
		"the admin endpoint's, in their directory":  {"the admin endpoint's", "directory ", true, func(s *gatetest.Site, socket string) { s.Admin = "unix/" + socket + "|0600" }},
		"the listener's, in their directory (0666)": {"the listener's", "directory ", true, func(s *gatetest.Site, socket string) { s.Bind = "unix/" + socket + "|0666" }},
	} {
		name, place := c.name, c.place
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t)
			s := gatetest.Site{}.With(t, up)
			loose := shared(t, 0o777)
			if c.theirs {
				gatetest.Must(t, errors.Join(os.Chmod(loose, 0o755), chownAll(loose, gatetest.AsNobody(t))))
			}
			socket := filepath.Join(loose, "caddy.sock")
			place(&s, socket)
			actor := attacker(t, "usurper", "link", socket, v.path)
			for range 10 {
				message := gatetest.LastError(gatetest.StartRefused(t, s.Launch(t)))
				if !strings.Contains(message, name+" unix socket "+socket) || !strings.Contains(message, c.reason+loose) {
					t.Errorf("it does not say what is wrong: %s", message)
				}
				v.untouched(t)
			}
			if got := reported[usurperReport](t, actor); got.Tries < 100 {
				t.Errorf("the attacker put only %d links there: this attack shows nothing", got.Tries)
			}
		})
	}
	t.Run("control: Caddy without a gate changes the file's mode", func(t *testing.T) {
		t.Parallel()
		v := newVictim(t)
		dir := gatetest.TempDir(t)
		socket := filepath.Join(shared(t, 0o777), "caddy.sock")
		config := filepath.Join(dir, "Caddyfile")
		gatetest.WriteFile(t, config, "{\n\tadmin unix/"+socket+"\n}\n")
		attacker(t, "usurper", "link", socket, v.path)
		for deadline := time.Now().Add(3 * gatetest.Patience); v.is(t) == v.was; {
			if time.Now().After(deadline) {
				t.Fatal("the attack does not even succeed against Caddy without a gate: it shows nothing")
			}
			p := gatetest.Start(t, gatetest.Launch{Dir: dir, Args: []string{"run", "--adapter", "caddyfile", "--config", config}})
			p.Started(gatetest.ReadyLog)
			p.Kill()
		}
	})
}
