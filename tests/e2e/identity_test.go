//go:build unix

package e2e

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// identityOption is a gate's upstream_identity, whose workload's token is in
// dir.
func identityOption(t *testing.T, issuer *gatetest.Issuer, dir, account string) string {
	t.Helper()
	path := filepath.Join(dir, "subject")
	gatetest.WriteFile(t, path, gatetest.SubjectToken+"\n")
	return fmt.Sprintf("upstream_identity {\nprovider idp_1\nservice_account %s\ntoken_file %s\nendpoint %s\n}", account, path, issuer.Endpoint())
}

// identityGate is a gate without a key before an upstream that takes the
// issuer's tokens only.
func identityGate(t *testing.T, issuer *gatetest.Issuer, s gatetest.Site) *gatetest.Gate {
	t.Helper()
	s.Dir = gatetest.TempDir(t)
	s.Key = identityOption(t, issuer, s.Dir, "sa_1")
	up := gatetest.NewUpstream(t, issuer.Checked(gatetest.AnswerJSON))
	g := gatetest.StartGate(t, up, s)
	t.Cleanup(func() {
		for _, secret := range []string{gatetest.SubjectToken, gatetest.RequestToken, "oai-short-lived-"} {
			if strings.Contains(g.Output.String(), secret) {
				t.Errorf("%s is in the log", secret)
			}
		}
	})
	return g
}

func TestAnIdentityTakesTheKeysPlace(t *testing.T) {
	t.Parallel()
	issuer := gatetest.NewIssuer(t, time.Hour, time.Minute)
	g := identityGate(t, issuer, gatetest.Site{Admin: "unix"})
	got := g.Do(t)
	if got.Status != http.StatusOK || strings.Contains(fmt.Sprint(got), "oai-short-lived-") {
		t.Errorf("answered %v", got)
	}
	if got := g.Up.Only(t).Header["Authorization"]; len(got) != 1 || got[0] != "Bearer oai-short-lived-0-sa_1" {
		t.Errorf("the upstream got %q", got)
	}
	want := gatetest.Exchange{
		GrantType: "urn:ietf:params:oauth:grant-type:token-exchange", SubjectToken: gatetest.SubjectToken,
		SubjectTokenType: "urn:ietf:params:oauth:token-type:jwt", Provider: "idp_1", ServiceAccount: "sa_1",
	}
	if got := issuer.Exchanges(); len(got) != 1 || got[0] != want {
		t.Errorf("exchanged %+v", got)
	}
	status := g.AdminDo(t, http.MethodGet, "/responses_proxy_gate/gates", "", "")
	if !strings.Contains(status.Body, `"identity":{"seconds_left":35`) {
		t.Errorf("the status is %s", status.Body)
	}
	config := g.AdminDo(t, http.MethodGet, "/config/", "", "")
	for _, secret := range []string{gatetest.SubjectToken, "oai-short-lived-"} {
		if strings.Contains(status.Body+config.Body, secret) {
			t.Errorf("%s is in the status or the config", secret)
		}
	}
	g.MustReload(t, g.Site)
	g.ReadInfo()
	g.Works(t)
	if n := len(issuer.Exchanges()); n != 1 {
		t.Errorf("%d exchanges after a reload", n)
	}
}

func TestGitHubsIssuerIsAskedWithWhatTheRunnerSays(t *testing.T) {
	t.Parallel()
	issuer := gatetest.NewIssuer(t, time.Hour, time.Minute)
	up := gatetest.NewUpstream(t, issuer.Checked(gatetest.AnswerJSON))
	g := gatetest.StartGate(t, up, gatetest.Site{
		Key: fmt.Sprintf("upstream_identity {\nprovider idp_1\nservice_account sa_1\ngithub_actions\nendpoint %s\n}", issuer.Endpoint()),
		Env: []string{"ACTIONS_ID_TOKEN_REQUEST_URL=" + issuer.RequestURL(), "ACTIONS_ID_TOKEN_REQUEST_TOKEN=" + gatetest.RequestToken},
	})
	g.Works(t)
	if got := issuer.Audiences(); len(got) != 1 || got[0] != "https://api.openai.com/v1" {
		t.Errorf("GitHub was asked for %q", got)
	}
	if got := issuer.Exchanges(); len(got) != 1 || got[0].SubjectToken != gatetest.SubjectToken {
		t.Errorf("exchanged %+v", got)
	}
}

func TestAGateThatGetsNoTokenListensNowhere(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		says   string
	}{
		"refused": {func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, `{"error":"invalid_grant","error_description":"`+gatetest.SubjectToken+`"}`, http.StatusUnauthorized)
		}, "status 401 invalid_grant"},
		"garbage": {func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>"+gatetest.SubjectToken) }, "something else than the JSON of a token"},
		"a redirect": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		}, "redirect"},
		"ended": {func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, `{"access_token":"t","expires_in":-1}`)
		}, "has ended already"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			issuer := gatetest.NewIssuer(t, time.Hour, time.Minute)
			issuer.Fail(c.answer)
			dir := gatetest.TempDir(t)
			s := gatetest.Site{Dir: dir, Key: identityOption(t, issuer, dir, "sa_1")}.With(t, gatetest.NewUpstream(t, nil))
			out := gatetest.StartRefused(t, s.Launch(t))
			if !strings.Contains(out, "upstream_identity: there is no token to serve with") || !strings.Contains(out, c.says) || strings.Contains(out, gatetest.SubjectToken) {
				t.Errorf("it says %s", out)
			}
			if !gatetest.Missing(s.InfoPath()) {
				t.Error("there is a server-info file")
			}
		})
	}
}

func TestATokenThatIsRevokedIsExchangedForAnother(t *testing.T) {
	t.Parallel()
	issuer := gatetest.NewIssuer(t, time.Hour, time.Minute)
	g := identityGate(t, issuer, gatetest.Site{})
	g.Works(t)
	issuer.Revoke()
	gatetest.Refused(t, g.Do(t), http.StatusBadRequest, "upstream_unauthorized")
	g.Works(t)
	if n := len(issuer.Exchanges()); n != 2 {
		t.Errorf("%d exchanges", n)
	}
}

// An outage of the endpoint is nobody's matter before the token's end; what is
// under way then goes on.
func TestAnOutageOfTheTokenEndpointCutsNoStreamAndEndsByItself(t *testing.T) {
	t.Parallel()
	issuer := gatetest.NewIssuer(t, 3*time.Second, time.Minute)
	g := identityGate(t, issuer, gatetest.Site{})
	stream := gatetest.NewEventStream()
	g.Up.SetAnswer(issuer.Checked(stream.Serve))
	response, events := gatetest.OpenStream(t, g.HTTP, g.Post(gatetest.WithDeadline(t)))
	defer response.Body.Close()
	stream.Send(t)
	gatetest.ReadEvent(t, events, 1)
	issuer.Fail(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusServiceUnavailable) })
	g.Up.SetAnswer(issuer.Checked(gatetest.AnswerJSON))
	var got gatetest.Answer
	gatetest.Until(t, "the last token's end", func() bool {
		got = g.Do(t)
		return got.Status != http.StatusOK
	})
	gatetest.Refused(t, got, http.StatusServiceUnavailable, "identity_unavailable")
	stream.Send(t)
	gatetest.ReadEvent(t, events, 2)
	if lines := gatetest.LinesWith(g.Output.String(), "cannot be exchanged for a token"); len(lines) != 1 {
		t.Errorf("the outage is logged %d times", len(lines))
	}
	issuer.Fail(nil)
	g.WaitOutput("is exchanged for a token again", 1)
	g.Works(t)
}

// Ten gates in one Caddy, each with an identity of its own, whose tokens live
// for a second.
func TestHundredsOfRealExpiriesUnderLoadFailNoRequest(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes half a minute")
	}
	// A machine that stands still for half a second must not make a token end
	// before the next one has come: that would be no fault of the gate's.
	const gates, wanted = 30, 300
	issuer := gatetest.NewIssuer(t, 3*time.Second, 5*time.Second)
	dir := gatetest.TempDir(t)
	var site strings.Builder
	fmt.Fprintf(&site, "{\nadmin off\n}\nhttp://:0 {\nbind 127.0.0.1\n")
	for n := range gates {
		fmt.Fprintf(&site, "handle /g%d {\nresponses_proxy_gate {\nname g%d\n%s\nallow_route POST /g%d\nserver_info %s\n}\nreverse_proxy UPSTREAM\n}\n",
			n, n, identityOption(t, issuer, dir, fmt.Sprintf("sa_%d", n)), n, filepath.Join(dir, fmt.Sprintf("info%d.json", n)))
	}
	site.WriteString("}\n")
	up := gatetest.NewUpstream(t, issuer.Checked(gatetest.AnswerJSON))
	config := filepath.Join(dir, "Caddyfile")
	gatetest.WriteFile(t, config, strings.ReplaceAll(site.String(), "UPSTREAM", up.URL))
	process := gatetest.Start(t, gatetest.Launch{Dir: dir, Args: []string{"run", "--adapter", "caddyfile", "--config", config}})
	process.WaitOutput(gatetest.ReadyLog, 1)

	var load sync.WaitGroup
	var requests atomic.Int64
	for n := range gates {
		info := gatetest.ReadInfo(t, filepath.Join(dir, fmt.Sprintf("info%d.json", n)))
		load.Go(func() {
			client := gatetest.NewClient(t)
			for deadline := time.Now().Add(3 * time.Minute); len(issuer.Exchanges()) < wanted && time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, fmt.Sprintf("http://127.0.0.1:%d/g%d", info.Port, n), strings.NewReader("{}"))
				if err != nil {
					t.Error(err)
					return
				}
				r.Header.Set("Content-Type", "application/json")
				r.Header.Set("X-Proxy-Token", info.AuthToken)
				if got := gatetest.Do(t, client, r); got.Status != http.StatusOK {
					t.Errorf("gate %d: %d %s", n, got.Status, got.Body)
					return
				}
				requests.Add(1)
			}
		})
	}
	load.Wait()
	if n := len(issuer.Exchanges()); n < wanted {
		t.Errorf("%d exchanges", n)
	}
	t.Logf("%d requests of %d gates over %d tokens, and none failed", requests.Load(), gates, len(issuer.Exchanges()))
}
