//go:build linux

package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/mod/semver"
)

// What "list-modules --versions" says of a build with xcaddy.sh.
func TestABuildFromACloneHasTheVersionOfItsCommit(t *testing.T) {
	git := needsTool(t, "git")
	dir := newDir(t)
	script, err := os.ReadFile(filepath.Join("..", "..", "xcaddy.sh"))
	must(t, err)
	writeFile(t, filepath.Join(dir, "xcaddy.sh"), string(script), 0, 0o755)
	commit := func(tag string) {
		writeFile(t, filepath.Join(dir, "main.go"), "package main // after "+tag, 0, 0o644)
		for _, words := range []string{"init -q", "add .", "-c user.name=a -c user.email=a@a.example commit -q -m a", "tag " + tag} {
			if words == "tag " {
				continue
			}
			cmd := command(t, []string{"HOME=" + dir}, git, strings.Fields(words)...)
			cmd.Dir = dir
			if out, code := run(t, cmd); code != 0 {
				t.Fatalf("git %s: %s", words, out)
			}
		}
	}
	hasVersion := func(pattern string, env ...string) {
		t.Helper()
		out, code := run(t, command(t, append(env, "HOME="+dir), filepath.Join(dir, "xcaddy.sh"), "version"))
		version := strings.TrimSpace(out)
		if code != 0 || !regexp.MustCompile("^"+pattern+"$").MatchString(version) || semver.Canonical(version) != version {
			t.Errorf("exit code %d and version %q, want %s", code, version, pattern)
		}
	}

	hasVersion(`v0\.0\.0`) // no repository
	commit("")
	hasVersion(`v0\.0\.0-\d{14}-[0-9a-f]{12}`)
	commit("v0.3.9")
	hasVersion(`v0\.3\.9`)
	commit("")
	hasVersion(`v0\.3\.10-0\.\d{14}-[0-9a-f]{12}`)
	commit("v1.0.0-rc.1")
	hasVersion(`v1\.0\.0-rc\.1`)
	writeFile(t, filepath.Join(dir, "main.go"), "package main // changed", 0, 0o644)
	hasVersion(`v1\.0\.0-rc\.1\.0\.\d{14}-[0-9a-f]{12}\.dirty`)
	hasVersion(`v9\.9\.9`, "GATE_VERSION=v9.9.9")
}
