//go:build unix

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// keyFileGate is a gate whose key is in a file.
func keyFileGate(t *testing.T) (g *gatetest.Gate, path string) {
	t.Helper()
	dir := gatetest.TempDir(t)
	path = filepath.Join(dir, "key")
	gatetest.WriteFile(t, path, gatetest.OperatorKey+"\n")
	return gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: dir, Key: "upstream_bearer_file " + path}), path
}

// keyUpstream sends a request and tells which key the upstream got with it.
func keyUpstream(t *testing.T, g *gatetest.Gate) string {
	t.Helper()
	g.Up.Forget()
	g.Works(t)
	return strings.TrimPrefix(g.Up.Only(t).Header.Get("Authorization"), "Bearer ")
}

// waitKey sends requests until the upstream gets a key. In between it may get
// the old one, and no other.
func waitKey(t *testing.T, g *gatetest.Gate, old, key string) {
	t.Helper()
	gatetest.Until(t, "the new key to be used", func() bool {
		got := keyUpstream(t, g)
		if got != key && got != old {
			t.Fatalf("the upstream got the key %q, which is neither the old nor the new one", got)
		}
		return got == key
	})
}

// replace renames a new file over path, as secret managers do.
func replace(t *testing.T, path, content string) {
	t.Helper()
	gatetest.WriteFile(t, path+".new", content)
	gatetest.Must(t, os.Rename(path+".new", path))
}

func TestARotatedKeyFileIsTakenUpWithoutAReload(t *testing.T) {
	t.Parallel()
	g, path := keyFileGate(t)
	if got := keyUpstream(t, g); got != gatetest.OperatorKey {
		t.Fatalf("the upstream got %q", got)
	}
	replace(t, path, "sk-renamed-into-place\n")
	waitKey(t, g, gatetest.OperatorKey, "sk-renamed-into-place")
	gatetest.WriteFile(t, path, "sk-written-in-place\r\n")
	waitKey(t, g, "sk-renamed-into-place", "sk-written-in-place")
	replace(t, path, "sk-without-a-newline")
	waitKey(t, g, "sk-written-in-place", "sk-without-a-newline")
	for _, key := range []string{gatetest.OperatorKey, "sk-renamed", "sk-written", "sk-without"} {
		if strings.Contains(g.Output.String(), key) {
			t.Errorf("the log has the key %s…", key)
		}
	}
}

func TestAChangedKeyFileIsTakenUpWhileNobodyCalls(t *testing.T) {
	t.Parallel()
	g, path := keyFileGate(t)
	replace(t, path, "sk-renamed-into-place\n")
	g.WaitOutput("upstream_bearer_file has changed; the new one is in use", 1)
	if got := keyUpstream(t, g); got != "sk-renamed-into-place" {
		t.Errorf("the first request went out with %q", got)
	}
	replace(t, path, "two words")
	g.WaitOutput("upstream_bearer_file has changed and has nothing that can be used", 1)
}

func TestABrokenKeyFileLeavesTheOldKeyInUseAndIsLogged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(t *testing.T, path string){
		"emptied in place":     func(t *testing.T, path string) { gatetest.WriteFile(t, path, "") },
		"replaced by nothing":  func(t *testing.T, path string) { replace(t, path, "") },
		"two lines":            func(t *testing.T, path string) { replace(t, path, "sk-one\nsk-two\n") },
		"a space in the key":   func(t *testing.T, path string) { replace(t, path, "sk-one sk-two") },
		"an escape in the key": func(t *testing.T, path string) { replace(t, path, "sk-\x1b[31m") },
		"too long":             func(t *testing.T, path string) { replace(t, path, strings.Repeat("k", 8<<10+1)) },
		"removed":              func(t *testing.T, path string) { gatetest.Must(t, os.Remove(path)) },
		"a directory by now": func(t *testing.T, path string) {
			gatetest.Must(t, os.Remove(path))
			gatetest.Must(t, os.Mkdir(path, 0o700))
		},
		"readable by all users": func(t *testing.T, path string) {
			gatetest.WriteFile(t, path+".loose", "sk-loose")
			gatetest.Must(t, os.Chmod(path+".loose", 0o644))
			gatetest.Must(t, os.Rename(path+".loose", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, path := keyFileGate(t)
			c(t, path)
			gatetest.Until(t, "an error in the log", func() bool {
				if got := keyUpstream(t, g); got != gatetest.OperatorKey {
					t.Fatalf("the upstream got %q, want the old key", got)
				}
				return len(gatetest.LinesWith(g.Output.String(), `"level":"error"`)) > 0
			})
			for range 5 {
				if got := keyUpstream(t, g); got != gatetest.OperatorKey {
					t.Errorf("the upstream got %q, want the old key", got)
				}
			}
			if n := len(gatetest.LinesWith(g.Output.String(), `"level":"error"`)); n != 1 {
				t.Errorf("it was logged %d times", n)
			}
			for _, part := range []string{"sk-one", "sk-two", "sk-loose", "kkkkkkkk", gatetest.OperatorKey} {
				if strings.Contains(g.Output.String(), part) {
					t.Errorf("the log has %q", part)
				}
			}
			_ = os.RemoveAll(path)
			replace(t, path, "sk-repaired")
			waitKey(t, g, gatetest.OperatorKey, "sk-repaired")
		})
	}
}

// A key that is being written looks like a shorter key.
func TestAHalfWrittenKeyNeverGoesUpstream(t *testing.T) {
	t.Parallel()
	g, path := keyFileGate(t)
	old := gatetest.OperatorKey
	for i := range 3 {
		half, rest := fmt.Sprintf("sk-half-%d", i), "-and-the-rest"
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		gatetest.Must(t, err)
		_, err = file.WriteString(half)
		gatetest.Must(t, err)
		started := time.Now()
		for time.Since(started) < 500*time.Millisecond {
			if got := keyUpstream(t, g); got != old {
				if time.Since(started) > 700*time.Millisecond {
					t.Logf("this machine is so slow that the half looks whole (%v)", time.Since(started))
					break
				}
				t.Fatalf("the upstream got the key %q", got)
			}
		}
		_, err = file.WriteString(rest)
		gatetest.Must(t, err)
		gatetest.Must(t, file.Close())
		slow := time.Since(started) > 700*time.Millisecond
		gatetest.Until(t, "the new key to be used", func() bool {
			got := keyUpstream(t, g)
			if got != half+rest && got != old && !slow {
				t.Fatalf("the upstream got the key %q", got)
			}
			return got == half+rest
		})
		old = half + rest
	}
}

func TestAKeyThatCannotBeOneIsRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	dir := gatetest.TempDir(t)
	for name, c := range map[string]struct {
		key   string // the option; FILE is the file's path
		env   string
		file  string
		loose os.FileMode
		say   string
	}{
		"a variable that is not set":      {key: "upstream_bearer {env.NOT_SET_AT_ALL}", say: "NOT_SET_AT_ALL"},
		"a variable that is empty":        {key: "upstream_bearer {env.KEY}", env: "KEY=", say: "env.KEY"},
		"a newline within":                {key: "upstream_bearer {env.KEY}", env: "KEY=sk-hidden\nsk-hidden", say: "env.KEY"},
		"two newlines at the end":         {key: "upstream_bearer {env.KEY}", env: "KEY=sk-hidden\n\n", say: "env.KEY"},
		"a space within":                  {key: "upstream_bearer {env.KEY}", env: "KEY=sk-hidden x", say: "env.KEY"},
		"Bearer before the key":           {key: "upstream_bearer {env.KEY}", env: "KEY=Bearer sk-hidden", say: "env.KEY"},
		"a character beyond ASCII":        {key: "upstream_bearer {env.KEY}", env: "KEY=sk-hidden-é", say: "env.KEY"},
		"more than 8 KiB":                 {key: "upstream_bearer {env.KEY}", env: "KEY=sk-hidden" + strings.Repeat("x", 8<<10), say: "8192"},
		"a file that is missing":          {key: "upstream_bearer_file FILE.missing", say: ".missing"},
		"a file that is empty":            {key: "upstream_bearer_file FILE", file: "\n", say: "empty"},
		"a file with two lines":           {key: "upstream_bearer_file FILE", file: "sk-hidden\nsk-hidden\n", say: "FILE"},
		"a file that all users can read":  {key: "upstream_bearer_file FILE", file: "sk-hidden", loose: 0o644, say: "chmod"},
		"a file that all users can write": {key: "upstream_bearer_file FILE", file: "sk-hidden", loose: 0o602, say: "chmod"},
		"a {file.*} that all can read":    {key: "upstream_bearer {file.FILE}", file: "sk-hidden", loose: 0o644, say: "chmod"},
		"both sources":                    {key: "upstream_bearer {env.OPENAI_API_KEY}\nupstream_bearer_file FILE", file: "sk-hidden", say: "upstream_bearer_file"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(dir, strings.NewReplacer(" ", "-", "{", "", "}", "", "*", "").Replace(name))
			if c.file != "" {
				mode := c.loose
				if mode == 0 {
					mode = 0o600
				}
				plant(t, path, mode)
				gatetest.Must(t, os.WriteFile(path, []byte(c.file), mode))
			}
			s := gatetest.Site{Key: strings.ReplaceAll(c.key, "FILE", path)}.With(t, up)
			if c.env != "" {
				s.Env = []string{c.env}
			}
			out := gatetest.StartRefused(t, s.Launch(t))
			if say := strings.ReplaceAll(c.say, "FILE", path); !strings.Contains(gatetest.LastError(out), say) {
				t.Errorf("the message does not say %q: %s", say, gatetest.LastError(out))
			}
			if strings.Contains(out, "hidden") {
				t.Errorf("Caddy printed the key: %s", out)
			}
			if !gatetest.Missing(s.InfoPath()) {
				t.Error("a refused config left a server-info file")
			}
		})
	}
}
