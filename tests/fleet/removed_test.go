//go:build unix

package fleet

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAnAcknowledgedRemovalIsNotUndoneByRotationsElsewhere(t *testing.T) {
	t.Parallel()
	folder := gatetest.TempDir(t)
	up := gatetest.NewUpstream(t, nil)
	a, b := replica(t, up, folder), replica(t, up, folder)
	const clients = 20
	var group sync.WaitGroup
	tokens := make([][]string, clients)
	errs := make(chan error, clients)
	for i := range clients {
		name := fmt.Sprintf("client-%d", i)
		tokens[i] = append(tokens[i], adds(t, a, name))
		rotating, removing := adminOf(t, a), adminOf(t, b)
		if i%2 == 0 {
			leaveLock(t, folder, name)
		}
		var both sync.WaitGroup
		both.Go(func() {
			for range 3 {
				token, digest := newToken()
				tokens[i] = append(tokens[i], token)
				_, _, _ = ask(rotating, http.MethodPost, name+"/rotate", fmt.Sprintf(`{"sha256":%q,"grace":"1h"}`, digest))
			}
		})
		both.Go(func() {
			for {
				status, answer, err := ask(removing, http.MethodDelete, name, "")
				if err == nil && status == http.StatusConflict {
					continue // a rotation won, and the answer says to ask again: nothing was acknowledged
				}
				if err != nil || status != http.StatusOK {
					errs <- fmt.Errorf("removing %s: %d %s, %w", name, status, answer, err)
				}
				return
			}
		})
		group.Go(both.Wait)
	}
	group.Wait()
	close(errs)
	for err := range errs {
		t.Error(err)
	}
	fresh := replica(t, up, folder)
	for i, of := range tokens {
		for _, token := range of {
			awaitStatus(t, fmt.Sprintf("removed client %d", i), a, token, 401)
			wantStatus(t, fmt.Sprintf("removed client %d, on a replica that starts", i), fresh, token, 401)
		}
	}
	left, err := filepath.Glob(filepath.Join(folder, "responses_proxy_gate", "*", "*.json"))
	if err != nil || len(left) > 0 {
		t.Errorf("there are the records %q, %v", left, err)
	}
}

// leaveLock leaves a client's lock as a process does that was killed just now.
func leaveLock(t *testing.T, folder, client string) {
	t.Helper()
	locks := filepath.Join(folder, "locks")
	gatetest.Must(t, os.MkdirAll(locks, 0o700))
	now := time.Now().Format(time.RFC3339Nano)
	gatetest.Must(t, os.WriteFile(filepath.Join(locks, "responses_proxy_gatedefault.clients"+client+".json.lock"),
		[]byte(fmt.Sprintf(`{"created":%q,"updated":%q}`, now, now)), 0o600))
}
