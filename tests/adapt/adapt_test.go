// Package adapt tests what Caddy makes of Caddyfiles with the gate in them.
//
// Each *.caddyfiletest file is one case, as in Caddy's own tests: a Caddyfile,
// a line of dashes, and then the JSON it becomes or the error that refuses it.
// "go test ./tests/adapt -update" writes the JSON anew; errors are written by
// hand.
package adapt

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/responses-proxy-gate/caddy-responses-proxy-gate"
)

var update = flag.Bool("update", false, "write the JSON of accepted Caddyfiles anew")

const separator = "\n----------\n"

// secret stands, in some cases, where an operator put a key by mistake. It
// must get neither into an error nor into the JSON.
const secret = "sk-proj-Zm9vYmFyYmF6cXV4"

// line is how Caddy's errors tell where the mistake is.
var line = regexp.MustCompile(`Caddyfile:\d+`)

func TestCaddyfiles(t *testing.T) {
	t.Setenv("ADAPT_TEST_KEY", secret)
	files, err := filepath.Glob("*.caddyfiletest")
	if err != nil || len(files) == 0 {
		t.Fatalf("no *.caddyfiletest files here (%v)", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(file, ".caddyfiletest")
		t.Run(strings.ReplaceAll(name, "-", " "), func(t *testing.T) {
			checkCase(t, file)
		})
	}
}

func checkCase(t *testing.T, file string) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(string(data), "\r\n", "\n")
	caddyfile, want, ok := strings.Cut(text, separator)
	if !ok {
		t.Fatalf("%s has no line of dashes", file)
	}
	caddyfile, want = strings.TrimSpace(caddyfile)+"\n", strings.TrimSpace(want)

	got, err := adapt(t, caddyfile, "Caddyfile")
	if err != nil {
		checkRefusal(t, err, want)
		return
	}
	if strings.Contains(got, secret) {
		t.Errorf("the JSON has the secret:\n%s", got)
	}
	if got == want {
		return
	}
	if accepted := want == "" || strings.HasPrefix(want, "{"); !accepted {
		t.Fatalf("it was accepted:\n%s\nwant the error:\n%s", got, want)
	}
	if !*update {
		t.Fatalf("got:\n%s\nwant:\n%s", got, want)
	}
	if err := os.WriteFile(file, []byte(caddyfile+separator[1:]+got+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

func checkRefusal(t *testing.T, err error, want string) {
	got := err.Error()
	if strings.Contains(got, secret) {
		t.Errorf("the error quotes the secret: %s", got)
	}
	if !line.MatchString(got) {
		t.Errorf("the error does not tell the line: %s", got)
	}
	if want == "" || !strings.Contains(got, want) {
		t.Errorf("got the error:\n%s\nwant one that contains:\n%s", got, want)
	}
}

// The shipped Caddyfiles are formatted, and Caddy has nothing to warn about.
func TestShippedCaddyfiles(t *testing.T) {
	for _, name := range []string{"Caddyfile.example", "examples/demo/Caddyfile"} {
		t.Run(name+" adapts without a warning", func(t *testing.T) {
			t.Setenv("DEMO_DIR", t.TempDir())
			t.Setenv("OPENAI_API_KEY", secret)
			path := filepath.Join("../..", filepath.FromSlash(name))
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			got, err := adapt(t, string(data), path)
			if err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(got, `"responses_proxy_gate"`) {
				t.Errorf("it has no gate:\n%s", got)
			}
			if strings.Contains(got, secret) {
				t.Errorf("its JSON has the key:\n%s", got)
			}
		})
	}
}

// adapt makes indented JSON of a Caddyfile. Warnings fail the test.
func adapt(t *testing.T, caddyfile, filename string) (string, error) {
	t.Helper()
	adapter := caddyconfig.GetAdapter("caddyfile")
	result, warnings, err := adapter.Adapt([]byte(caddyfile), map[string]any{"filename": filename})
	if err != nil {
		return "", err
	}
	for _, warning := range warnings {
		t.Errorf("warning: %s", warning)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, result, "", "\t"); err != nil {
		t.Fatal(err)
	}
	return indented.String(), nil
}
