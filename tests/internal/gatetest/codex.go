//go:build unix

package gatetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/caddybuild"
)

// CodexVersion is the release that the tests were written against, and
// NewestCodexVersion the newest one that they were run with. OldCodexVersion is
// of the last that can have the API compact a conversation on a route of its own.
const (
	CodexVersion       = "0.169.0"
	NewestCodexVersion = "0.171.0"
	OldCodexVersion    = "0.147.0"
)

// CodexBinary is the released Codex CLI, which has the program that the gate
// replaces. It is found through CODEX_BINARY, on PATH, or in
// tests/codex/node_modules. Without it, the test is skipped, or fails if CI or
// REQUIRE_CODEX is set.
func CodexBinary(t testing.TB) string {
	t.Helper()
	return needCodex(t, findCodex)
}

// NewestCodexBinary is the newest one, found through CODEX_NEWEST_BINARY or in
// tests/codex/newest/node_modules. Without it, as CodexBinary.
func NewestCodexBinary(t testing.TB) string {
	t.Helper()
	return needCodex(t, findNewestCodex)
}

// OldCodexBinary is found through CODEX_OLD_BINARY or in
// tests/codex/old/node_modules. Without it, as CodexBinary.
func OldCodexBinary(t testing.TB) string {
	t.Helper()
	return needCodex(t, findOldCodex)
}

// CodexBinaries are the pinned one and the newest, by their versions.
func CodexBinaries(t testing.TB) map[string]string {
	t.Helper()
	return map[string]string{CodexVersion: CodexBinary(t), NewestCodexVersion: NewestCodexBinary(t)}
}

func needCodex(t testing.TB, find func() (string, error)) string {
	t.Helper()
	binary, err := find()
	if err != nil {
		SkipOrFail(t, "REQUIRE_CODEX", err)
	}
	return binary
}

var findCodex = sync.OnceValues(func() (string, error) {
	binary := os.Getenv("CODEX_BINARY")
	if binary == "" {
		binary, _ = exec.LookPath("codex")
	}
	return checkCodex(binary, CodexVersion, filepath.Join("tests", "codex"), "CODEX_BINARY")
})

var findNewestCodex = sync.OnceValues(func() (string, error) {
	return checkCodex(os.Getenv("CODEX_NEWEST_BINARY"), NewestCodexVersion, filepath.Join("tests", "codex", "newest"), "CODEX_NEWEST_BINARY")
})

var findOldCodex = sync.OnceValues(func() (string, error) {
	return checkCodex(os.Getenv("CODEX_OLD_BINARY"), OldCodexVersion, filepath.Join("tests", "codex", "old"), "CODEX_OLD_BINARY")
})

// checkCodex makes sure that a binary, or else the one below prefix, is of a version.
func checkCodex(binary, version, prefix, variable string) (string, error) {
	howToGet := "npm install --prefix " + prefix + " @openai/codex@" + version + ", or set " + variable
	root, err := caddybuild.Root()
	if err != nil {
		return "", err
	}
	if binary == "" {
		binary = filepath.Join(root, prefix, "node_modules", ".bin", "codex")
	}
	if _, err := os.Stat(binary); err != nil {
		return "", fmt.Errorf("the Codex CLI is not installed; run in the repository: %s", howToGet)
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return "", err
	}
	binary = nativeCodex(binary)
	home, err := os.MkdirTemp("", "codex-version")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(home)
	asked := exec.Command(binary, "--version")
	asked.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + home, "CODEX_HOME=" + home}
	out, err := asked.Output()
	if err != nil {
		return "", fmt.Errorf("%s --version: %w", binary, err)
	}
	if want := "codex-cli " + version + "\n"; string(out) != want {
		return "", fmt.Errorf("%s is %q, not %q; run: %s", binary, out, want, howToGet)
	}
	return binary, nil
}

// nativeCodex finds the program behind npm's wrapper script. Its process id
// and CPU time are what tests look at, not those of node.
func nativeCodex(binary string) string {
	wrapper, err := filepath.EvalSymlinks(binary)
	if err != nil || filepath.Ext(wrapper) != ".js" {
		return binary
	}
	// node_modules/@openai/codex/bin/codex.js; the other packages are beside
	// codex or below it, as npm likes.
	pkg := filepath.Dir(filepath.Dir(wrapper))
	for _, scope := range []string{filepath.Dir(pkg), filepath.Join(pkg, "node_modules", "@openai")} {
		found, _ := filepath.Glob(filepath.Join(scope, "codex-*", "vendor", "*", "bin", "codex"))
		if len(found) == 1 {
			return found[0]
		}
	}
	return binary
}
