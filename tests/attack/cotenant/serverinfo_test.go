//go:build linux

package cotenant

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// victim is a file of root's that no attack may change.
type victim struct {
	path string
	was  string
}

func newVictim(t *testing.T) *victim {
	t.Helper()
	v := &victim{path: filepath.Join(shared(t, 0o755), "victim")}
	gatetest.WriteFile(t, v.path, "precious\n")
	v.was = v.is(t)
	return v
}

func (v *victim) is(t *testing.T) string {
	t.Helper()
	info, err := os.Lstat(v.path)
	gatetest.Must(t, err)
	stat := info.Sys().(*syscall.Stat_t)
	return fmt.Sprintf("%q mode %v owner %d:%d inode %d modified %v",
		gatetest.ReadFile(t, v.path), info.Mode(), stat.Uid, stat.Gid, stat.Ino, info.ModTime())
}

func (v *victim) untouched(t *testing.T) {
	t.Helper()
	if now := v.is(t); now != v.was {
		t.Fatalf("another file of root's was changed: it is\n%s, and was\n%s", now, v.was)
	}
	if entries, err := os.ReadDir(filepath.Dir(v.path)); err != nil || len(entries) != 1 {
		t.Fatalf("beside the victim, there is something now: %v %v", entries, err)
	}
}

// published fails the test unless the file at path is one that only its owner
// can have made and can read.
func published(t *testing.T, path string, owner uint32) {
	t.Helper()
	info, err := os.Lstat(path)
	gatetest.Must(t, err)
	stat := info.Sys().(*syscall.Stat_t)
	if info.Mode() != 0o600 || stat.Uid != owner || stat.Nlink != 1 {
		t.Fatalf("server-info has mode %v, owner %d, %d links, want -rw-------, %d, 1", info.Mode(), stat.Uid, stat.Nlink, owner)
	}
	gatetest.ReadInfo(t, path)
}

// caught fails the test if the swapper got at a token.
func caught(t *testing.T, actor *gatetest.Actor) {
	t.Helper()
	got := reported[swapperReport](t, actor)
	t.Logf("the attacker planted something %d times", got.Plants)
	if len(got.Leaks) > 0 || got.Moved > 0 {
		t.Errorf("the attacker read the token in %q, and took away %d files of the gate's", got.Leaks, got.Moved)
	}
}

// leftovers fails the test if something of root's lies about in dir.
func leftovers(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	gatetest.Must(t, err)
	for _, entry := range entries {
		if info, err := entry.Info(); err == nil && info.Sys().(*syscall.Stat_t).Uid == 0 {
			t.Errorf("root's %s lies about", entry.Name())
		}
	}
}

func TestSwappedFilesNeverGetTheTokenWhileTheProxyStartsAgainAndAgain(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, below := range map[string]string{
		"in a directory like /tmp":            "info.json",
		"in a new directory in one like /tmp": "gate/info.json",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := newVictim(t)
			dir := shared(t, worldTemp)
			path := filepath.Join(dir, below)
			actor := attacker(t, "swapper", v.path, "all", path)
			started := 0
			rounds := race(t, actor, func() {
				p := startAt(t, up, path)
				if p.Started("responses-proxy listening on") {
					started++
					published(t, path, 0)
					_ = p.Cmd.Process.Signal(syscall.SIGTERM)
				} else if out := p.Output.String(); !strings.Contains(out, "server_info") && !strings.Contains(out, "--server-info") {
					t.Fatalf("it did not start, and names neither the option nor the flag:\n%s", out)
				}
				p.Wait()
				v.untouched(t)
				if filepath.Dir(path) != dir {
					removeOurs(filepath.Dir(path)) // the next launch makes it anew
				}
			}, func() bool { return started > 0 })
			t.Logf("%d launches, of which %d were refused", rounds, rounds-started)
			caught(t, actor)
			leftovers(t, dir)
		})
	}
}

// raceTime is how long one race lasts at least.
const raceTime = 6 * time.Second

// race plays rounds until there were enough for the attack to show something,
// and tells how many.
func race(t *testing.T, actor *gatetest.Actor, round func(), enough func() bool) (rounds int) {
	t.Helper()
	for begin := time.Now(); ; {
		round()
		rounds++
		busy := strings.Contains(actor.Output.String(), swapperBusy)
		switch took := time.Since(begin); {
		case took > raceTime && busy && enough():
			return rounds
		case took > 3*gatetest.Patience:
			t.Fatalf("after %d rounds, this attack shows nothing; the attacker was busy: %t", rounds, busy)
		}
	}
}

// removeOurs removes a directory that the gate made, and nothing that the
// attacker did.
func removeOurs(dir string) {
	if info, err := os.Lstat(dir); err == nil && info.IsDir() && info.Sys().(*syscall.Stat_t).Uid == 0 {
		_ = os.RemoveAll(dir)
	}
}

// Each reload moves the file to another of the paths that the attacker attacks.
func TestSwappedFilesNeverGetTheTokenWhileTheFileMoves(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	dir := shared(t, worldTemp)
	paths := []string{filepath.Join(dir, "a"), filepath.Join(dir, "b")}
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{Info: filepath.Join(gatetest.TempDir(t), "first")})
	actor := attacker(t, "swapper", v.path, "all", paths[0], paths[1])
	moved := 0
	rounds := race(t, actor, func() {
		changed := g.Site
		changed.Info = paths[0]
		if g.Site.Info == paths[0] {
			changed.Info = paths[1]
		}
		if got := g.Reload(t, changed); got.Status == 200 {
			g.Site = changed
			// The file may still have met a plant, after the config was checked:
			// then the gate logs that, and the token is nowhere.
			if info, err := os.Lstat(changed.Info); err == nil && info.Sys().(*syscall.Stat_t).Uid == 0 && info.Mode().IsRegular() {
				moved++
				published(t, changed.Info, 0)
			}
		}
		g.Do(t)
		v.untouched(t)
	}, func() bool { return moved > 0 })
	t.Logf("%d reloads, in which the file moved %d times", rounds, moved)
	g.Signal(syscall.SIGTERM)
	g.Wait()
	caught(t, actor)
	leftovers(t, dir)
}

// The owner option has root write into another user's directory. That user
// may read that token, and must not get at any other file of root's.
func TestTheOwnerOfTheFilesDirectoryCannotTurnRootAgainstOtherFiles(t *testing.T) {
	t.Parallel()
	uid, _ := gatetest.Nobody(t)
	up := gatetest.NewUpstream(t, nil)
	v := newVictim(t)
	home := gatetest.NobodysDir(t)
	path := filepath.Join(home, "gate", "info.json")
	actor := attacker(t, "swapper", v.path, "all", path)
	started := 0
	rounds := race(t, actor, func() {
		p := startAt(t, up, path, "--owner", fmt.Sprint(uid))
		if p.Started("responses-proxy listening on") {
			started++
			_ = p.Cmd.Process.Signal(syscall.SIGTERM)
		}
		p.Wait()
		v.untouched(t)
	}, func() bool { return started > 0 })
	t.Logf("%d launches, of which %d were refused", rounds, rounds-started)
}

// Root would make a file there, and give it to that user: in a directory of
// programs that root runs, say.
func TestTheOwnersLinksLeadNoFileIntoADirectoryOfRoots(t *testing.T) {
	t.Parallel()
	user := gatetest.AsNobody(t)
	up := gatetest.NewUpstream(t, nil)
	for name, path := range map[string]string{
		"a link in place of the directory":            "link/info.json",
		"a link in place of one above":                "link/below/info.json",
		"a link in place of one above a missing one":  "link/missing/info.json",
		"a link and dots that lead further":           "link/../info.json",
		"a link that leads to root's by another link": "other/info.json",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			roots, home := shared(t, 0o755), gatetest.NobodysDir(t)
			gatetest.Must(t, os.Mkdir(filepath.Join(roots, "below"), 0o755))
			for link, target := range map[string]string{"link": roots, "other": "link"} {
				link = filepath.Join(home, link)
				gatetest.Must(t, os.Symlink(target, link))
				gatetest.Must(t, os.Lchown(link, int(user.Uid), int(user.Gid)))
			}
			before := gatetest.Tree(t, roots)
			p := startAt(t, up, home+"/"+path, "--owner", fmt.Sprint(user.Uid))
			if p.Started("listening on") || !strings.Contains(p.Output.String(), "symbolic link") {
				t.Errorf("it did not refuse the link: %s", p.Output)
			}
			if after := gatetest.Tree(t, roots); after != before {
				t.Errorf("in a directory of root's, there is now:\n%s", after)
			}
		})
	}
}

// startAt starts the command, which may be refused.
func startAt(t *testing.T, up *gatetest.Upstream, infoPath string, flags ...string) *gatetest.Process {
	t.Helper()
	return gatetest.Start(t, gatetest.Launch{
		Dir: gatetest.TempDir(t), Stdin: strings.NewReader(gatetest.OperatorKey + "\n"),
		Args: append([]string{"responses-proxy", "--server-info", infoPath, "--upstream-url", up.URL + "/v1/responses"}, flags...),
	})
}

// While tokens rotate, the file is replaced thousands of times: once where
// everybody can plant, and once in a directory of the attacker's own, who is
// the owner of that client's file and has its links lead to the other one.
func TestSwappedFilesNeverGetTheTokenWhileItRotates(t *testing.T) {
	uid, _ := gatetest.Nobody(t)
	v := newVictim(t)
	dir := shared(t, worldTemp)
	home := gatetest.NobodysDir(t)
	info, owned := filepath.Join(dir, "info.json"), filepath.Join(home, "gate", "info.json")
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Info: info,
		Gate: fmt.Sprintf("client other {\nserver_info %s {\nowner %d\n}\n}", owned, uid),
	})
	actor := attacker(t, "swapper", v.path, "all", info)
	owner := attacker(t, "swapper", info, "all", owned)
	seen := map[string]bool{g.Token: true}
	const rotate = "/responses_proxy_gate/gates/default/"
	rounds := race(t, owner, func() {
		// (The owner may have put something in its file's place: then that
		// client's rotation fails, and says so.)
		g.AdminDo(t, http.MethodPost, rotate+"clients/other/rotate", "application/json", `{"grace":"0s"}`)
		if got := g.AdminDo(t, http.MethodPost, rotate+"rotate", "application/json", `{"grace":"0s"}`); got.Status >= 300 && got.Status != http.StatusInternalServerError {
			t.Fatalf("rotation: %d %s", got.Status, got.Body)
		}
		former := g.Token
		published(t, info, 0)
		g.ReadInfo()
		if seen[g.Token] {
			t.Fatal("the file has a token that it had before")
		}
		seen[g.Token] = true
		v.untouched(t)
		if len(seen)%50 == 0 {
			g.Works(t)
			gatetest.Refused(t, g.Do(t, gatetest.SetHeader("Authorization", "Bearer "+former)), http.StatusUnauthorized, "invalid_token")
		}
	}, func() bool { return len(seen) > 1000 })
	t.Logf("%d rotations", rounds)
	g.Signal(syscall.SIGTERM)
	g.Wait()
	if got := reported[swapperReport](t, owner); len(got.Leaks) == 0 {
		t.Error("the owner never saw its own client's token: this attack shows nothing")
	}
	caught(t, actor)
	leftovers(t, dir)
}

// The control: a link in the same place before the program that the gate
// replaces.
func TestTheOriginalOverwritesTheFileThatAnotherUsersLinkLeadsTo(t *testing.T) {
	t.Parallel()
	v := newVictim(t)
	// (In a sticky directory, a kernel with fs.protected_symlinks would help it.)
	info := filepath.Join(shared(t, 0o777), "info.json")
	actor := attacker(t, "usurper", "link", info, v.path)
	actor.WaitOutput("linked", 1)
	original := gatetest.StartOriginal(t, gatetest.NewUpstream(t, nil), gatetest.Site{Info: info}, gatetest.Launch{})
	if v.is(t) == v.was {
		t.Error("the attack does not even succeed against the original: it shows nothing")
	}
	gatetest.Must(t, original.Cmd.Process.Kill())
}
