//go:build unix

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// keyFileGate is a gate whose key is in a file.
func keyFileGate(t *testing.T) (g *gate, path string) {
	t.Helper()
	dir := tempDir(t)
	path = filepath.Join(dir, "key")
	writeFile(t, path, operatorKey+"\n")
	return startGate(t, newUpstream(t, nil), site{dir: dir, key: "upstream_bearer_file " + path}), path
}

// keyUpstream sends a request and tells which key the upstream got with it.
func (g *gate) keyUpstream(t *testing.T) string {
	t.Helper()
	g.up.forget()
	g.works(t)
	return strings.TrimPrefix(g.up.only(t).header.Get("Authorization"), "Bearer ")
}

// waitKey sends requests until the upstream gets a key. In between it may get
// the old one, and no other.
func (g *gate) waitKey(t *testing.T, old, key string) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		switch got := g.keyUpstream(t); {
		case got == key:
			return
		case got != old:
			t.Fatalf("the upstream got the key %q, which is neither the old nor the new one", got)
		case time.Now().After(deadline):
			t.Fatalf("the new key was not in use after %v", patience)
		}
	}
}

// replace renames a new file over path, as secret managers do.
func replace(t *testing.T, path, content string) {
	t.Helper()
	writeFile(t, path+".new", content)
	must(t, os.Rename(path+".new", path))
}

func TestARotatedKeyFileIsTakenUpWithoutAReload(t *testing.T) {
	t.Parallel()
	g, path := keyFileGate(t)
	if got := g.keyUpstream(t); got != operatorKey {
		t.Fatalf("the upstream got %q", got)
	}
	replace(t, path, "sk-renamed-into-place\n")
	g.waitKey(t, operatorKey, "sk-renamed-into-place")
	writeFile(t, path, "sk-written-in-place\r\n")
	g.waitKey(t, "sk-renamed-into-place", "sk-written-in-place")
	replace(t, path, "sk-without-a-newline")
	g.waitKey(t, "sk-written-in-place", "sk-without-a-newline")
	for _, key := range []string{operatorKey, "sk-renamed", "sk-written", "sk-without"} {
		if strings.Contains(g.out.String(), key) {
			t.Errorf("the log has the key %s…", key)
		}
	}
}

func TestABrokenKeyFileLeavesTheOldKeyInUseAndIsLogged(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]func(t *testing.T, path string){
		"emptied in place":     func(t *testing.T, path string) { writeFile(t, path, "") },
		"replaced by nothing":  func(t *testing.T, path string) { replace(t, path, "") },
		"two lines":            func(t *testing.T, path string) { replace(t, path, "sk-one\nsk-two\n") },
		"a space in the key":   func(t *testing.T, path string) { replace(t, path, "sk-one sk-two") },
		"an escape in the key": func(t *testing.T, path string) { replace(t, path, "sk-\x1b[31m") },
		"too long":             func(t *testing.T, path string) { replace(t, path, strings.Repeat("k", 8<<10+1)) },
		"removed":              func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"a directory by now":   func(t *testing.T, path string) { must(t, os.Remove(path)); must(t, os.Mkdir(path, 0o700)) },
		"readable by all users": func(t *testing.T, path string) {
			writeFile(t, path+".loose", "sk-loose")
			must(t, os.Chmod(path+".loose", 0o644))
			must(t, os.Rename(path+".loose", path))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g, path := keyFileGate(t)
			c(t, path)
			for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
				if got := g.keyUpstream(t); got != operatorKey {
					t.Fatalf("the upstream got %q, want the old key", got)
				}
				if len(linesWith(g.out.String(), `"level":"error"`)) > 0 {
					break
				}
				if time.Now().After(deadline) {
					t.Fatal("nothing was logged")
				}
			}
			for range 5 {
				if got := g.keyUpstream(t); got != operatorKey {
					t.Errorf("the upstream got %q, want the old key", got)
				}
			}
			if n := len(linesWith(g.out.String(), `"level":"error"`)); n != 1 {
				t.Errorf("it was logged %d times", n)
			}
			for _, part := range []string{"sk-one", "sk-two", "sk-loose", "kkkkkkkk", operatorKey} {
				if strings.Contains(g.out.String(), part) {
					t.Errorf("the log has %q", part)
				}
			}
			_ = os.RemoveAll(path)
			replace(t, path, "sk-repaired")
			g.waitKey(t, operatorKey, "sk-repaired")
		})
	}
}

// A key that is being written looks like a shorter key.
func TestAHalfWrittenKeyNeverGoesUpstream(t *testing.T) {
	t.Parallel()
	g, path := keyFileGate(t)
	old := operatorKey
	for i := range 3 {
		half, rest := fmt.Sprintf("sk-half-%d", i), "-and-the-rest"
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_TRUNC, 0)
		must(t, err)
		_, err = file.WriteString(half)
		must(t, err)
		started := time.Now()
		for time.Since(started) < 600*time.Millisecond {
			if got := g.keyUpstream(t); got != old {
				if time.Since(started) > 900*time.Millisecond {
					t.Logf("this machine is so slow that the half looks whole (%v)", time.Since(started))
					break
				}
				t.Fatalf("the upstream got the key %q", got)
			}
		}
		_, err = file.WriteString(rest)
		must(t, err)
		must(t, file.Close())
		slow := time.Since(started) > 900*time.Millisecond
		for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
			got := g.keyUpstream(t)
			if got == half+rest {
				break
			}
			if got != old && !slow {
				t.Fatalf("the upstream got the key %q", got)
			}
			if time.Now().After(deadline) {
				t.Fatal("the new key was not taken up")
			}
		}
		old = half + rest
	}
}

func TestAKeyThatCannotBeOneIsRefusedAtTheStart(t *testing.T) {
	t.Parallel()
	up := newUpstream(t, nil)
	dir := tempDir(t)
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
				must(t, os.WriteFile(path, []byte(c.file), mode))
			}
			s := site{key: strings.ReplaceAll(c.key, "FILE", path)}.with(t, up)
			if c.env != "" {
				s.env = []string{c.env}
			}
			out := startRefused(t, s.launch(t))
			if say := strings.ReplaceAll(c.say, "FILE", path); !strings.Contains(lastError(out), say) {
				t.Errorf("the message does not say %q: %s", say, lastError(out))
			}
			if strings.Contains(out, "hidden") {
				t.Errorf("Caddy printed the key: %s", out)
			}
			if !missing(s.infoPath()) {
				t.Error("a refused config left a server-info file")
			}
		})
	}
}
