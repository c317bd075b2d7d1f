//go:build linux

package examples

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"gopkg.in/yaml.v3"
)

// A release is made where nobody looks on. What it needs is pinned, its scripts
// are sound, and only the jobs that publish may write.
func TestTheWorkflowsArePinnedSoundAndMayDoLittle(t *testing.T) {
	bash, shellcheck := needsTool(t, "bash"), needsTool(t, "shellcheck")
	dir := filepath.Join("..", "..", ".github", "workflows")
	pinned := regexp.MustCompile(`^\s*- uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$`)
	for _, name := range []string{"ci.yml", "release.yml"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		must(t, err)
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimRight(line, "\n"); strings.Contains(line, "uses:") && !pinned.MatchString(line) {
				t.Errorf("%s: not pinned by its commit, with its version beside it: %s", name, line)
			}
		}
		var w workflow
		must(t, yaml.Unmarshal(content, &w))
		if len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
			t.Errorf("%s may do %v", name, w.Permissions)
		}
		for job := range w.Jobs {
			for _, step := range w.Jobs[job].Steps {
				if step.Run == "" {
					continue
				}
				if strings.Contains(step.Run, "${{") {
					t.Errorf("%s, %s: an expression in a script becomes code", name, job)
				}
				for _, check := range [][]string{{bash, "-n"}, {shellcheck, "--shell=bash", "-"}} {
					cmd := command(t, nil, check[0], check[1:]...)
					cmd.Stdin = strings.NewReader(step.Run)
					if out, code := run(t, cmd); code != 0 {
						t.Errorf("%s, %s: %s says:\n%s", name, job, check[0], out)
					}
				}
			}
		}
	}
}

func TestEachVersionOfTheChangelogHasNotes(t *testing.T) {
	root := filepath.Join("..", "..")
	notes := filepath.Join(mustAbs(t, root), "packaging", "notes.sh")
	changelog, err := os.ReadFile(filepath.Join(root, "CHANGELOG.md"))
	must(t, err)
	headings := regexp.MustCompile(`(?m)^## (\S+)`).FindAllStringSubmatch(string(changelog), -1)
	if len(headings) == 0 {
		t.Fatal("the changelog has no version")
	}
	for _, heading := range headings {
		out, code := run(t, command(t, nil, notes, heading[1]))
		if code != 0 || !strings.Contains(out, "\n- ") || strings.Contains(out, "\n## ") {
			t.Errorf("%s: exit code %d and\n%s", heading[1], code, out)
		}
	}
	if out, code := run(t, command(t, nil, notes, "v999.0.0")); code == 0 {
		t.Errorf("a version that is not in the changelog has notes:\n%s", out)
	}
}
