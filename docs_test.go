package responsesproxygate

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/identity"
)

// read is a file of this repository.
func read(t *testing.T, path string) string {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// metricNames are the names of what the gate counts.
func metricNames(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, collector := range collectors() {
		descriptions := make(chan *prometheus.Desc, 1)
		collector.Describe(descriptions)
		name := regexp.MustCompile(`fqName: "([^"]+)"`).FindStringSubmatch((<-descriptions).String())
		if name == nil {
			t.Fatal("a metric has no name")
		}
		names = append(names, name[1])
	}
	return names
}

func TestThePageAboutMetricsNamesEachAndEachCode(t *testing.T) {
	page := read(t, "docs/observability.md")
	for _, name := range metricNames(t) {
		if strings.Count(page, "\n| `"+name+"` |") != 1 {
			t.Errorf("the table does not have %s once", name)
		}
	}
	for _, word := range append(outcomeCodes(), statusClasses[:]...) {
		if !strings.Contains(page, "`"+word+"`") {
			t.Errorf("the page does not have %s", word)
		}
	}
}

// A misspelt name or code in an alert does not fail: it never fires.
func TestAlertsDashboardAndDocsAskForWhatIsCounted(t *testing.T) {
	ofBudgets := []string{"told", "model_without_price", "tool_without_fee"}
	for _, code := range ofBudgets {
		if !strings.Contains(read(t, "budget/rules.go")+read(t, "budget/metrics.go"), `"`+code+`"`) {
			t.Errorf("no budget counts %s", code)
		}
	}
	values := map[string][]string{"kind": {"input", "output"}, "code": append(outcomeCodes(), ofBudgets...), "class": statusClasses[:], "outcome": {"ok", "error"}}
	for _, outcome := range identity.Outcomes {
		values["outcome"] = append(values["outcome"], string(outcome))
	}
	names := metricNames(t)
	for _, file := range []string{
		"docs/observability.md", "examples/monitoring/alerts.yml", "examples/monitoring/alerts_test.yml", "examples/monitoring/dashboard.json",
	} {
		content := strings.ReplaceAll(read(t, file), `\"`, `"`)
		found := regexp.MustCompile(`caddy_responses_proxy_gate_\w+`).FindAllString(content, -1)
		if len(found) < 5 {
			t.Errorf("%s names %d metrics", file, len(found))
		}
		for _, name := range found {
			if !slices.Contains(names, name) {
				t.Errorf("%s names %s, which does not exist", file, name)
			}
		}
		for _, selected := range regexp.MustCompile(`(\w+)(?:=|=~|!=)"([^"]*)"`).FindAllStringSubmatch(content, -1) {
			known, isFixed := values[selected[1]]
			for value := range strings.SplitSeq(selected[2], "|") {
				if isFixed && !slices.Contains(known, value) {
					t.Errorf("%s asks for %s, which is never counted", file, selected[0])
				}
			}
			if !isFixed && !slices.Contains([]string{"gate", "client", "instance", "budget", "window", "unit"}, selected[1]) {
				t.Errorf("%s asks for the label %s", file, selected[1])
			}
		}
	}
}

// The threat model points at tests. A promise whose test is gone is none.
func TestEveryTestThatTheThreatModelNamesExists(t *testing.T) {
	page, err := os.ReadFile("docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	var sources strings.Builder
	for _, file := range goFiles(t) {
		if strings.HasSuffix(file, "_test.go") {
			source, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			sources.Write(source)
		}
	}
	named := regexp.MustCompile("`((?:Test|Fuzz)[A-Za-z0-9]+)`").FindAllStringSubmatch(string(page), -1)
	if len(named) < 30 {
		t.Errorf("the threat model names %d tests; every row should have one", len(named))
	}
	for _, match := range named {
		if !strings.Contains(sources.String(), "\nfunc "+match[1]+"(") {
			t.Errorf("the threat model names %s, which does not exist", match[1])
		}
	}
}

// Arguments are in /proc, for every user to read, as long as the program runs.
func TestNoTextPutsATokenIntoAnArgument(t *testing.T) {
	// A header or a user for curl and its like, made of what a command, a
	// variable or a file has.
	inArgument := regexp.MustCompile("(-H|--header|-u|--user|--oauth2-bearer)[ =]?[\"']?[^|\n]*(?i:token|authorization|key|bearer|password)[^|\n]*(\\$[({A-Za-z]|`)")
	if !inArgument.MatchString(`curl -H "X-Proxy-Token: $(caddy responses-proxy token)"`) || !inArgument.MatchString(`curl -H "Authorization: Bearer $TOKEN"`) {
		t.Fatal("the pattern finds nothing")
	}
	texts := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata"}, entry.Name()) {
			return filepath.SkipDir
		}
		if entry.IsDir() || !slices.Contains([]string{".md", ".go", ".sh", ".yml", ".toml", ".service", ".conf", ".txt", ""}, filepath.Ext(path)) || path == "docs_test.go" || path == "caddy" /* what xcaddy.sh builds */ {
			return nil
		}
		texts++
		for line := range strings.Lines(read(t, path)) {
			if inArgument.MatchString(line) && strings.Contains(line, "curl") {
				t.Errorf("%s: %s", path, line)
			}
		}
		return nil
	})
	if err != nil || texts < 100 {
		t.Errorf("%d texts were read: %v", texts, err)
	}
}

// What curl sends to the gate must not go to a proxy (HTTP_PROXY).
func TestEveryCurlOfTheTextsPassesProxiesBy(t *testing.T) {
	lines := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "node_modules", "testdata", "tests"}, entry.Name()) {
			return fs.SkipDir
		}
		if entry.IsDir() || filepath.Ext(path) != ".md" && !strings.HasPrefix(path, "examples") && filepath.Ext(path) != ".go" || path == "docs_test.go" {
			return nil
		}
		for line := range strings.Lines(read(t, path)) {
			if command, _, _ := strings.Cut(strings.TrimLeft(line, "# \t"), " "); command != "curl" || !strings.Contains(line, "-H @-") && !strings.Contains(line, "X-Proxy-Token") {
				continue
			}
			lines++
			if !strings.Contains(line, "--noproxy '*'") {
				t.Errorf("%s: write --noproxy '*': %s", path, line)
			}
		}
		return nil
	})
	if err != nil || lines < 2 {
		t.Errorf("%d lines were looked at: %v", lines, err)
	}
}

func TestEveryCaddyfileOfOursTakesTheHeadersOfAgents(t *testing.T) {
	files, err := filepath.Glob("examples/*/*")
	if err != nil {
		t.Fatal(err)
	}
	looked := 0
	for _, file := range append(files, "Caddyfile.example", "README.md") {
		text := read(t, file)
		if !strings.Contains(text, "\tresponses_proxy_gate {\n") {
			continue
		}
		looked++
		if !strings.Contains(text, "\tservers {\n") || !strings.Contains(text, "\tmax_header_size 64KiB\n") {
			t.Errorf("%s has no max_header_size: requests with 16 KiB of headers get 431", file)
		}
	}
	if looked < 10 {
		t.Errorf("%d Caddyfiles were looked at", looked)
	}
}

func TestWhatCodexShowsStandsInTheDocsAsTheGateSaysIt(t *testing.T) {
	page := read(t, "docs/clients.md")
	for _, shown := range []*refusal{errInvalidToken, errUpstreamUnauthorized} {
		_, message, _ := strings.Cut(string(shown.Body), `"message":"`)
		sentence, _, _ := strings.Cut(message, ".")
		if sentence == "" || !strings.Contains(page, sentence) {
			t.Errorf("docs/clients.md does not explain %q", sentence)
		}
	}
}
