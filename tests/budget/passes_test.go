//go:build unix

package budget

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAStreamPassesUnbufferedByteForByteOverHTTP1And2(t *testing.T) {
	t.Parallel()
	// Every kind of line end, several lines of data, and a large event.
	events := []string{
		"\xef\xbb\xbf: hello\n\n",
		"event: response.output_text.delta\r\ndata: {\"type\":\"response.output_text.delta\",\r\ndata: \"delta\":\"a\"}\r\n\r\n",
		"data: {\"type\":\"response.output_text.delta\",\"delta\":\"" + strings.Repeat("b", 1<<20) + "\"}\n\n",
		"data: {\"type\":\"response.completed\",\rdata: \"response\":{\"model\":\"gpt-5\"," + usage() + "}}\r\r",
	}
	for _, proto := range []string{"HTTP/1.1", "HTTP/2.0"} {
		t.Run(strings.ReplaceAll(proto, "/", " "), func(t *testing.T) {
			t.Parallel()
			next := make(chan struct{})
			up := gatetest.NewUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				for _, event := range events {
					_, _ = io.WriteString(w, event)
					_ = http.NewResponseController(w).Flush()
					<-next
				}
			})
			s := site(gatetest.TempDir(t), perDay)
			s.Global += "\nservers {\n\tprotocols h1 h2c\n}"
			g := gatetest.StartReloadable(t, up, s)
			if proto == "HTTP/2.0" {
				protocols := new(http.Protocols)
				protocols.SetUnencryptedHTTP2(true)
				g.HTTP.Transport.(*http.Transport).Protocols = protocols
			}
			response, err := g.HTTP.Do(g.Post(gatetest.WithDeadline(t), func(r *http.Request) {
				r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
			}))
			gatetest.Must(t, err)
			defer response.Body.Close()
			if response.Proto != proto || response.StatusCode != 200 {
				t.Fatalf("%s %s", response.Proto, response.Status)
			}
			for i, event := range events {
				got := make([]byte, len(event))
				if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != event {
					t.Fatalf("event %d is not what the upstream sent: %v", i, err)
				}
				if tokens := spent(t, g).Tokens; (tokens == cost) != (i == len(events)-1) {
					t.Errorf("with event %d in the caller's hands, %d are counted", i, tokens)
				}
				next <- struct{}{}
			}
			if rest, err := io.ReadAll(response.Body); len(rest) > 0 || err != nil {
				t.Errorf("then came %q, %v", rest, err)
			}
		})
	}
}

func TestTheTrailSaysWhatARequestHasCostAndWhyOneWasRefused(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	g := gatetest.StartReloadable(t, b.Upstream, site(gatetest.TempDir(t), "per 1d {\n\ttokens 100\n}"))
	ask(t, g)
	if got := ask(t, g); code(got) != "budget_exhausted" {
		t.Fatalf("%d %s", got.Status, got.Body)
	}
	accepted := g.WaitOutput(`"msg":"accepted"`, 1)[0]
	for _, want := range []string{`"code":"forwarded"`, `"model":"gpt-5"`, fmt.Sprintf(`"input_tokens":%d`, input), `"output_tokens":100`} {
		if !strings.Contains(accepted, want) {
			t.Errorf("the trail has no %s: %s", want, accepted)
		}
	}
	refused := g.WaitOutput(`"msg":"refused"`, 1)[0]
	for _, want := range []string{`"code":"budget_exhausted"`, `"status":429`, `"client":"default"`} {
		if !strings.Contains(refused, want) {
			t.Errorf("the trail has no %s: %s", want, refused)
		}
	}
	g.WaitOutput("a caller's budget is spent", 1)
	metrics := g.AdminDo(t, http.MethodGet, "/metrics", "", "").Body
	for _, want := range []string{
		`caddy_responses_proxy_gate_requests_total{client="default",code="over_budget",gate="default"} 1`,
		`caddy_responses_budget_requests_total{budget="default",client="default",code="budget_exhausted"} 1`,
		`caddy_responses_budget_limit{budget="default",client="default",unit="tokens",window="1d"} 100`,
		fmt.Sprintf(`caddy_responses_budget_spent{budget="default",client="default",unit="tokens",window="1d"} %d`, cost),
	} {
		if !strings.Contains(metrics, want) {
			t.Errorf("the metrics have no %s", want)
		}
	}
}

func TestTheVerbListsAndForgives(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	g := gatetest.StartReloadable(t, b.Upstream, site(gatetest.TempDir(t), "per 1d {\n\ttokens 100\n}"))
	ask(t, g)
	verb := func(args ...string) (string, int) {
		return gatetest.Run(t, gatetest.Launch{Dir: g.Site.Dir, Args: append([]string{"responses-proxy", "usage", "--address", "unix/" + g.Site.AdminSocket()}, args...)})
	}
	if out, code := verb(); code != 0 || !strings.Contains(out, "115 of 100") {
		t.Errorf("it ends with %d:\n%s", code, out)
	}
	if out, code := verb("--json", "--client", "default"); code != 0 || !strings.Contains(out, `"tokens": 115`) {
		t.Errorf("it ends with %d:\n%s", code, out)
	}
	if out, code := verb("--reset"); code != 1 || !strings.Contains(out, "--client") {
		t.Errorf("it ends with %d:\n%s", code, out)
	}
	if out, code := verb("--reset", "--client", "nobody"); code != 1 || !strings.Contains(out, "has spent nothing") {
		t.Errorf("it ends with %d:\n%s", code, out)
	}
	if out, code := verb("--reset", "--client", "default"); code != 0 || !strings.Contains(out, "reset: budget default, client default") {
		t.Errorf("it ends with %d:\n%s", code, out)
	}
	if got := ask(t, g); got.Status != 200 {
		t.Errorf("after the reset, it gets %d", got.Status)
	}
}

func TestABudgetWorksBehindCaddysOwnAuthentication(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	dir, port, open := gatetest.TempDir(t), gatetest.FreePort(t), gatetest.FreePort(t)
	hash, _ := gatetest.Run(t, gatetest.Launch{Dir: dir, Args: []string{"hash-password", "--bcrypt-cost", "4", "--plaintext", "hello"}})
	lines := strings.Fields(hash)
	config := fmt.Sprintf(`{
	admin off
	storage file_system %s
}
http://:%d {
	bind 127.0.0.1
	basic_auth {
		alice %[3]s
		bob %[3]s
	}
	responses_budget {
		per 1d {
			requests 1
		}
		client bob {
			per 1d {
				requests 2
			}
		}
	}
	reverse_proxy %[4]s
}
http://:%[5]d {
	bind 127.0.0.1
	responses_budget {
		name open
	}
	reverse_proxy %[4]s
}
`, dir, port, lines[len(lines)-1], b.URL, open)
	gatetest.WriteFile(t, filepath.Join(dir, "Caddyfile"), config)
	p := gatetest.Start(t, gatetest.Launch{Dir: dir, Args: []string{"run", "--config", filepath.Join(dir, "Caddyfile")}})
	p.WaitOutput(gatetest.ReadyLog, 1)
	post := func(port int, user, password string) gatetest.Answer {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/v1/responses", port), strings.NewReader(body))
		gatetest.Must(t, err)
		if user != "" {
			r.SetBasicAuth(user, password)
		}
		return gatetest.Do(t, gatetest.NewClient(t), r)
	}
	for i, c := range []struct {
		user, password string
		status         int
		code           string
	}{
		{"alice", "wrong", 401, ""}, // is nobody's request
		{"alice", "hello", 200, ""},
		{"alice", "hello", 429, "budget_exhausted"},
		{"bob", "hello", 200, ""},
		{"bob", "hello", 200, ""},
		{"bob", "hello", 429, "budget_exhausted"},
		{"alice", "hello", 429, "budget_exhausted"},
	} {
		if got := post(port, c.user, c.password); got.Status != c.status || code(got) != c.code {
			t.Errorf("request %d, of %s, gets %d %s", i, c.user, got.Status, got.Body)
		}
	}
	if got := post(open, "", ""); got.Status != 500 || code(got) != "no_user" {
		t.Errorf("without an authentication, it gets %d %s", got.Status, got.Body)
	}
	if seen := b.Requests(); len(seen) != 3 {
		t.Errorf("the upstream saw %d requests", len(seen))
	}
}

func TestTheCommandKeepsItsCountsBetweenLaunches(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	dir := gatetest.TempDir(t)
	start := func() *gatetest.Gate {
		info := filepath.Join(dir, "info.json")
		p := gatetest.Start(t, gatetest.Launch{
			Dir: dir, Stdin: strings.NewReader(gatetest.OperatorKey), Env: []string{"XDG_DATA_HOME=" + filepath.Join(dir, "data")},
			Args: []string{"responses-proxy", "--server-info", info, "--upstream-url", b.URL + "/v1/responses", "--budget", "200 tokens per 24h", "--budget", "9 requests per 1h"},
		})
		p.WaitOutput("responses-proxy listening on", 1)
		g := &gatetest.Gate{Process: p, Site: gatetest.Site{Dir: dir, Info: info}, HTTP: gatetest.NewClient(t)}
		g.ReadInfo()
		return g
	}
	first := start()
	counts := filepath.Join(dir, "data", "caddy", "responses-proxy")
	if told := first.WaitOutput("counts what is spent in", 1); !strings.Contains(told[0], counts) {
		t.Errorf("it says %q", told)
	}
	ask(t, first)
	ask(t, first)
	first.Signal(os.Interrupt)
	if code := first.Wait(); code != 0 {
		t.Errorf("it ends with %d", code)
	}
	if info, err := os.Stat(filepath.Join(counts, "responses_budget")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the counts are in %v, %v", info, err)
	}
	if got := ask(t, start()); code(got) != "budget_exhausted" {
		t.Errorf("the next launch answers %d %s", got.Status, got.Body)
	}
	for _, wrong := range []string{"200 tokens", "0 tokens per 1h", "-5 requests per 1h", "5 cats per 1h"} {
		out, code := gatetest.Run(t, gatetest.Launch{Dir: dir, Args: []string{"responses-proxy", "--budget", wrong}})
		if code != 1 || !strings.Contains(out, "200000 tokens per 24h") {
			t.Errorf("%q: it ends with %d and says %s", wrong, code, out)
		}
	}
}

// unstored is a request that the example's rules let pass.
func unstored(r *http.Request) {
	const content = `{"model":"gpt-5","input":"hi","store":false}`
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(content)), int64(len(content))
}

// The example, with another port, upstream, storage and budget, and nothing
// else changed.
func TestTheExampleGivesEachClientItsBudget(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	dir := gatetest.TempDir(t)
	config := gatetest.ReadFile(t, filepath.Join(gatetest.RepoRoot, "examples", "budgets", "Caddyfile"))
	for from, to := range map[string]string{
		"http://:18080 {": "http://:0 {", "https://api.openai.com": b.URL, "tokens 200000\n": "tokens 100\n",
	} {
		if strings.Count(config, from) != 1 {
			t.Fatalf("the example has %q %d times", from, strings.Count(config, from))
		}
		config = strings.Replace(config, from, to, 1)
	}
	gatetest.WriteFile(t, filepath.Join(dir, "Caddyfile"), config)
	p := gatetest.Start(t, gatetest.Launch{
		Dir: dir, Args: []string{"run", "--config", filepath.Join(dir, "Caddyfile")},
		Env: []string{"OPENAI_API_KEY=" + gatetest.OperatorKey, "XDG_RUNTIME_DIR=" + dir, "XDG_DATA_HOME=" + dir},
	})
	p.WaitOutput(gatetest.ReadyLog, 1)
	for i, c := range []struct{ client, want string }{{"ci", ""}, {"ci", "budget_exhausted"}, {"codex", ""}, {"codex", ""}} {
		g := &gatetest.Gate{Process: p, Site: gatetest.Site{Dir: dir, Info: filepath.Join(dir, "gate-"+c.client+".json")}, HTTP: gatetest.NewClient(t)}
		g.ReadInfo()
		if got := ask(t, g, unstored); code(got) != c.want {
			t.Errorf("request %d, of %s, gets %d %s", i, c.client, got.Status, got.Body)
		}
	}
}
