package responsesproxygate

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
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
