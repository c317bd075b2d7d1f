//go:build unix

package codex

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// flagsOf are the flags of the command and its verbs.
var flagsOf = map[string][]string{
	"responses-proxy": {
		"--port", "--server-info", "--owner", "--http-shutdown", "--http-health", "--upstream-url", "--upstream-header",
		"--dump-dir", "--allow-origin", "--allow-host", "--allow-route", "--allow-header", "--websocket", "--access-log",
		"--rotate-every", "--admin-socket", "--insecure-allow", "--budget", "--budget-dir",
		"--github-oidc", "--oidc-audience", "--identity-provider-id", "--service-account-id", "--github-oidc-request-url",
		"--allow-model", "--max-output-tokens", "--refuse", "--price", "--fee",
	},
	"responses-proxy run":      {"--key-file", "--as", "--codex", "--upstream-url", "--allow-route"},
	"responses-proxy token":    {"--server-info"},
	"responses-proxy status":   {"--server-info"},
	"responses-proxy shutdown": {"--server-info", "--path"},
	"responses-proxy usage":    {"--json", "--models", "--budget", "--client", "--reset", "--config", "--adapter", "--address"},
	"responses-proxy clients":  {"--json", "--config", "--adapter", "--address"},
	"responses-proxy rotate":   {"--gate", "--client", "--all", "--grace", "--config", "--adapter", "--address"},
	"responses-proxy revoke":   {"--gate", "--client", "--config", "--adapter", "--address"},
	"responses-proxy disable":  {"--gate", "--client", "--config", "--adapter", "--address"},
	"responses-proxy enable":   {"--gate", "--client", "--config", "--adapter", "--address"},
	"responses-proxy refusals": {"--gate", "--json", "--config", "--adapter", "--address"},

	"responses-proxy client add":     {"--gate", "--expires", "--out", "--config", "--adapter", "--address"},
	"responses-proxy client rotate":  {"--gate", "--grace", "--out", "--config", "--adapter", "--address"},
	"responses-proxy client disable": {"--gate", "--config", "--adapter", "--address"},
	"responses-proxy client enable":  {"--gate", "--config", "--adapter", "--address"},
	"responses-proxy client expires": {"--gate", "--config", "--adapter", "--address"},
	"responses-proxy client remove":  {"--gate", "--config", "--adapter", "--address"},
	"responses-proxy client list":    {"--gate", "--json", "--config", "--adapter", "--address"},
}

// wantAll checks that text has every word.
func wantAll(t *testing.T, text string, words []string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("there is no %q in:\n%s", word, text)
		}
	}
}

// caddy runs a subcommand of Caddy that has to succeed.
func caddy(t *testing.T, args ...string) string {
	t.Helper()
	got := run(t, command(t, t.TempDir(), gatetest.CaddyBinary, args...))
	if got.code != 0 {
		t.Fatalf("caddy %q: exit code %d: %s", args, got.code, got.stderr)
	}
	return got.stdout
}

func TestHelpTellsEveryFlag(t *testing.T) {
	for name, flags := range flagsOf {
		help := caddy(t, append(strings.Fields(name), "--help")...)
		wantAll(t, help, flags)
		wantAll(t, help, []string{"caddy " + name})
	}
	wantAll(t, caddy(t, "responses-proxy", "--help"), []string{"token", "status", "shutdown", "clients", "refusals", "rotate", "revoke", "disable", "enable"})
	wantAll(t, caddy(t, "help"), []string{"responses-proxy"})
}

func TestManPagesTellEveryFlag(t *testing.T) {
	dir := t.TempDir()
	caddy(t, "manpage", "--directory", dir)
	for name, flags := range flagsOf {
		page, err := os.ReadFile(filepath.Join(dir, "caddy-"+strings.ReplaceAll(name, " ", "-")+".8"))
		if err != nil {
			t.Error(err)
			continue
		}
		text := strings.ReplaceAll(string(page), `\-`, "-")
		wantAll(t, text, flags)
		// What makes the page leaves <words> out, and the flag in front of one remains.
		if lost := regexp.MustCompile(`--[a-z-]+ *[\])|]`).FindString(synopsis(text)); lost != "" {
			t.Errorf("%s: the synopsis has lost a word at %q: %s", name, lost, synopsis(text))
		}
	}
}

// withoutValue are the flags that have none.
var withoutValue = regexp.MustCompile(`--(json|models|all|reset|codex|http-shutdown|http-health)\b`)

// synopsis is what a page says of how to write a command, without flags that
// have no value.
func synopsis(page string) string {
	_, rest, _ := strings.Cut(page, ".SH SYNOPSIS")
	rest, _, _ = strings.Cut(rest, ".SH DESCRIPTION")
	return withoutValue.ReplaceAllString(strings.Join(strings.Fields(rest), " "), "x")
}

func TestCompletionOffersEveryFlag(t *testing.T) {
	// The script asks the binary for what to offer.
	wantAll(t, caddy(t, "completion", "bash"), []string{"__complete"})
	wantAll(t, caddy(t, "__complete", "responses-"), []string{"responses-proxy"})
	wantAll(t, caddy(t, "__complete", "responses-proxy", ""), []string{"token", "status", "shutdown", "clients", "refusals", "rotate", "revoke", "disable", "enable"})
	for name, flags := range flagsOf {
		wantAll(t, caddy(t, append(append([]string{"__complete"}, strings.Fields(name)...), "--")...), flags)
	}
}

// notOurs are flags of the original that ours does not have.
var notOurs = []string{
	// Codex's own settings; none has to do with its proxy.
	"--config", "--enable", "--disable",
}

// originalsFlag finds a flag in the original's help.
var originalsFlag = regexp.MustCompile(`(?m)^ +(?:-\w, |    )(--[a-z-]+)`)

func TestEveryFlagOfTheOriginalIsOursOrKnownNotToBe(t *testing.T) {
	for version, binary := range gatetest.CodexBinaries(t) {
		original := run(t, command(t, t.TempDir(), binary, "responses-api-proxy", "--help"))
		flags := originalsFlag.FindAllStringSubmatch(original.stdout, -1)
		if len(flags) < 5 {
			t.Fatalf("%s: the original's help is not understood: %s", version, original.stdout)
		}
		for _, flag := range flags {
			name := flag[1]
			if name != "--help" && slices.Contains(flagsOf["responses-proxy"], name) == slices.Contains(notOurs, name) {
				t.Errorf("%s: %s of the original: ours has it, or it is known that ours does not; exactly one has to be true", version, name)
			}
		}
	}
}
