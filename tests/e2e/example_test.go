//go:build unix

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// The shipped example, with another upstream and port, and nothing else changed.
func TestTheShippedExampleAdaptsValidatesAndWorks(t *testing.T) {
	t.Parallel()
	shipped := gatetest.ReadFile(t, filepath.Join(gatetest.RepoRoot, "Caddyfile.example"))
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux can a variable (SSL_CERT_FILE) make Caddy trust the stand-in for api.openai.com")
	}
	up, certificate := gatetest.NewTLSUpstream(t)
	dir := gatetest.TempDir(t)
	gatetest.WriteFile(t, filepath.Join(dir, "upstream.pem"), string(certificate))
	if n := strings.Count(shipped, "https://api.openai.com"); n == 0 {
		t.Fatal("the example does not name https://api.openai.com")
	}
	port := regexp.MustCompile(`(?m)^http://\S*:(\d+) \{`).FindStringSubmatch(shipped)
	if port == nil {
		t.Fatal("the example has no site on a fixed port")
	}
	example := strings.ReplaceAll(shipped, "https://api.openai.com", up.URL)
	example = strings.ReplaceAll(example, ":"+port[1]+" {", fmt.Sprintf(":%d {", gatetest.FreePort(t)))
	path := filepath.Join(dir, "Caddyfile")
	gatetest.WriteFile(t, path, example)
	l := gatetest.Launch{
		Dir: dir, Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey, "XDG_RUNTIME_DIR=" + dir, "SSL_CERT_FILE=" + filepath.Join(dir, "upstream.pem")},
		Args: []string{"run", "--adapter", "caddyfile", "--config", path},
	}
	for _, command := range []string{"adapt", "validate"} {
		// The file as it is shipped, and as it is run here.
		for _, config := range []string{filepath.Join(gatetest.RepoRoot, "Caddyfile.example"), path} {
			once := l
			once.Args = []string{command, "--adapter", "caddyfile", "--config", config}
			if out, code := gatetest.Run(t, once); code != 0 || strings.Contains(out, gatetest.OperatorKey) {
				t.Fatalf("caddy %s %s: exit code %d\n%s", command, config, code, out)
			}
		}
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*.json")); len(found) > 0 {
		t.Errorf("adapt and validate wrote %v", found)
	}

	g := &gatetest.Gate{Process: gatetest.Start(t, l), Up: up, HTTP: gatetest.NewClient(t)}
	g.WaitOutput(gatetest.ReadyLog, 1)
	found := regexp.MustCompile(`"path":"([^"]+)"`).FindStringSubmatch(g.WaitOutput("server-info written", 1)[0])
	if found == nil || !strings.HasPrefix(found[1], dir) {
		t.Fatalf("server-info is at %v, want it below XDG_RUNTIME_DIR", found)
	}
	g.Info = gatetest.ReadInfo(t, found[1])
	g.Token, g.Addr = g.Info.AuthToken, fmt.Sprintf("127.0.0.1:%d", g.Info.Port)

	g.Works(t)
	seen := up.Only(t)
	seen.HasKey(t)
	if want := strings.TrimPrefix(up.URL, "https://"); seen.Host != want {
		t.Errorf("Host upstream is %q, want %q", seen.Host, want)
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"} {
		if values := seen.Header[name]; values != nil {
			t.Errorf("the upstream is told %s: %q", name, values)
		}
	}
	stream := gatetest.NewEventStream()
	up.SetAnswer(stream.Serve)
	_, reader := gatetest.OpenStream(t, g.HTTP, g.Post(gatetest.WithDeadline(t)))
	for n := 1; n <= 3; n++ {
		stream.Send(t)
		gatetest.ReadEvent(t, reader, n)
	}
	close(stream.Next)
	refusesAll(t, g, []attack{
		{"a web page", edits{noToken, gatetest.SetHeader("Origin", "https://attacker.example"), gatetest.SetHeader("Content-Type", "text/plain")}, 403, "origin_not_allowed"},
		{"a rebound name", edits{host("attacker.example")}, 403, "host_not_allowed"},
		{"text/plain", edits{gatetest.SetHeader("Content-Type", "text/plain")}, 415, "content_type_not_json"},
		{"no token", edits{noToken}, 401, "missing_token"},
	})
	up.SetAnswer(gatetest.AnswerJSON)
	if got := g.Do(t, gatetest.SetHeader("X-Proxy-Token", g.Token)); got.Status != 200 {
		t.Errorf("with X-Proxy-Token: %d %s", got.Status, got.Body)
	}
	for _, secret := range []string{g.Token, gatetest.OperatorKey} {
		if strings.Contains(g.Output.String(), secret) {
			t.Errorf("the example's logs have a secret")
		}
	}
}

func TestTheShippedExampleOpensNoAdminPort(t *testing.T) {
	t.Parallel()
	l := gatetest.Launch{
		Dir: gatetest.TempDir(t), Env: []string{"XDG_RUNTIME_DIR=/run/user/0"},
		Args: []string{"adapt", "--adapter", "caddyfile", "--config", filepath.Join(gatetest.RepoRoot, "Caddyfile.example")},
	}
	out, code := gatetest.Run(t, l)
	admin := regexp.MustCompile(`"admin":\{"listen":"unix/[^"|]+"`)
	if code != 0 || !admin.MatchString(out) {
		t.Errorf("the example's admin endpoint is not a socket for its owner alone (exit code %d):\n%s", code, out)
	}
}
