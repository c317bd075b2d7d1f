//go:build unix

package faults

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// seed is where the random moments come from: FAULTS_SEED, to have them again.
func seed(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("FAULTS_SEED")
	if text == "" {
		text = strconv.FormatUint(rand.Uint64(), 10)
	}
	n, err := strconv.ParseUint(text, 10, 64)
	gatetest.Must(t, err)
	t.Logf("to have the same moments again: FAULTS_SEED=%d", n)
	return n
}

const (
	killers       = 4  // at a time
	killsAtStart  = 40 // of each
	killsAtWork   = 20 // of each
	roundsToCheck = 5  // a whole start after so many
)

// victim is a gate that is killed and started again, in the same place.
type victim struct {
	t      *testing.T
	up     *gatetest.Upstream
	site   gatetest.Site
	random *rand.Rand
	span   time.Duration   // what a start takes, and a little
	former map[string]bool // tokens of launches that are over
}

// killed has several victims go through rounds, each with its own moments.
func killed(t *testing.T, rounds func(v *victim)) {
	t.Helper()
	moments := seed(t)
	for n := range killers {
		t.Run(fmt.Sprint("victim ", n), func(t *testing.T) {
			t.Parallel()
			dir, up := gatetest.TempDir(t), gatetest.NewUpstream(t, nil)
			gatetest.Mkdir(t, filepath.Join(dir, "run"), 0o700)
			v := &victim{
				t: t, up: up, former: make(map[string]bool), random: rand.New(rand.NewPCG(moments, uint64(n))),
				site: gatetest.Site{
					Dir: dir, Info: filepath.Join(dir, "run", "info.json"),
					Admin: "unix", Address: fmt.Sprintf("http://:%d", gatetest.FreePort(t)),
					Proxy: "transport http {\nkeepalive off\n}",
				}.With(t, up),
			}
			v.starts()
			rounds(v)
			v.starts()
		})
	}
}

// starts is a whole start: it works, nothing is left of those who were killed,
// and no token of theirs is taken. Then it is killed too.
func (v *victim) starts() {
	v.t.Helper()
	began := time.Now()
	g := gatetest.StartGate(v.t, v.up, v.site)
	v.span = time.Since(began) * 5 / 4
	g.Works(v.t)
	if left := v.look(); left != 0 {
		v.t.Errorf("a start leaves %d temporary files of former launches", left)
	}
	own := g.Token
	delete(v.former, own)
	for token := range v.former {
		g.Token = token
		gatetest.Refused(v.t, g.Do(v.t), http.StatusUnauthorized, "invalid_token")
	}
	g.HTTP.CloseIdleConnections()
	v.kill(g.Process)
	v.former = map[string]bool{own: true} // (those from before were refused: they do not come back)
}

// moment waits for a random part of d.
func (v *victim) moment(d time.Duration) {
	time.Sleep(time.Duration(v.random.Int64N(int64(d)))) // the moment itself is under test
}

func (v *victim) kill(p *gatetest.Process) {
	p.Kill()
}

// look sees that every file is whole and for its owner alone. It counts those
// that are left for the next start to remove.
func (v *victim) look() (left int) {
	v.t.Helper()
	dir := filepath.Dir(v.site.InfoPath())
	entries, err := os.ReadDir(dir)
	gatetest.Must(v.t, err)
	for _, entry := range entries {
		info, err := entry.Info()
		gatetest.Must(v.t, err)
		if info.Mode()&^0o600 != 0 { // (a mode that is still less is for nobody else either)
			v.t.Errorf("%s has mode %v", entry.Name(), info.Mode())
		}
		if strings.HasSuffix(entry.Name(), ".lock") {
			continue // empty, and taken over by the next start
		}
		if strings.HasSuffix(entry.Name(), ".tmp") {
			left++
			continue
		}
		v.former[gatetest.ReadInfo(v.t, filepath.Join(dir, entry.Name())).AuthToken] = true
	}
	if left > 1 {
		v.t.Errorf("%d temporary files have accumulated", left)
	}
	return left
}

func TestAKillInAnyMomentOfAStartHarmsNoLaterOne(t *testing.T) {
	t.Parallel()
	killed(t, func(v *victim) {
		for round := range killsAtStart {
			p := gatetest.Start(t, v.site.Launch(t))
			v.moment(v.span)
			v.kill(p)
			v.look()
			if round%roundsToCheck == 0 {
				v.starts()
			}
		}
	})
}

func TestAKillInAnyMomentOfAReloadOrARotationHarmsNoLaterStart(t *testing.T) {
	t.Parallel()
	killed(t, func(v *victim) {
		left := 0
		for range killsAtWork {
			g := gatetest.StartGate(t, v.up, v.site)
			v.former[g.Token] = true
			stop := make(chan struct{})
			var work sync.WaitGroup
			work.Go(func() {
				v.again(stop, "/responses_proxy_gate/gates/default/rotate", "application/json", `{"grace":"10ms"}`)
			})
			work.Go(func() {
				moved := v.site
				moved.Info = filepath.Join(v.site.Dir, "run", "moved.json")
				v.again(stop, "/load", "text/caddyfile", moved.Caddyfile(), v.site.Caddyfile())
			})
			v.moment(150 * time.Millisecond)
			v.kill(g.Process)
			close(stop)
			work.Wait()
			left += v.look()
		}
		v.t.Logf("%d of %d kills left a temporary file", left, killsAtWork)
		// Where the file was when a reload was killed, no later start looks.
		_ = os.Remove(filepath.Join(v.site.Dir, "run", "moved.json"))
	})
}

// again makes requests to the admin endpoint until it is told to stop. Those
// that fail are those of a gate that was killed, or is about to reload.
func (v *victim) again(stop <-chan struct{}, path, contentType string, bodies ...string) {
	client := gatetest.UnixClient(v.t, v.site.AdminSocket())
	client.Timeout = gatetest.Patience
	for n := 0; ; n++ {
		select {
		case <-stop:
			return
		default:
		}
		response, err := client.Post("http://127.0.0.1"+path, contentType, strings.NewReader(bodies[n%len(bodies)]))
		if err == nil {
			_ = response.Body.Close()
		}
		client.CloseIdleConnections() // (an admin server waits for them when it ends)
	}
}
