//go:build linux

package examples

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A build prints a thousand lines of what went well; what went wrong is one.
func TestABuildThatFailsShowsWhatFailedAlone(t *testing.T) {
	dir := newDir(t)
	for _, name := range []string{"xcaddy.sh", "go.mod"} {
		content, err := os.ReadFile(filepath.Join("..", "..", name))
		must(t, err)
		writeFile(t, filepath.Join(dir, name), string(content), 0, 0o755)
	}
	makeDir(t, filepath.Join(dir, "bin"), 0, 0o755)
	writeFile(t, filepath.Join(dir, "bin", "go"), `#!/bin/sh
case $1 in
env) echo go1.99 ;;
*)
	echo "go: downloading example.com/module v1.0.0"
	echo "go: added example.com/module v1.0.0"
	echo net/http
	echo example.com/module/v2/inner_part
	echo "./main.go:3:4: undefined: x"
	exit 1 ;;
esac
`, 0, 0o755)
	out, code := run(t, command(t, []string{"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH")}, filepath.Join(dir, "xcaddy.sh")))
	if code != 1 || !strings.Contains(out, "\n./main.go:3:4: undefined: x\nxcaddy.sh: the build failed") || strings.Contains(out, "example.com") || strings.Contains(out, "net/http") {
		t.Errorf("exit code %d:\n%s", code, out)
	}
}
