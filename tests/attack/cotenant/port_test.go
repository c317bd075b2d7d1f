//go:build linux

package cotenant

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// While the gate runs, nobody else can share its port, not even with the
// option by which Caddy itself shares it between two configs.
func TestAnotherUserCannotShareTheGatesPort(t *testing.T) {
	t.Parallel()
	g := gatetest.StartCommand(t, gatetest.NewUpstream(t, nil), gatetest.Site{}, gatetest.Launch{})
	addresses := []string{g.Addr, fmt.Sprintf(":%d", g.Info.Port), fmt.Sprintf("0.0.0.0:%d", g.Info.Port)}
	actor := attacker(t, "squatter", addresses...)
	for range 500 {
		g.Do(t, func(r *http.Request) { r.Close = true })
	}
	got := reported[squatterReport](t, actor)
	for _, address := range got.Held {
		if address == g.Addr || strings.HasPrefix(address, "0.0.0.0") {
			t.Errorf("another user listens on %s", address)
		}
	}
	if got.Got != "" || got.Tries < 100 {
		t.Errorf("after %d tries, another user was sent %q", got.Tries, got.Got)
	}
}

// The port is free from the moment the gate is gone. Whoever takes it would
// like to be sent the token. (That its process id may be another's by then is
// in TestVerbsDoNotTrustAPortThatAnotherUserTook.)
func TestVerbsTellNothingToWhoeverTookThePort(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, end := range map[string]os.Signal{"after kill -9": syscall.SIGKILL, "after a graceful exit": syscall.SIGTERM} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			port := gatetest.FreePort(t)
			address := fmt.Sprintf("127.0.0.1:%d", port)
			flags := gatetest.Launch{Args: []string{"--port", fmt.Sprint(port), "--http-shutdown"}}
			site := gatetest.Site{Dir: gatetest.TempDir(t)}
			g := gatetest.StartCommand(t, up, site, flags)
			g.Works(t)
			stale := gatetest.ReadFile(t, g.Site.InfoPath())
			actor := attacker(t, "squatter", address)
			g.Signal(end)
			g.Wait()
			actor.WaitOutput("holding", 1)
			if end == syscall.SIGTERM {
				if !gatetest.Missing(g.Site.InfoPath()) {
					t.Error("server-info is still there")
				}
				gatetest.WriteFile(t, g.Site.InfoPath(), stale) // a copy that somebody kept
			}
			for _, verb := range []string{"token", "status", "shutdown"} {
				p := gatetest.Start(t, gatetest.Launch{
					Dir: gatetest.TempDir(t), Args: []string{"responses-proxy", verb, "--server-info", g.Site.InfoPath()},
				})
				if code := p.Wait(); code != 3 {
					t.Errorf("%s: exit code %d, want 3", verb, code)
				}
				if out := p.Output.String(); strings.Contains(out, g.Token) || !strings.Contains(out, "stale") {
					t.Errorf("%s says: %s", verb, out)
				}
			}
			// The next launch finds its port taken, and says so.
			next := flags
			next.Dir, next.Stdin = gatetest.TempDir(t), strings.NewReader(gatetest.OperatorKey+"\n")
			next.Args = append([]string{"responses-proxy", "--server-info", filepath.Join(next.Dir, "info.json")}, flags.Args...)
			p := gatetest.Start(t, next)
			if p.Started("listening on") || !strings.Contains(p.Output.String(), "address already in use") {
				t.Errorf("the next launch on the taken port said: %s", p.Output)
			}
			if !gatetest.Missing(filepath.Join(next.Dir, "info.json")) {
				t.Error("the next launch wrote a server-info for a port that it does not have")
			}
			got := reported[squatterReport](t, actor)
			if len(got.Held) != 1 || got.Got != "" {
				t.Errorf("who took the port held %v and was sent %q", got.Held, got.Got)
			}
			gatetest.StartCommand(t, up, site, flags).Works(t)
		})
	}
}

// The control: a caller of the original knows the port and nothing else.
func TestACallerOfTheOriginalTellsItsPromptToWhoeverTookThePort(t *testing.T) {
	t.Parallel()
	port := gatetest.FreePort(t)
	original := gatetest.StartOriginal(t, gatetest.NewUpstream(t, nil), gatetest.Site{}, gatetest.Launch{Args: []string{"--port", fmt.Sprint(port)}})
	actor := attacker(t, "squatter", net.JoinHostPort("127.0.0.1", fmt.Sprint(port)))
	original.Kill()
	actor.WaitOutput("holding", 1)
	original.Do(t, withPrompt)
	if got := reported[squatterReport](t, actor); !strings.Contains(got.Got, prompt) {
		t.Errorf("the attack does not even succeed against the original: it shows nothing; %+v", got)
	}
}

// Codex and Node take localhost for [::1] first.
func TestAnotherUserCannotListenWhereLocalhostLeadsFirst(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, start := range map[string]func(t *testing.T) *gatetest.Gate{
		"the command": func(t *testing.T) *gatetest.Gate {
			return gatetest.StartCommand(t, up, gatetest.Site{}, gatetest.Launch{})
		},
		"the command, on a port of the operator's": func(t *testing.T) *gatetest.Gate {
			return gatetest.StartCommand(t, up, gatetest.Site{}, gatetest.Launch{Args: []string{"--port", fmt.Sprint(gatetest.FreePort(t))}})
		},
		"a Caddyfile": func(t *testing.T) *gatetest.Gate {
			return gatetest.StartReloadable(t, up, gatetest.Site{Bind: "127.0.0.1 [::1]"})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			twin := needIPv6(t)
			g := start(t)
			if g.Info.BaseURL != "http://"+g.Addr+"/v1" {
				t.Errorf("callers are told %s", g.Info.BaseURL)
			}
			g.Works(t)
			actor := attacker(t, "squatter", twin(g))
			g.Addr = twin(g)
			for range 100 {
				g.Do(t, func(r *http.Request) { r.Close = true })
			}
			g.Works(t)
			if got := reported[squatterReport](t, actor); len(got.Held) > 0 || got.Got != "" || got.Tries < 10 {
				t.Errorf("after %d tries, another user holds %v and was sent %q", got.Tries, got.Held, got.Got)
			}
		})
	}
}

// The control: the original listens on 127.0.0.1 alone.
func TestACallerOfTheOriginalWhoSaysLocalhostTellsItsPromptToAnotherUser(t *testing.T) {
	t.Parallel()
	twin := needIPv6(t)
	original := gatetest.StartOriginal(t, gatetest.NewUpstream(t, nil), gatetest.Site{}, gatetest.Launch{})
	actor := attacker(t, "squatter", twin(original))
	actor.WaitOutput("holding", 1)
	original.Addr = twin(original)
	original.Do(t, withPrompt)
	if got := reported[squatterReport](t, actor); !strings.Contains(got.Got, prompt) {
		t.Errorf("the attack does not even succeed against the original: it shows nothing; %+v", got)
	}
}

// The port of which another user has the IPv6 twin is not the command's.
func TestTheCommandTakesNoPortOfWhichAnotherUserHasTheTwin(t *testing.T) {
	t.Parallel()
	needIPv6(t)
	port := fmt.Sprint(gatetest.FreePort(t))
	actor := attacker(t, "squatter", net.JoinHostPort("::1", port))
	actor.WaitOutput("holding", 1)
	dir := gatetest.TempDir(t)
	p := gatetest.Start(t, gatetest.Launch{
		Dir: dir, Stdin: strings.NewReader(gatetest.OperatorKey + "\n"),
		Args: []string{"responses-proxy", "--server-info", filepath.Join(dir, "info.json"), "--port", port},
	})
	if p.Started("listening on") || !strings.Contains(p.Output.String(), "[::1]:"+port) || !strings.Contains(p.Output.String(), "name another port") {
		t.Errorf("it said: %s", p.Output)
	}
	actor.End()
}

// needIPv6 skips the test where there is no [::1]. It returns what finds the
// twin of a gate's address there.
func needIPv6(t *testing.T) func(g *gatetest.Gate) string {
	t.Helper()
	listener, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skip("no IPv6 here, so nobody can listen there: ", err)
	}
	_ = listener.Close()
	return func(g *gatetest.Gate) string { return net.JoinHostPort("::1", fmt.Sprint(g.Info.Port)) }
}

// While a gate lets its last streams end, its port is free for anybody. No
// reader of the server-info file is led there.
func TestTheFileIsGoneBeforeAnotherUserCanTakeThePort(t *testing.T) {
	t.Parallel()
	stream := gatetest.NewEventStream()
	up := gatetest.NewUpstream(t, stream.Serve)
	g := gatetest.StartReloadable(t, up, gatetest.Site{Global: "grace_period 1m", Gate: "rotate_every 1s"})
	_, events := gatetest.OpenStream(t, g.HTTP, g.Post(gatetest.WithDeadline(t)))
	stream.Send(t)
	gatetest.ReadEvent(t, events, 1)
	actor := attacker(t, "squatter", g.Addr)
	g.Signal(syscall.SIGTERM)
	actor.WaitOutput("holding", 1)
	if !gatetest.Missing(g.Site.InfoPath()) {
		t.Error("another user has the port, and the file leads there")
	}
	// A verb, and the rotations that would be due, do not write it again.
	if got := g.AdminDo(t, "POST", "/responses_proxy_gate/gates/default/rotate", "application/json", "{}"); got.Status == 200 {
		t.Errorf("a rotation while the gate stops: %d %s", got.Status, got.Body)
	}
	for n := 2; n < 5; n++ {
		stream.Send(t)
		gatetest.ReadEvent(t, events, n)
	}
	if !gatetest.Missing(g.Site.InfoPath()) {
		t.Error("a gate that stops has written the file again")
	}
	close(stream.Next)
	if code := g.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if got := reported[squatterReport](t, actor); got.Got != "" {
		t.Errorf("another user was sent %q", got.Got)
	}
}

// The control: the original leaves its file behind.
func TestTheOriginalsFileOutlivesItsPort(t *testing.T) {
	t.Parallel()
	original := gatetest.StartOriginal(t, gatetest.NewUpstream(t, nil), gatetest.Site{}, gatetest.Launch{})
	actor := attacker(t, "squatter", original.Addr)
	gatetest.Must(t, original.Cmd.Process.Signal(syscall.SIGTERM))
	actor.WaitOutput("holding", 1)
	if gatetest.Missing(original.Site.InfoPath()) {
		t.Error("the original's file is gone: the control shows nothing")
	}
	actor.End()
}
