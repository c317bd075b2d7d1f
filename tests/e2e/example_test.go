//go:build unix

package e2e

import (
	"fmt"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
)

// The shipped example, with another upstream and port, and nothing else changed.
func TestTheShippedExampleAdaptsValidatesAndWorks(t *testing.T) {
	t.Parallel()
	shipped := readFile(t, filepath.Join(repoRoot, "Caddyfile.example"))
	if runtime.GOOS != "linux" {
		t.Skip("only on Linux can a variable (SSL_CERT_FILE) make Caddy trust the stand-in for api.openai.com")
	}
	up, certificate := newTLSUpstream(t)
	dir := tempDir(t)
	writeFile(t, filepath.Join(dir, "upstream.pem"), string(certificate))
	if n := strings.Count(shipped, "https://api.openai.com"); n == 0 {
		t.Fatal("the example does not name https://api.openai.com")
	}
	port := regexp.MustCompile(`(?m)^http://\S*:(\d+) \{`).FindStringSubmatch(shipped)
	if port == nil {
		t.Fatal("the example has no site on a fixed port")
	}
	example := strings.ReplaceAll(shipped, "https://api.openai.com", up.URL)
	example = strings.ReplaceAll(example, ":"+port[1]+" {", fmt.Sprintf(":%d {", freePort(t)))
	path := filepath.Join(dir, "Caddyfile")
	writeFile(t, path, example)
	l := launch{
		dir: dir, env: []string{"OPENAI_API_KEY=" + operatorKey, "XDG_RUNTIME_DIR=" + dir, "SSL_CERT_FILE=" + filepath.Join(dir, "upstream.pem")},
		args: []string{"run", "--adapter", "caddyfile", "--config", path},
	}
	for _, command := range []string{"adapt", "validate"} {
		// The file as it is shipped, and as it is run here.
		for _, config := range []string{filepath.Join(repoRoot, "Caddyfile.example"), path} {
			once := l
			once.args = []string{command, "--adapter", "caddyfile", "--config", config}
			if out, code := run(t, once); code != 0 || strings.Contains(out, operatorKey) {
				t.Fatalf("caddy %s %s: exit code %d\n%s", command, config, code, out)
			}
		}
	}
	if found, _ := filepath.Glob(filepath.Join(dir, "*.json")); len(found) > 0 {
		t.Errorf("adapt and validate wrote %v", found)
	}

	g := &gate{process: start(t, l), up: up, http: newClient(t)}
	g.waitOutput(readyLog, 1)
	found := regexp.MustCompile(`"path":"([^"]+)"`).FindStringSubmatch(g.waitOutput("server-info written", 1)[0])
	if found == nil || !strings.HasPrefix(found[1], dir) {
		t.Fatalf("server-info is at %v, want it below XDG_RUNTIME_DIR", found)
	}
	g.info = readInfo(t, found[1])
	g.token, g.addr = g.info.AuthToken, fmt.Sprintf("127.0.0.1:%d", g.info.Port)

	g.works(t)
	seen := up.only(t)
	seen.hasKey(t)
	if want := strings.TrimPrefix(up.URL, "https://"); seen.host != want {
		t.Errorf("Host upstream is %q, want %q", seen.host, want)
	}
	for _, name := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "Via"} {
		if values := seen.header[name]; values != nil {
			t.Errorf("the upstream is told %s: %q", name, values)
		}
	}
	stream := newEventStream()
	up.setAnswer(stream.serve)
	_, reader := openStream(t, g.http, g.post(withDeadline(t)))
	for n := 1; n <= 3; n++ {
		stream.send(t)
		readEvent(t, reader, n)
	}
	close(stream.next)
	g.refusesAll(t, []attack{
		{"a web page", edits{noToken, setHeader("Origin", "https://attacker.example"), setHeader("Content-Type", "text/plain")}, 403, "origin_not_allowed"},
		{"a rebound name", edits{host("attacker.example")}, 403, "host_not_allowed"},
		{"text/plain", edits{setHeader("Content-Type", "text/plain")}, 415, "content_type_not_json"},
		{"no token", edits{noToken}, 401, "missing_token"},
	})
	up.setAnswer(answerJSON)
	if got := g.do(t, setHeader("X-Proxy-Token", g.token)); got.status != 200 {
		t.Errorf("with X-Proxy-Token: %d %s", got.status, got.body)
	}
	for _, secret := range []string{g.token, operatorKey} {
		if strings.Contains(g.out.String(), secret) {
			t.Errorf("the example's logs have a secret")
		}
	}
}

func TestTheShippedExampleOpensNoAdminPort(t *testing.T) {
	t.Parallel()
	l := launch{
		dir: tempDir(t), env: []string{"XDG_RUNTIME_DIR=/run/user/0"},
		args: []string{"adapt", "--adapter", "caddyfile", "--config", filepath.Join(repoRoot, "Caddyfile.example")},
	}
	out, code := run(t, l)
	admin := regexp.MustCompile(`"admin":\{"listen":"unix/[^"|]+"`)
	if code != 0 || !admin.MatchString(out) {
		t.Errorf("the example's admin endpoint is not a socket for its owner alone (exit code %d):\n%s", code, out)
	}
}
