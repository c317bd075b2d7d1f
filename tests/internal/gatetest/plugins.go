//go:build unix

package gatetest

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// Plugins are the Caddy modules of others that the examples use.
var Plugins = []string{
	"github.com/mholt/caddy-ratelimit@v0.1.0",
	"github.com/pberkel/caddy-storage-redis@v1.8.1",
}

// PluginBinary is a Caddy with the gate and Plugins in it: the one that
// CADDY_PLUGINS_BINARY names, or one that ./xcaddy.sh builds in a copy of the
// repository, once for each test binary.
func PluginBinary(t testing.TB) string {
	t.Helper()
	binary, err := pluginBinary()
	if err != nil {
		t.Fatal(err)
	}
	return binary
}

var pluginBinary = sync.OnceValues(func() (string, error) {
	if binary := os.Getenv("CADDY_PLUGINS_BINARY"); binary != "" {
		return filepath.Abs(binary)
	}
	// Beside the Caddy under test, so that it goes when that one goes.
	dir, err := os.MkdirTemp(tempRoot, "plugins")
	if err != nil {
		return "", err
	}
	args := []string{"build"}
	for _, plugin := range Plugins {
		args = append(args, "--with", plugin)
	}
	if err := copySources(dir); err != nil {
		return "", err
	}
	build := exec.Command(filepath.Join(dir, "xcaddy.sh"), args...)
	build.Dir = dir
	build.Env = append(os.Environ(), "GOFLAGS=-buildvcs=false") // (the tests' own may be for the race detector, which xcaddy's builds have no part in)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("xcaddy.sh %s: %w\n%s", strings.Join(args, " "), err, out)
	}
	return filepath.Join(dir, "caddy"), nil
})

// copySources copies what a build of the gate needs into dir.
func copySources(dir string) error {
	return filepath.WalkDir(RepoRoot, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := entry.Name()
		target := filepath.Join(dir, strings.TrimPrefix(path, RepoRoot))
		switch {
		case entry.IsDir() && (name == "tests" || name == "testdata" || name == "node_modules" || path != RepoRoot && strings.HasPrefix(name, ".")):
			return fs.SkipDir
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case filepath.Ext(name) != ".go" && name != "go.mod" && name != "go.sum" && name != "xcaddy.sh":
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, info.Mode().Perm())
	})
}
