//go:build unix

package fleet

import (
	"context"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAClientOfOneReplicaIsOneOfEveryReplica(t *testing.T) {
	t.Parallel()
	folder := gatetest.TempDir(t)
	ended := make(chan struct{})
	up := gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "" {
			gatetest.Echo(ended)(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(gatetest.JSONAnswer))
	})
	a, b := replica(t, up, folder), replica(t, up, folder)
	token := strings.TrimSuffix(run(t, a, "client", "add", "ci", "--expires", "30d"), "\n")
	if len(token) != 43 {
		t.Fatalf("the command printed %d characters", len(token))
	}
	wantStatus(t, "where it was added", a, token, 200)
	awaitStatus(t, "on the other replica", b, token, 200)

	next := strings.TrimSuffix(run(t, b, "client", "rotate", "ci", "--grace", "0s"), "\n")
	wantStatus(t, "the former token where it was rotated", b, token, 401)
	wantStatus(t, "the next token where it was rotated", b, next, 200)
	awaitStatus(t, "the next token on the other replica", a, next, 200)
	wantStatus(t, "the former token on the other replica", a, token, 401)
	if listed := run(t, a, "clients"); !strings.Contains(listed, "shared") || !strings.Contains(listed, "ci") {
		t.Errorf("the list has no shared client ci:\n%s", listed)
	}

	b.Token = next
	gatetest.DialEcho(t, context.Background(), b)
	if said := run(t, a, "client", "remove", "ci"); !strings.Contains(said, "removed: gate default, shared client ci") {
		t.Errorf("the command says %q", said)
	}
	wantStatus(t, "where it was removed", a, next, 401)
	awaitStatus(t, "where it was not removed", b, next, 401)
	gatetest.AwaitClosed(t, "the end of the client's WebSocket", ended)

	for _, secret := range []string{token, next} {
		for _, g := range []*gatetest.Gate{a, b} {
			if strings.Contains(g.Output.String(), secret) {
				t.Errorf("a log has a token:\n%s", g.Output)
			}
		}
		for path, content := range filesIn(t, folder) {
			if strings.Contains(content, secret) {
				t.Errorf("%s has a token", path)
			}
		}
	}
}

func TestASharedClientIsDisabledAndItsEndChangedOnEveryReplica(t *testing.T) {
	t.Parallel()
	folder, place := gatetest.TempDir(t), gatetest.TempDir(t)
	up := gatetest.NewUpstream(t, nil)
	a, b := replica(t, up, folder), replica(t, up, folder)
	file := filepath.Join(place, "ci.token")
	if said := run(t, a, "client", "add", "ci", "--out", file); !strings.Contains(said, file) {
		t.Errorf("the command says %q", said)
	}
	token := strings.TrimSuffix(gatetest.ReadFile(t, file), "\n")
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o600 || len(token) != 43 {
		t.Fatalf("%v: mode %v, %d characters", err, info.Mode(), len(token))
	}
	awaitStatus(t, "on the other replica", b, token, 200)
	run(t, a, "client", "disable", "ci")
	wantStatus(t, "where it was disabled", a, token, 401)
	awaitStatus(t, "where it was not disabled", b, token, 401)
	if listed := run(t, b, "client", "list"); !strings.Contains(listed, "disabled") || strings.Contains(listed, "generated") {
		t.Errorf("the list is:\n%s", listed)
	}
	run(t, b, "client", "enable", "ci")
	awaitStatus(t, "where it was not enabled", a, token, 200)
	run(t, b, "client", "expires", "ci", "1s")
	awaitStatus(t, "after its new end", a, token, 401)
	wantStatus(t, "after its new end", b, token, 401)
}

// The shell empties a file that a command is redirected to before it runs.
func TestARotationThatIsRefusedLeavesTheFileAsItIs(t *testing.T) {
	t.Parallel()
	g := replica(t, gatetest.NewUpstream(t, nil), gatetest.TempDir(t))
	file := filepath.Join(gatetest.TempDir(t), "ci.token")
	run(t, g, "client", "add", "ci", "--out", file)
	token := strings.TrimSuffix(gatetest.ReadFile(t, file), "\n")
	refused := func(why string, args ...string) {
		t.Helper()
		out, code := gatetest.Run(t, gatetest.Launch{Dir: gatetest.TempDir(t), Args: append([]string{"responses-proxy", "client", "rotate"}, args...)})
		if code == 0 || gatetest.ReadFile(t, file) != token+"\n" {
			t.Errorf("%s: exit code %d, and the file has %q:\n%s", why, code, gatetest.ReadFile(t, file), out)
		}
		if strings.Contains(out, "server_info") || strings.Contains(out, "HTTP ") {
			t.Errorf("%s: it says:\n%s", why, out)
		}
	}
	refused("a client that there is not", "other", "--out", file, "--address", g.Site.AdminSocket())
	refused("no Caddy", "ci", "--out", file, "--address", file+".sock")
	gatetest.Must(t, os.Chmod(file, 0o644))
	refused("a file that others can read", "ci", "--out", file, "--address", g.Site.AdminSocket())
	gatetest.Must(t, os.Chmod(file, 0o600))
	wantStatus(t, "the token in the file", g, token, 200)
	run(t, g, "client", "rotate", "ci", "--out", file)
	wantStatus(t, "the next token in the file", g, strings.TrimSuffix(gatetest.ReadFile(t, file), "\n"), 200)
}

// filesIn are the files in a folder and all below it.
func filesIn(t *testing.T, folder string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	gatetest.Must(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		content, err := os.ReadFile(path)
		found[path] = string(content)
		return err
	}))
	return found
}

func TestAnOutageOfTheStorageKeepsTheKnownAndRefusesTheUnknown(t *testing.T) {
	t.Parallel()
	folder := gatetest.TempDir(t)
	up := gatetest.NewUpstream(t, nil)
	a, b := replica(t, up, folder), replica(t, up, folder)
	known := adds(t, a, "known")
	awaitStatus(t, "on the other replica", b, known, 200)
	here := filepath.Join(folder, "responses_proxy_gate")
	gatetest.Must(t, os.Rename(here, here+"-away"))
	const outage, end = "those that are known pass as before", "the shared clients can be read again"
	for _, g := range []*gatetest.Gate{a, b} {
		g.WaitOutput(outage, 1)
		wantStatus(t, "in the outage", g, known, 200)
		token, digest := newToken()
		status, answer, err := ask(adminOf(t, g), http.MethodPut, "new", `{"sha256":"`+digest+`"}`)
		if err != nil || status != http.StatusServiceUnavailable || !strings.Contains(answer, "Nothing was changed") {
			t.Errorf("adding a client: %d %s, %v", status, answer, err)
		}
		wantStatus(t, "one that was not added", g, token, 401)
	}
	fresh := replica(t, up, folder)
	wantStatus(t, "on a replica that starts in the outage", fresh, known, 401)
	if listed := run(t, a, "clients"); !strings.Contains(listed, "gate default, shared clients: ") {
		t.Errorf("the list does not tell the outage:\n%s", listed)
	}
	gatetest.Must(t, os.Rename(here+"-away", here))
	for _, g := range []*gatetest.Gate{a, b} {
		g.WaitOutput(end, 1)
		if n := strings.Count(g.Output.String(), outage); n != 1 {
			t.Errorf("the outage was logged %d times", n)
		}
	}
	awaitStatus(t, "on the replica that started in the outage", fresh, known, 200)
	awaitStatus(t, "a client that was added after the outage", b, adds(t, a, "next"), 200)
}
