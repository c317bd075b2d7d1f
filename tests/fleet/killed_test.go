//go:build unix

package fleet

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// acknowledged are the changes that a replica said it had made.
type acknowledged struct {
	mu     sync.Mutex
	tokens map[string]string // by client
	more   chan struct{}     // has one more value for each
}

// addUntilGone adds clients until the replica does not answer.
func (a *acknowledged) addUntilGone(admin *http.Client, writer string) {
	for i := 0; ; i++ {
		token, digest := newToken()
		name := fmt.Sprintf("%s-%d", writer, i)
		status, _, err := ask(admin, http.MethodPut, name, fmt.Sprintf(`{"sha256":%q}`, digest))
		if err != nil {
			return
		}
		if status == http.StatusOK {
			a.mu.Lock()
			a.tokens[name] = token
			a.mu.Unlock()
			a.more <- struct{}{}
		}
	}
}

// rotateCommon rotates the client that all replicas change, so many times, or
// until the replica does not answer.
func rotateCommon(admin *http.Client, times int) {
	for range times {
		_, digest := newToken()
		if _, _, err := ask(admin, http.MethodPost, "common/rotate", fmt.Sprintf(`{"sha256":%q,"grace":"0s"}`, digest)); err != nil {
			return
		}
	}
}

func TestAReplicaThatIsKilledWhileItWritesLosesAndCorruptsNothing(t *testing.T) {
	t.Parallel()
	folder := gatetest.TempDir(t)
	up := gatetest.NewUpstream(t, nil)
	survivor := replica(t, up, folder)
	adds(t, survivor, "common")
	all := &acknowledged{tokens: make(map[string]string), more: make(chan struct{}, 10_000)}
	for round := range 4 {
		killed := replica(t, up, folder)
		var writers sync.WaitGroup
		admin := func(g *gatetest.Gate) *http.Client { return gatetest.UnixClient(t, g.Site.AdminSocket()) }
		adding, rotating, surviving := admin(killed), admin(killed), admin(survivor)
		writers.Go(func() { all.addUntilGone(adding, fmt.Sprintf("round%d", round)) })
		writers.Go(func() { rotateCommon(rotating, 10_000) })
		// (who has had the lock just before the killed replica has it)
		writers.Go(func() { rotateCommon(surviving, 3) })
		gatetest.Await(t, "changes by the replica that is to be killed", func(done <-chan time.Time) bool {
			for range 6 + round {
				select {
				case <-all.more:
				case <-done:
					return false
				}
			}
			return true
		})
		killed.Kill()
		writers.Wait()
		// The killed replica may have had the lock of the client in common.
		token, digest := newToken()
		does(t, survivor, http.MethodPost, "common/rotate", fmt.Sprintf(`{"sha256":%q,"grace":"0s"}`, digest))
		wantStatus(t, "the client in common", survivor, token, 200)
	}
	fresh := replica(t, up, folder)
	for name, token := range all.tokens {
		awaitStatus(t, name+" on the replica that was not killed", survivor, token, 200)
		wantStatus(t, name+" on a replica that has started since", fresh, token, 200)
	}
	records := 0
	for path, content := range filesIn(t, filepath.Join(folder, "responses_proxy_gate")) {
		if !strings.HasSuffix(path, ".json") {
			continue // the mark, and files that were about to be put in place
		}
		records++
		if !json.Valid([]byte(content)) {
			t.Errorf("%s is torn: %q", path, content)
		}
	}
	if records < len(all.tokens) || len(all.tokens) < 20 {
		t.Errorf("there are %d records, and %d clients were added", records, len(all.tokens))
	}
	for _, g := range []*gatetest.Gate{survivor, fresh} {
		if strings.Contains(g.Output.String(), "cannot be read") {
			t.Errorf("a replica could not read the storage:\n%s", g.Output)
		}
	}
}
