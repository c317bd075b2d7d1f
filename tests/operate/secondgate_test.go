//go:build unix

package operate

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// secondStarts is how often a second gate is started beside the first.
const secondStarts = 100

// The control: Caddy itself shares a port with any other Caddy of its user,
// and takes the admin socket away from it.
func TestASecondCaddyWithoutAGateTakesTheFirstOnesCallersAndSocket(t *testing.T) {
	t.Parallel()
	dir, port := gatetest.TempDir(t), gatetest.FreePort(t)
	config, socket := filepath.Join(dir, "Caddyfile"), filepath.Join(dir, "admin.sock")
	start := func(says string) {
		gatetest.WriteFile(t, config, fmt.Sprintf("{\n\tadmin unix/%s\n}\nhttp://:%d {\n\tbind 127.0.0.1\n\trespond %s\n}\n", socket, port, says))
		p := gatetest.Start(t, gatetest.Launch{Dir: dir, Args: []string{"run", "--adapter", "caddyfile", "--config", config}})
		p.WaitOutput(gatetest.ReadyLog, 1)
	}
	start("first")
	before, err := os.Stat(socket)
	gatetest.Must(t, err)
	start("second")
	after, err := os.Stat(socket)
	gatetest.Must(t, err)
	if os.SameFile(before, after) {
		t.Error("the second Caddy did not take the socket")
	}
	seen := make(map[string]int)
	for range 200 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
		gatetest.Must(t, err)
		r.Close = true
		seen[gatetest.Do(t, http.DefaultClient, r).Body]++
	}
	if seen["first"] == 0 || seen["second"] == 0 {
		t.Errorf("they do not share the port, so there is nothing to keep them from: %v", seen)
	}
}

// living is what a second gate must leave as it is.
type living struct {
	g    *gatetest.Gate
	info string
	sock os.FileInfo
}

func observe(t *testing.T, g *gatetest.Gate) living {
	t.Helper()
	l := living{g: g, info: gatetest.ReadFile(t, g.Site.InfoPath())}
	if g.Site.Admin != "off" {
		var err error
		l.sock, err = os.Stat(g.Site.AdminSocket())
		gatetest.Must(t, err)
	}
	return l
}

func (l living) mustBeUntouched(t *testing.T) {
	t.Helper()
	l.g.Works(t)
	if gatetest.ReadFile(t, l.g.Site.InfoPath()) != l.info {
		t.Error("the first gate's server-info was changed")
	}
	if l.sock == nil {
		return
	}
	if now, err := os.Stat(l.g.Site.AdminSocket()); err != nil || !os.SameFile(now, l.sock) {
		t.Errorf("the first gate's admin socket is gone or another: %v", err)
	}
	if got := l.g.AdminDo(t, "GET", "/config/", "", ""); got.Status != 200 {
		t.Errorf("its admin endpoint answers %d", got.Status)
	}
}

// A second run of the same Caddyfile, and of others that share something with it.
func TestASecondGateIsRefusedAndTheFirstLivesOn(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		first  gatetest.Site
		second func(t *testing.T, s *gatetest.Site)
		says   string
	}{
		"with the same Caddyfile": {
			gatetest.Site{Admin: "unix"}, func(*testing.T, *gatetest.Site) {}, "the admin endpoint: unix socket",
		},
		"with the same Caddyfile, without an admin endpoint": {
			gatetest.Site{}, func(*testing.T, *gatetest.Site) {}, "is in use by another process",
		},
		"with another admin socket": {
			gatetest.Site{Admin: "unix"},
			func(t *testing.T, s *gatetest.Site) { s.Admin = "unix/" + filepath.Join(gatetest.TempDir(t), "s") }, "is in use by another process",
		},
		"that spells the address differently": {
			gatetest.Site{}, func(_ *testing.T, s *gatetest.Site) { s.Bind = "localhost" }, "is in use by another process",
		},
		"with the same admin socket alone": {
			gatetest.Site{Admin: "unix"},
			func(t *testing.T, s *gatetest.Site) {
				s.Address, s.Info = fmt.Sprintf("http://:%d", gatetest.FreePort(t)), filepath.Join(gatetest.TempDir(t), "info.json")
			},
			"the admin endpoint: unix socket",
		},
		"with the same server-info alone": {
			gatetest.Site{},
			func(t *testing.T, s *gatetest.Site) { s.Address = fmt.Sprintf("http://:%d", gatetest.FreePort(t)) },
			"a gate that runs publishes it",
		},
		"on the first one's unix socket": {
			gatetest.Site{Bind: "socket"},
			func(t *testing.T, s *gatetest.Site) { s.Info = filepath.Join(gatetest.TempDir(t), "info.json") },
			"the listener: unix socket",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := gatetest.NewUpstream(t, nil)
			s := c.first
			s.Dir, s.Address = gatetest.TempDir(t), fmt.Sprintf("http://:%d", gatetest.FreePort(t))
			if s.Bind == "socket" {
				s.Bind = "unix/" + filepath.Join(s.Dir, "gate.sock")
			}
			g := gatetest.StartGate(t, up, s)
			if strings.HasPrefix(s.Bind, "unix") {
				g.HTTP = gatetest.UnixClient(t, filepath.Join(s.Dir, "gate.sock"))
			}
			first := observe(t, g)
			second := g.Site
			c.second(t, &second)
			for range 3 {
				l := second.Launch(t)
				l.Dir = gatetest.TempDir(t)
				if said := gatetest.LastError(gatetest.StartRefused(t, l)); !strings.Contains(said, c.says) || !strings.Contains(said, "wait until its process is gone") {
					t.Errorf("it says: %s", said)
				}
				first.mustBeUntouched(t)
			}
			// "caddy validate" is for configs that run elsewhere.
			if out, code := gatetest.Run(t, gatetest.Launch{
				Dir: gatetest.TempDir(t), Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey},
				Args: []string{"validate", "--adapter", "caddyfile", "--config", second.ConfigPath()},
			}); code != 0 {
				t.Errorf("validate: %d %s", code, out)
			}
			first.mustBeUntouched(t)
			g.Signal(syscall.SIGTERM)
			if code := g.Wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			gatetest.StartGate(t, up, g.Site) // the place is free again
		})
	}
}

func TestAHundredSecondGatesCostTheFirstNoRequest(t *testing.T) {
	t.Parallel()
	up := gatetest.NewLoadUpstream(t)
	g := gatetest.StartReloadable(t, nil, gatetest.Site{To: up.URL})
	first := observe(t, g)
	stop := make(chan struct{})
	var load sync.WaitGroup
	var lost sync.Map
	for range 4 {
		load.Go(func() {
			client := gatetest.NewClient(t)
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				r := g.Post()
				r.Close = n%2 == 0 // connections old and new
				response, err := client.Do(r)
				if err != nil {
					lost.Store(err.Error(), true)
					continue
				}
				if got := gatetest.ReadAnswer(t, response); got.Status != 200 {
					lost.Store(fmt.Sprint(got.Status, got.Body), true)
				}
			}
		})
	}
	without := g.Site
	without.Admin = "off"
	for i := range secondStarts {
		second := g.Site
		if i%2 == 1 {
			second = without
		}
		second.Dir = gatetest.TempDir(t)
		second.Info = g.Site.InfoPath()
		if i%2 == 0 {
			second.Admin = g.Site.Admin
		}
		gatetest.StartRefused(t, second.Launch(t))
	}
	close(stop)
	load.Wait()
	lost.Range(func(what, _ any) bool {
		t.Errorf("a request was lost: %v", what)
		return true
	})
	first.mustBeUntouched(t)
}

// What a reload may do, this process holding the addresses.
func TestAReloadMayWriteItsAddressesDifferently(t *testing.T) {
	t.Parallel()
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{})
	port := g.Info.Port
	other := gatetest.FreePort(t)
	for _, change := range []func(s *gatetest.Site){
		func(s *gatetest.Site) { s.Bind = "localhost" },
		func(s *gatetest.Site) { s.Gate = "insecure_allow remote_listener"; s.Bind = "0.0.0.0" },
		func(s *gatetest.Site) { s.Gate = "insecure_allow remote_listener"; s.Bind = "-" },
		func(s *gatetest.Site) {},
		func(s *gatetest.Site) { s.Address = fmt.Sprintf("http://:%d", other) },
		func(s *gatetest.Site) { s.Bind = "unix/" + filepath.Join(s.Dir, "gate.sock") },
		func(s *gatetest.Site) { s.Bind = "unix/" + filepath.Join(s.Dir, "gate.sock"); s.Gate = "log_accepted" },
		func(s *gatetest.Site) { s.Bind = "unix/" + filepath.Join(s.Dir, "gate.sock") },
		func(s *gatetest.Site) {},
		func(s *gatetest.Site) { s.Gate = "log_accepted" },
	} {
		s := g.Site
		change(&s)
		g.MustReload(t, s)
	}
	g.Works(t)
	// One that fails after it has opened its admin socket leaves that open:
	// the next ones still find it to be their own.
	broken := g.Site
	broken.Admin, broken.Key = "unix/"+filepath.Join(g.Site.Dir, "next.sock"), "upstream_bearer {env.NOT_SET}"
	socket := g.Site.AdminSocket()
	client := gatetest.UnixClient(t, socket)
	for range 3 {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/load", strings.NewReader(broken.Caddyfile()))
		gatetest.Must(t, err)
		r.Header.Set("Content-Type", "text/caddyfile")
		if got := gatetest.Do(t, client, r); strings.Contains(got.Body, "in use") || got.Status == 200 {
			t.Errorf("a failing reload: %d %s", got.Status, got.Body)
		}
		client.CloseIdleConnections()
		client = gatetest.UnixClient(t, filepath.Join(g.Site.Dir, "next.sock"))
	}
	g.Works(t)
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err != nil {
		t.Error(err)
	} else {
		_ = conn.Close()
	}
}

func TestASecondCommandWithTheSameServerInfoIsRefused(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	g := gatetest.StartCommand(t, up, gatetest.Site{Admin: "off"}, gatetest.Launch{})
	first := observe(t, g)
	dir := gatetest.TempDir(t)
	for range 3 {
		out, code := gatetest.Run(t, gatetest.Launch{
			Dir: dir, Stdin: strings.NewReader(gatetest.OperatorKey + "\n"),
			Args: []string{"responses-proxy", "--server-info", g.Site.InfoPath(), "--upstream-url", up.URL + "/v1/responses"},
		})
		if code != 1 || !strings.Contains(out, "a gate that runs publishes it") || !strings.Contains(out, g.Site.InfoPath()) {
			t.Errorf("%d %s", code, out)
		}
		first.mustBeUntouched(t)
	}
	// However the first one ends.
	g.Kill()
	again := gatetest.StartCommand(t, up, g.Site, gatetest.Launch{})
	again.Works(t)
	again.Signal(syscall.SIGTERM)
	again.Wait()
	left, err := os.ReadDir(filepath.Dir(g.Site.InfoPath()))
	gatetest.Must(t, err)
	for _, entry := range left {
		if strings.HasPrefix(entry.Name(), ".") || entry.Name() == filepath.Base(g.Site.InfoPath()) {
			t.Errorf("%s is left", entry.Name())
		}
	}
}

// instants is how often several gates are started at once.
const instants = 5

// startAtOnce starts several gates with one Caddyfile, and returns the one that runs.
func startAtOnce(t *testing.T, s gatetest.Site) *gatetest.Process {
	t.Helper()
	var starts, runs []*gatetest.Process
	for range 4 {
		l := s.Launch(t)
		l.Dir = gatetest.TempDir(t)
		starts = append(starts, gatetest.Start(t, l))
	}
	for _, p := range starts {
		if p.Started(gatetest.ReadyLog) {
			runs = append(runs, p)
		}
	}
	if len(runs) != 1 {
		t.Fatalf("%d gates run, want one", len(runs))
	}
	return runs[0]
}

func TestOneOfTheGatesThatStartInTheSameInstantRuns(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for range instants {
		s := gatetest.Site{Address: fmt.Sprintf("http://:%d", gatetest.FreePort(t))}.With(t, up)
		g := &gatetest.Gate{Process: startAtOnce(t, s), Site: s, Up: up, HTTP: gatetest.NewClient(t)}
		g.Info = gatetest.ReadInfo(t, s.InfoPath())
		if g.Info.PID != g.PID() {
			t.Errorf("the file is that of process %d, and %d runs", g.Info.PID, g.PID())
		}
		g.Token, g.Addr = g.Info.AuthToken, fmt.Sprintf("127.0.0.1:%d", g.Info.Port)
		for range 20 {
			g.HTTP.CloseIdleConnections()
			g.Works(t)
		}
		g.Kill()
	}
}

// Without a file and an admin endpoint, they have nothing in common but the address.
func TestOneOfTheGatesWithoutAFileThatStartInTheSameInstantRuns(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("elsewhere, two that bind in the same microseconds are not kept apart (docs/compatibility.md)")
	}
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for range instants {
		s := gatetest.Site{
			Address: fmt.Sprintf("http://:%d", gatetest.FreePort(t)), NoInfo: true, Gate: "token {env.GATE_TOKEN}",
			Env: []string{"GATE_TOKEN=a-token-of-the-fleet-with-43-characters-0001"},
		}.With(t, up)
		startAtOnce(t, s).Kill()
	}
}

// The ports are closed then, and the file is gone.
func TestAnExitThatWaitsForAStreamLeavesItsPortToTheNextLaunch(t *testing.T) {
	t.Parallel()
	stream := gatetest.NewEventStream()
	up := gatetest.NewUpstream(t, stream.Serve)
	first := gatetest.StartGate(t, up, gatetest.Site{Address: fmt.Sprintf("http://:%d", gatetest.FreePort(t))})
	response, reader := gatetest.OpenStream(t, first.HTTP, first.Post())
	defer response.Body.Close()
	stream.Send(t)
	gatetest.ReadEvent(t, reader, 1)
	first.Signal(syscall.SIGTERM)
	gatetest.Until(t, "the port to be closed", func() bool {
		conn, err := net.Dial("tcp", first.Addr)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	gatetest.StartGate(t, up, first.Site)
	stream.Send(t)
	gatetest.ReadEvent(t, reader, 2)
	close(stream.Next)
	if code := first.Wait(); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
