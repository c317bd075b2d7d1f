//go:build linux

package cotenant

import (
	"net/http"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// prompt is what a caller asks, and nobody else may read.
const prompt = "the-prompt-of-a-caller"

func withPrompt(r *http.Request) {
	body := `{"model":"gpt-5","input":"` + prompt + `"}`
	replaced, err := http.NewRequest(r.Method, r.URL.String(), strings.NewReader(body))
	if err != nil {
		panic(err)
	}
	r.Body, r.GetBody, r.ContentLength = replaced.Body, replaced.GetBody, replaced.ContentLength
	r.Header.Set("User-Agent", prompt)
}

// Whatever the operator's umask is: dumps have prompts in them, and logs say
// who asks when.
func TestLogsAndDumpsCannotBeReadByAnotherUser(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for _, umask := range []string{"0000", "0022"} {
		t.Run("umask "+umask, func(t *testing.T) {
			t.Parallel()
			dir := shared(t, 0o755)
			g := gatetest.StartGate(t, up, gatetest.Site{
				Dir: dir, Umask: umask, Gate: "dump_dir " + filepath.Join(dir, "dumps"),
				Before: "log {\noutput file " + filepath.Join(dir, "logs", "access.log") + "\nformat filter {\nrequest>headers>X-Proxy-Token delete\n}\n}",
			})
			command := gatetest.StartCommand(t, up, gatetest.Site{Dir: shared(t, 0o755)}, gatetest.Launch{
				Umask: umask, Args: []string{"--dump-dir", filepath.Join(dir, "command-dumps")},
			})
			for _, gate := range []*gatetest.Gate{g, command} {
				if got := gate.Do(t, withPrompt); got.Status != 200 {
					t.Fatalf("status %d", got.Status)
				}
				gate.Signal(syscall.SIGTERM) // (and it has written everything)
				gate.Wait()
			}
			args := []string{prompt, dir, command.Site.Dir}
			if found := reported[[]string](t, attacker(t, "reader", args...)); len(found) > 0 {
				t.Errorf("another user could read %q", found)
			}
			// The same, as root: everything is there to be found.
			found := strings.Join(reported[[]string](t, gatetest.StartRole(t, nil, "reader", args...)), "\n")
			for _, where := range []string{"/dumps/", "/command-dumps/", "/access.log"} {
				if !strings.Contains(found, where) {
					t.Errorf("root finds nothing in %s: this attack shows nothing; it finds %s", where, found)
				}
			}
		})
	}
}

// The control: the original's dumps and server-info, with the usual umask.
func TestTheOriginalsDumpsCanBeReadByAnotherUser(t *testing.T) {
	t.Parallel()
	dumps := shared(t, 0o755)
	original := gatetest.StartOriginal(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: shared(t, 0o755)}, gatetest.Launch{
		Umask: "0022", Args: []string{"--dump-dir", dumps},
	})
	if got := original.Do(t, withPrompt); got.Status != 200 {
		t.Fatalf("status %d", got.Status)
	}
	original.Kill()
	if found := reported[[]string](t, attacker(t, "reader", prompt, dumps)); len(found) == 0 {
		t.Error("the attack does not even succeed against the original: it shows nothing")
	}
	if found := reported[[]string](t, attacker(t, "reader", `"port"`, original.Site.Dir)); len(found) == 0 {
		t.Error("another user cannot find the original's port: this attack shows nothing")
	}
}
