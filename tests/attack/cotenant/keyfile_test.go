//go:build linux

package cotenant

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// asTheOther has the other user run a shell command.
func asTheOther(t *testing.T, command string) {
	t.Helper()
	if out, code := gatetest.Run(t, gatetest.Launch{Program: "/bin/sh", Dir: gatetest.NobodysDir(t), User: gatetest.AsNobody(t), Args: []string{"-c", command}}); code != 0 {
		t.Fatalf("%s: %d %s", command, code, out)
	}
}

// plainProxy is Caddy without a gate, which sends what a file has as its key.
func plainProxy(t *testing.T, up *gatetest.Upstream, key string) *gatetest.Process {
	t.Helper()
	dir := gatetest.TempDir(t)
	gatetest.WriteFile(t, filepath.Join(dir, "Caddyfile"), "{\n\tadmin off\n}\nhttp:// {\n\tbind unix/"+filepath.Join(dir, "s")+
		"\n\treverse_proxy "+up.URL+" {\n\t\theader_up Authorization \"Bearer {file."+key+"}\"\n\t}\n}\n")
	p := gatetest.Start(t, gatetest.Launch{Dir: dir, Args: []string{"run", "--adapter", "caddyfile", "--config", filepath.Join(dir, "Caddyfile")}})
	p.Started(gatetest.ReadyLog)
	client := gatetest.UnixClient(t, filepath.Join(dir, "s"))
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1/v1/responses", strings.NewReader("{}"))
	gatetest.Must(t, err)
	gatetest.Do(t, client, r)
	return p
}

// The other user cannot have the operator's callers pay with a key of its own,
// and read their prompts in its account; nor have root send a file's first line.
func TestAnotherUserCannotReplaceTheKeyOrTheToken(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	const theirs, roots = "sk-the-attackers-own-key-0123456789abcdef", "the-first-line-of-a-file-that-only-root-reads"

	// loose is a directory of root's that everybody can write to, with root's key.
	loose := func(t *testing.T) string {
		key := filepath.Join(shared(t, 0o777), "key")
		gatetest.WriteFile(t, key, gatetest.OperatorKey+"\n")
		gatetest.Must(t, os.Chmod(key, 0o600))
		return key
	}
	// linked is a link of the other user's to a file that only root can read.
	linked := func(t *testing.T) string {
		file := filepath.Join(gatetest.TempDir(t), "shadow")
		gatetest.WriteFile(t, file, roots+"\n")
		gatetest.Must(t, os.Chmod(file, 0o600))
		link := filepath.Join(gatetest.NobodysDir(t), "key")
		asTheOther(t, "ln -s "+file+" "+link)
		return link
	}
	for name, place := range map[string]func(*testing.T) string{"in a directory that others can write to": loose, "by another user's link": linked} {
		for option, site := range map[string]func(path string) gatetest.Site{
			"upstream_bearer_file": func(path string) gatetest.Site { return gatetest.Site{Key: "upstream_bearer_file " + path} },
			"upstream_bearer":      func(path string) gatetest.Site { return gatetest.Site{Key: "upstream_bearer {file." + path + "}"} },
			"token":                func(path string) gatetest.Site { return gatetest.Site{Gate: "token {file." + path + "}"} },
		} {
			t.Run(option+" "+name, func(t *testing.T) {
				t.Parallel()
				path := place(t)
				message := gatetest.LastError(gatetest.StartRefused(t, site(path).With(t, up).Launch(t)))
				if !strings.Contains(message, option) || !strings.Contains(message, filepath.Dir(path)) || strings.Contains(message, roots[:20]) {
					t.Errorf("it does not say what is wrong, or too much: %s", message)
				}
			})
		}
	}
	t.Run("control: Caddy without a gate sends the attacker's key", func(t *testing.T) {
		t.Parallel()
		up, key := gatetest.NewUpstream(t, nil), loose(t)
		asTheOther(t, "umask 022; echo "+theirs+" >"+key+".new && mv -f "+key+".new "+key)
		plainProxy(t, up, key)
		if got := up.Only(t).Header.Get("Authorization"); got != "Bearer "+theirs {
			t.Errorf("the attack does not even succeed against Caddy without a gate: %q", got)
		}
	})
	t.Run("control: Caddy without a gate sends a file that only root can read", func(t *testing.T) {
		t.Parallel()
		up := gatetest.NewUpstream(t, nil)
		plainProxy(t, up, linked(t))
		if got := up.Only(t).Header.Get("Authorization"); got != "Bearer "+roots {
			t.Errorf("the attack does not even succeed against Caddy without a gate: %q", got)
		}
	})
}

// A client that spoils its own file spoils nothing else: not a reload, not the
// rotation of the others, not a start.
func TestOneClientsSpoiltFileHoldsUpNobodyElse(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]string{"chmod 644": "chmod 644 FILE", "a directory": "rm -f FILE && mkdir FILE", "a link": "ln -sf /etc/passwd FILE"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			home, dir := gatetest.NobodysDir(t), gatetest.TempDir(t)
			theirs, own := filepath.Join(home, "gate.json"), filepath.Join(dir, "codex.json")
			spoil := strings.ReplaceAll(spoil, "FILE", theirs)
			site := gatetest.Site{Dir: dir, Gate: "client contractor {\nserver_info " + theirs + " {\nowner nobody\n}\n}\nclient codex {\nserver_info " + own + "\n}\n"}
			g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), site)
			passes := func(what string) {
				if got := g.Do(t, gatetest.SetHeader("X-Proxy-Token", gatetest.ReadInfo(t, own).AuthToken)); got.Status != http.StatusOK {
					t.Errorf("%s: another client gets %d %s", what, got.Status, got.Body)
				}
			}
			asTheOther(t, spoil)
			changed := g.Site
			changed.Gate += "allow_origin https://app.example\n"
			g.MustReload(t, changed)
			passes("after a reload")
			before := gatetest.ReadInfo(t, own).AuthToken
			if out, code := gatetest.Run(t, gatetest.Launch{Dir: dir, Args: []string{"responses-proxy", "rotate", "--all", "--grace", "0s", "--address", "unix/" + g.Site.AdminSocket()}}); code != 0 {
				t.Errorf("rotate --all: %d %s", code, out)
			}
			if gatetest.ReadInfo(t, own).AuthToken == before {
				t.Error("another client's token was not rotated")
			}
			passes("after a rotation")

			g.Signal(syscall.SIGTERM)
			g.Wait()
			asTheOther(t, "rm -rf "+theirs+"; touch "+theirs+"; "+spoil)
			again := site
			again.Dir = gatetest.TempDir(t)
			again.Gate = strings.ReplaceAll(site.Gate, own, filepath.Join(again.Dir, "codex.json"))
			gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), again)
		})
	}
}
