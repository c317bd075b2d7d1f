//go:build unix

package observe

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// entry is a line of the audit trail, in which nothing may be unknown.
type entry struct {
	Level    string  `json:"level"`
	Time     any     `json:"ts"`
	Logger   string  `json:"logger"`
	Message  string  `json:"msg"`
	Gate     string  `json:"gate"`
	Client   string  `json:"client"`
	Remote   string  `json:"remote_addr"`
	Method   string  `json:"method"`
	Path     string  `json:"path"`
	Code     string  `json:"code"`
	Status   int     `json:"status"`
	Duration float64 `json:"duration"`
	Dropped  int     `json:"dropped"`
}

// trail is an audit trail in a file.
func trail(t *testing.T, path string) []entry {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var entries []entry
	for line := range bytes.Lines(content) {
		var e entry
		decoder := json.NewDecoder(bytes.NewReader(line))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&e); err != nil || e.Logger != "http.handlers.responses_proxy_gate.audit" {
			t.Fatalf("%v in %q", err, line)
		}
		for _, c := range bytes.TrimSuffix(line, []byte("\n")) {
			if c < ' ' || c > '~' {
				t.Fatalf("byte %#x in %q", c, line)
			}
		}
		entries = append(entries, e)
	}
	return entries
}

// tells waits until a trail has a line.
func tells(t *testing.T, path, what string, is func(entry) bool) (found entry) {
	t.Helper()
	gatetest.Until(t, what, func() bool {
		entries := trail(t, path)
		at := slices.IndexFunc(entries, is)
		if at >= 0 {
			found = entries[at]
		}
		return at >= 0
	})
	return found
}

func TestTheMonitoredExampleKeepsItsTrailInAFileOfItsOwn(t *testing.T) {
	t.Parallel()
	g, _ := shipped(t)
	path := filepath.Join(g.Site.Dir, "gate-audit.log")
	g.Works(t)
	g.Do(t, gatetest.SetHeader("Origin", "https://attacker.example"))
	accepted := tells(t, path, "the request", func(e entry) bool { return e.Message == "accepted" })
	if e := accepted; e.Code != "forwarded" || e.Status != 200 || e.Client != "default" || e.Method != "POST" || e.Path != "/v1/responses" || e.Duration <= 0 || e.Level != "info" {
		t.Errorf("accepted: %+v", e)
	}
	refused := tells(t, path, "the refusal", func(e entry) bool { return e.Message == "refused" })
	if e := refused; e.Code != "origin_not_allowed" || e.Status != 403 || e.Client != "" || e.Level != "warn" || !strings.HasPrefix(e.Remote, "127.0.0.1:") {
		t.Errorf("refused: %+v", e)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if out := g.Output.String(); strings.Contains(out, ".audit") {
		t.Errorf("the trail is in Caddy's log, too:\n%s", out)
	}
}

// audited is a gate with its audit trail in a file.
func audited(t *testing.T, site gatetest.Site) (g *gatetest.Gate, path string) {
	t.Helper()
	site.Dir = gatetest.TempDir(t)
	path = filepath.Join(site.Dir, "audit.log")
	site.Global += fmt.Sprintf("\tlog audit {\n\t\tinclude http.handlers.responses_proxy_gate.audit\n\t\toutput file %s\n\t\tformat json\n\t}\n", path)
	return gatetest.StartGate(t, gatetest.NewUpstream(t, nil), site), path
}

func TestAFloodOfRefusalsIsFewLinesAndTheWholeCountAtTheExit(t *testing.T) {
	t.Parallel()
	g, path := audited(t, gatetest.Site{})
	const callers, each = 10, 500
	began := time.Now()
	var done sync.WaitGroup
	for range callers {
		done.Go(func() {
			for range each {
				if got := g.Do(t, gatetest.SetHeader("Authorization", "Bearer guess")); got.Status != http.StatusUnauthorized {
					t.Errorf("%d %s", got.Status, got.Body)
				}
			}
		})
	}
	done.Wait()
	windows := int(time.Since(began)/(10*time.Second)) + 2
	g.Signal(syscall.SIGTERM)
	g.Wait()
	lines, total := 0, 0
	for _, e := range trail(t, path) {
		lines++
		if e.Code != "invalid_token" {
			t.Errorf("%+v", e)
		}
		if e.Dropped > 0 {
			total += e.Dropped
		} else {
			total++
		}
	}
	if total != callers*each || lines > windows*11 {
		t.Errorf("%d lines tell of %d refusals, want at most %d of %d", lines, total, windows*11, callers*each)
	}
}

func TestNeitherASecretNorAForgedLineGetsIntoTheTrail(t *testing.T) {
	t.Parallel()
	g, path := audited(t, gatetest.Site{Gate: "\t\tlog_accepted\n\t\tallow_route POST /v1/responses any_query"})
	forged := `{"level":"info","logger":"forged"}`
	for _, raw := range []string{
		g.RawRequest("POST /v1/TOKEN HTTP/1.1", gatetest.RawGood(), gatetest.RawBody),
		g.RawRequest("POST /v1/responses/TOKEN/cancel HTTP/1.1", gatetest.RawGood(), gatetest.RawBody),
		g.RawRequest("POST /v1/responses?api_key=TOKEN HTTP/1.1", gatetest.RawGood(), gatetest.RawBody),
		g.RawRequest("POST /v1/responses;token=TOKEN HTTP/1.1", gatetest.RawGood(), gatetest.RawBody),
		g.RawRequest("POST http://TOKEN:TOKEN@localhost/v1/files HTTP/1.1", gatetest.RawGood(), gatetest.RawBody),
		// (Caddy itself refuses methods of more than 32 bytes)
		g.RawRequest(g.Token[:22]+" /v1/files HTTP/1.1", gatetest.RawGood(), gatetest.RawBody),
		g.RawRequest("POST /v1/"+gatetest.OperatorKey+" HTTP/1.1", gatetest.RawGood(), gatetest.RawBody),
		g.RawRequest("POST /v1/files HTTP/1.1", gatetest.RawGood("User-Agent: TOKEN", "Referer: http://x/TOKEN", "X-Request-Id: TOKEN", "Cookie: a=TOKEN", "X-Forwarded-For: TOKEN"), gatetest.RawBody),
		g.RawRequest("POST /TOKEN HTTP/1.1", gatetest.Without(gatetest.RawGood(), "X-Proxy", "Authorization"), gatetest.RawBody),
		g.RawRequest("POST /v1/x%0a"+strings.ReplaceAll(forged, `"`, "%22")+" HTTP/1.1", gatetest.RawGood("Origin: https://attacker.example"), gatetest.RawBody),
		g.RawRequest("POST /v1/x%1b%5b31m%00%ff%e2%80%ae HTTP/1.1", gatetest.RawGood("Origin: https://attacker.example"), gatetest.RawBody),
		g.RawRequest("POST /v1/\xff\xfe\x1b[31m HTTP/1.1", gatetest.RawGood("Origin: https://attacker.example"), gatetest.RawBody),
		g.RawRequest("POST /"+strings.Repeat("long/", 1000)+" HTTP/1.1", gatetest.RawGood("Origin: https://attacker.example"), gatetest.RawBody),
	} {
		conn := g.Dial(t)
		conn.Send(strings.ReplaceAll(raw, "TOKEN", g.Token)) // (in request lines)
		conn.MaybeAnswer()
		_ = conn.Close()
	}
	g.Signal(syscall.SIGTERM)
	g.Wait()
	content := gatetest.ReadFile(t, path)
	for name, secret := range map[string]string{
		"the token": g.Token, "half of the token": g.Token[:22], "the other half": g.Token[22:],
		"the key": gatetest.OperatorKey, "part of the key": gatetest.OperatorKey[7:22],
	} {
		if strings.Contains(content, secret) {
			t.Errorf("the trail has %s:\n%s", name, content)
		}
	}
	entries := trail(t, path)
	if len(entries) < 12 {
		t.Errorf("%d lines:\n%s", len(entries), content)
	}
	for _, e := range entries {
		if len(e.Path) > 128+len("...") || e.Gate != "default" || e.Method != "POST" && e.Method != "other" {
			t.Errorf("%+v", e)
		}
	}
}

// The command shows its operator that a page tries to use the key, and does
// not bother them with every mistyped token.
func TestTheCommandsLogShowsWebPagesAndNoMore(t *testing.T) {
	t.Parallel()
	g := gatetest.StartCommand(t, gatetest.NewUpstream(t, nil), gatetest.Site{}, gatetest.Launch{})
	for range 50 {
		g.Do(t, gatetest.SetHeader("Authorization", "Bearer guess"))
		g.Do(t, gatetest.SetHeader("Origin", "https://attacker.example"))
	}
	g.Works(t)
	g.WaitOutput("origin_not_allowed", 10)
	g.Signal(syscall.SIGTERM)
	g.Wait()
	out := g.Output.String()
	lines := gatetest.LinesWith(out, ".audit")
	total := 0
	for _, line := range lines {
		if !strings.Contains(line, "origin_not_allowed") {
			t.Errorf("the log has %s", line)
		}
		dropped := 0
		if _, rest, ok := strings.Cut(line, `"dropped":`); ok {
			_, _ = fmt.Sscan(strings.TrimSpace(rest), &dropped)
			total += dropped - 1
		}
		total++
	}
	if total != 50 || len(lines) > 3*11 {
		t.Errorf("%d lines tell of %d refusals:\n%s", len(lines), total, out)
	}
}
