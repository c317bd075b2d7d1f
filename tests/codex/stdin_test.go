//go:build unix

package codex

import (
	"bytes"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// longestKey is the longest key that is taken, in bytes.
const longestKey = 8 << 10

func TestAKeyOnStdinIsTakenWithoutItsNewline(t *testing.T) {
	for name, test := range map[string]struct{ stdin, key string }{
		"no newline":              {operatorKey, operatorKey},
		"a newline":               {operatorKey + "\n", operatorKey},
		"a newline of Windows":    {operatorKey + "\r\n", operatorKey},
		"a second newline":        {operatorKey + "\n\n", operatorKey},
		"two of Windows":          {operatorKey + "\r\n\r\n", operatorKey},
		"the longest key":         {strings.Repeat("k", longestKey), strings.Repeat("k", longestKey)},
		"the longest, and a CRLF": {strings.Repeat("k", longestKey) + "\r\n", strings.Repeat("k", longestKey)},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := newUpstream(t)
			infoPath := filepath.Join(t.TempDir(), "info.json")
			cmd := command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy", "--server-info", infoPath, "--upstream-url", upstream.responsesURL())
			cmd.Stdin = strings.NewReader(test.stdin)
			p := &proxy{process: start(t, cmd), infoPath: infoPath}
			p.await(t, "responses-proxy listening on 127.0.0.1:")
			p.readInfo(t)
			if got := turn().exchange(t, p, patience); got.status != http.StatusOK {
				t.Fatalf("status %d, want 200", got.status)
			}
			if got := upstream.all()[0].header.Get("Authorization"); got != "Bearer "+test.key {
				t.Errorf("the upstream got %d bytes, want the key of %d", len(got), len(test.key))
			}
			if strings.Contains(p.printed(), test.key) {
				t.Error("the key is on stderr")
			}
		})
	}
}

func TestAKeyThatIsNoneEndsTheCommandWithCode1(t *testing.T) {
	for name, stdin := range map[string]string{
		"nothing":             "",
		"a newline only":      "\n",
		"a space in it":       "sk-secret secret",
		"a space behind it":   "sk-secretsecret \n",
		"two lines":           "sk-secretsecret\nsk-secretsecret\n",
		"a tab":               "sk-secret\tsecret",
		"quotes":              `"sk-secretsecret"`,
		"other quotes":        "'sk-secretsecret'\n",
		"a line of a file":    "OPENAI_API_KEY=sk-secretsecret\n",
		"a line of a script":  "export OPENAI_API_KEY=sk-secretsecret\n",
		"JSON":                `{"key":"sk-secretsecret"}`,
		"a zero byte":         "sk-secret\x00secret",
		"a letter past ASCII": "sk-secretsecr\u00e8t",
		"a byte too many":     strings.Repeat("secret--", longestKey/8) + "s",
		"far too much":        strings.Repeat("secret--", 1<<17),
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			infoPath := filepath.Join(home, "info.json")
			cmd := command(t, home, gatetest.CaddyBinary, "responses-proxy", "--server-info", infoPath)
			cmd.Stdin = bytes.NewReader([]byte(stdin))
			got := run(t, cmd)
			if got.code != 1 || !strings.Contains(got.stderr, "stdin") {
				t.Errorf("exit code %d, stderr %q; want 1 and an error about stdin", got.code, got.stderr)
			}
			if asked := strings.Contains(got.stderr, "is OPENAI_API_KEY exported?"); asked != (strings.TrimSpace(stdin) == "") {
				t.Errorf("it asks whether the variable is exported: %t: %s", asked, got.stderr)
			}
			if strings.Contains(got.stderr, "secret") || strings.Contains(got.stdout, "secret") {
				t.Error("the error quotes the key")
			}
			if !gatetest.Missing(infoPath) {
				t.Error("there is a server-info file")
			}
		})
	}
}

func TestTheKeysNewlineIsItsEnd(t *testing.T) {
	gatetest.CodexBinary(t)
	upstream := newUpstream(t)
	programs := map[string][]string{
		"ours":         {gatetest.CaddyBinary, "responses-proxy"},
		"the original": {gatetest.CodexBinary(t), "responses-api-proxy"},
	}
	for name, program := range programs {
		t.Run(name, func(t *testing.T) {
			p := start(t, command(t, t.TempDir(), program[0], program[1], "--upstream-url", upstream.responsesURL()))
			if _, err := p.stdin.Write([]byte(operatorKey + "\n")); err != nil {
				t.Fatal(err)
			}
			// stdin stays open: many launchers keep their end of the pipe.
			p.await(t, "listening on 127.0.0.1:")
		})
	}
}

// Go would print the headers of every HTTP/2 request, the key among them.
func TestTheCommandDoesNotStartWhereGoPrintsTheKey(t *testing.T) {
	for _, value := range []string{"http2debug=1", "http2debug=2"} {
		cmd := command(t, t.TempDir(), gatetest.CaddyBinary, "responses-proxy")
		cmd.Env = append(cmd.Env, "GODEBUG="+value)
		cmd.Stdin = strings.NewReader(operatorKey + "\n")
		if got := run(t, cmd); got.code != 1 || !strings.Contains(got.stderr, "http2debug") || strings.Contains(got.stderr, operatorKey) {
			t.Errorf("GODEBUG=%s: exit code %d: %s", value, got.code, got.stderr)
		}
	}
}
