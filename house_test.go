package responsesproxygate

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// rooms are the packages of the house, each with those of it that it may
// import. "" is the root. Whoever needs another arrow draws it here, with care:
// what the root decides belongs into no room, and the gate and the budget know
// each other by JSON alone.
var rooms = map[string][]string{
	"": {
		"budget", "adminapi", "backoff", "callerheader", "command", "dump", "follow", "identity", "infofile", "keptconn", "logfields",
		"process", "recent", "refusal", "secret", "sharedstore", "storage", "surroundings", "tcp",
	},
	"budget":       {"adminapi", "refusal", "storage"},
	"command":      {"adminapi", "infofile", "process", "refusal", "secret", "surroundings"},
	"dump":         {"callerheader", "infofile", "secret"},
	"identity":     {"backoff", "infofile", "secret"},
	"sharedstore":  {"adminapi", "secret", "storage"},
	"surroundings": {"callerheader", "infofile", "process", "secret"},
	"storage":      {"infofile"},
	"adminapi":     {"infofile"},
	"logfields":    {"secret"},
	"infofile":     {"process", "secret"},
	"keptconn":     {"process"},
	"secret":       {"callerheader"},
	"backoff":      {},
	"callerheader": {},
	"follow":       {},
	"process":      {},
	"recent":       {},
	"refusal":      {},
	"tcp":          {},
}

// rootFiles are the root's, because each is about what Caddy sees. What is not
// belongs into a room.
var rootFiles = []string{
	"access.go", "admin.go", "adminchanges.go", "audittrail.go", "authgate.go", "caddyfile.go", "caller.go", "client.go",
	"credential.go", "endpoints.go", "forward.go", "identity.go", "logformat.go", "metrics.go", "module.go", "options.go",
	"refusal.go", "roster.go", "rotation.go", "route.go", "serverinfo.go", "sharedclients.go", "surroundings.go", "token.go",
	"transport.go",
}

func TestARoomImportsOnlyWhatItMay(t *testing.T) {
	const module = "github.com/responses-proxy-gate/caddy-responses-proxy-gate"
	list := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]bool)
	for decoder := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		name := roomOf(strings.TrimPrefix(p.ImportPath, module))
		if strings.HasPrefix(name, "tests/") || strings.HasPrefix(name, "cmd/") {
			continue
		}
		may, isRoom := rooms[name]
		if !isRoom {
			t.Errorf("%s is no room; if it should be one, write here and in CONTRIBUTING.md what it answers", p.ImportPath)
		}
		seen[name] = true
		for _, path := range p.Imports {
			if of, ours := strings.CutPrefix(path, module); ours && !slices.Contains(may, roomOf(of)) {
				t.Errorf("%q imports %q", name, roomOf(of))
			}
		}
	}
	for name := range rooms {
		if !seen[name] {
			t.Errorf("there is no room %q any more", name)
		}
	}
}

func roomOf(path string) string {
	return strings.TrimPrefix(strings.TrimPrefix(path, "/"), "internal/")
}

func TestTheRootHasOnlyTheFilesThatBelongThere(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	files = slices.DeleteFunc(files, func(name string) bool { return strings.HasSuffix(name, "_test.go") })
	for _, file := range files {
		if !slices.Contains(rootFiles, file) {
			t.Errorf("%s is new in the root; if it is about what Caddy sees, add it to rootFiles", file)
		}
	}
	for _, file := range rootFiles {
		if !slices.Contains(files, file) {
			t.Errorf("%s is no longer there; take it out of rootFiles", file)
		}
	}
}

func TestContributingNamesEveryRoom(t *testing.T) {
	page := read(t, "CONTRIBUTING.md")
	for name := range rooms {
		path := "internal/" + name
		switch name {
		case "":
			path = "."
		case "budget":
			path = name
		}
		if !strings.Contains(page, "\n| `"+path+"` |") {
			t.Errorf("the table of rooms does not have %s", path)
		}
	}
}

// What runs tests, and what lets files off, names paths: a file that moves must
// not fall out of them.
func TestPathsThatCINamesAreThoseOfTheHouse(t *testing.T) {
	files := goFiles(t)
	t.Run("every room is tested on Windows and macOS", func(t *testing.T) {
		const run = "go test . ./budget ./internal/...\n"
		if workflow, err := os.ReadFile(".github/workflows/ci.yml"); err != nil || !strings.Contains(string(workflow), run) {
			t.Fatalf("ci.yml has no %q (%v)", run, err)
		}
		for _, file := range files {
			room, _, _ := strings.Cut(path.Dir(file), "/")
			if strings.HasSuffix(file, "_test.go") && !slices.Contains([]string{".", "budget", "internal", "tests"}, room) {
				t.Errorf("%s is not tested there", file)
			}
		}
	})
	t.Run("the linter lets off only what is there", func(t *testing.T) {
		config, err := os.ReadFile(".golangci.yml")
		if err != nil {
			t.Fatal(err)
		}
		paths := regexp.MustCompile(`(?m)^ +- path: (\S+)`).FindAllStringSubmatch(string(config), -1)
		if len(paths) == 0 {
			t.Error("there are no paths in .golangci.yml")
		}
		for _, found := range paths {
			if !slices.ContainsFunc(files, regexp.MustCompile(found[1]).MatchString) {
				t.Errorf("no file is called %s", found[1])
			}
		}
	})
}

// goFiles are all Go files of the module, with slashes in their paths.
func goFiles(t *testing.T) (files []string) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && slices.Contains([]string{".git", "node_modules"}, entry.Name()) {
			return fs.SkipDir
		}
		if filepath.Ext(path) == ".go" {
			files = append(files, filepath.ToSlash(path))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}
