package responsesproxygate

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/identity"
)

// tokenEndpoint exchanges identities for tokens.
type tokenEndpoint struct {
	*httptest.Server

	mu     sync.Mutex
	status int // of its answers; 0: a token
	issued []string
}

func newTokenEndpoint(t *testing.T) *tokenEndpoint {
	t.Helper()
	e := new(tokenEndpoint)
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e.mu.Lock()
		defer e.mu.Unlock()
		token := fmt.Sprintf("upstream-token-%d", len(e.issued))
		e.issued = append(e.issued, token)
		if e.status != 0 {
			w.WriteHeader(e.status)
		}
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"expires_in":3600,"error":"invalid_grant"}`, token)
	}))
	t.Cleanup(e.Close)
	return e
}

func (e *tokenEndpoint) exchanges() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.issued)
}

func (e *tokenEndpoint) fails(status int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status = status
}

// withIdentity loads a gate with the identity of a token's file.
func (c *configuration) withIdentity(t *testing.T, e *tokenEndpoint, name, tokenFile string) (*Handler, error) {
	t.Helper()
	c.route(name)
	module, err := c.ctx.LoadModuleByID("http.handlers.responses_proxy_gate", json.RawMessage(fmt.Sprintf(
		`{"name": %q, "upstream_identity": {"provider": "idp", "service_account": "sa", "token_file": %q, "endpoint": %q}}`, name, tokenFile, e.URL)))
	h, _ := module.(*Handler)
	return h, err
}

func subjectFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte("the-workloads-token\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// presents is what the gate would present now.
func presents(t *testing.T, h *Handler) string {
	t.Helper()
	if refused := h.credential.await(t.Context()); refused != nil {
		t.Fatalf("refused: %s", refused.code)
	}
	return h.credential.current().header.Reveal()
}

func TestGatesOfOneIdentityAndTheirReloadsShareItsExchanges(t *testing.T) {
	e, file := newTokenEndpoint(t), subjectFile(t)
	first := newConfiguration(t)
	var gates []*Handler
	for _, name := range []string{"a", "b", "c"} {
		h, err := first.withIdentity(t, e, name, file)
		if err != nil {
			t.Fatal(err)
		}
		gates = append(gates, h)
	}
	second := newConfiguration(t)
	again, err := second.withIdentity(t, e, "a", file)
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range append(gates, again) {
		if got := presents(t, h); got != "Bearer upstream-token-0" {
			t.Errorf("gate %s presents %s", h.Name, got)
		}
	}
	first.discard()
	if got := presents(t, again); got != "Bearer upstream-token-0" || e.exchanges() != 1 {
		t.Errorf("after the reload it presents %s, after %d exchanges", got, e.exchanges())
	}
	key := again.credential.identity.key
	second.discard()
	if n, _ := exchangers.References(key); n != 0 {
		t.Errorf("%d configs still have the identity", n)
	}
}

// An alert would fire on it, and nothing could end that.
func TestAGateThatHasAKeyInPlaceOfItsIdentityTellsOfNoTokensEnd(t *testing.T) {
	e, file := newTokenEndpoint(t), subjectFile(t)
	former := newConfiguration(t)
	before, err := former.withIdentity(t, e, "a", file)
	if err != nil {
		t.Fatal(err)
	}
	presents(t, before)
	now := newConfiguration(t)
	now.mustLoad(t, "a", "")
	former.discard()
	if left := metrics.identityEnd.DeletePartialMatch(prometheus.Labels{"gate": "a"}); left > 0 {
		t.Error("there is still an end of a token that nobody presents")
	}
}

// Whoever reloads with a new request token means it: the former may be dead.
func TestAnotherRequestTokenForGitHubIsAnotherIdentity(t *testing.T) {
	e := newTokenEndpoint(t)
	var mu sync.Mutex
	var presented []string
	github := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		presented = append(presented, r.Header.Get("Authorization"))
		_, _ = w.Write([]byte(`{"value": "the-jobs-token"}`))
	}))
	t.Cleanup(github.Close)
	load := func(requestToken string) *Handler {
		t.Helper()
		t.Setenv("GATE_TEST_REQUEST_TOKEN", requestToken)
		c := newConfiguration(t)
		c.route("default")
		module, err := c.ctx.LoadModuleByID("http.handlers.responses_proxy_gate", json.RawMessage(fmt.Sprintf(
			`{"upstream_identity": {"provider": "idp", "service_account": "sa", "endpoint": %q,
				"github_actions": {"request_url": %q, "request_token": "{env.GATE_TEST_REQUEST_TOKEN}"}}}`, e.URL, github.URL)))
		if err != nil {
			t.Fatal(err)
		}
		return module.(*Handler)
	}
	for i, reload := range []struct{ requestToken, presents string }{
		{"first-request-token", "Bearer upstream-token-0"},
		{"first-request-token", "Bearer upstream-token-0"},
		{"second-request-token", "Bearer upstream-token-1"},
	} {
		if got := presents(t, load(reload.requestToken)); got != reload.presents {
			t.Errorf("load %d presents %s, want %s", i, got, reload.presents)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"Bearer first-request-token", "Bearer second-request-token"}; !slices.Equal(presented, want) {
		t.Errorf("GitHub was asked with %q, want %q", presented, want)
	}
}

func TestAGateThatGetsNoTokenDoesNotStartAndSaysWhy(t *testing.T) {
	e, file := newTokenEndpoint(t), subjectFile(t)
	e.fails(http.StatusBadRequest)
	_, err := newConfiguration(t).withIdentity(t, e, "refused", file)
	if err == nil || !strings.Contains(err.Error(), "gate refused: upstream_identity: there is no token to serve with") ||
		!strings.Contains(err.Error(), "status 400 invalid_grant") {
		t.Errorf("the endpoint refuses: %v", err)
	}
	if err := os.Chmod(file, 0o640); err != nil { // (the group may read it)
		t.Fatal(err)
	}
	e.fails(0)
	if _, err := newConfiguration(t).withIdentity(t, e, "group", file); err != nil {
		t.Error(err)
	}
	_, err = newConfiguration(t).withIdentity(t, e, "nofile", file+".gone")
	if err == nil || !strings.Contains(err.Error(), "upstream_identity: ") || e.exchanges() != 2 {
		t.Errorf("no file: %v, after %d exchanges", err, e.exchanges())
	}
}

func TestWhatAnIdentityLacksIsSaid(t *testing.T) {
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_URL", "")
	t.Setenv("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "")
	file := strconv.Quote(subjectFile(t))
	for options, says := range map[string]string{
		`"upstream_identity": {"provider": "p", "service_account": "s"}`:                                                                                      "one of token_file and github_actions",
		`"upstream_identity": {"provider": "p", "service_account": "s", "github_actions": {}}`:                                                                "the permission id-token: write",
		`"upstream_identity": {"service_account": "s", "token_file": ` + file + `}`:                                                                           "provider",
		`"upstream_identity": {"provider": "p", "token_file": ` + file + `}`:                                                                                  "service_account",
		`"upstream_identity": {"provider": "p", "service_account": "s", "token_file": "nopath"}`:                                                              "this is not a path",
		`"upstream_identity": {"provider": "p", "service_account": "s", "token_file": ` + file + `, "endpoint": "http://auth.openai.com"}`:                    "in the clear",
		`"upstream_identity": {"provider": "p", "service_account": "s", "github_actions": {"request_url": "http://a.example", "request_token": "{env.X_T}"}}`: "request_token",
		`"upstream_bearer_file": ` + file + `, "upstream_identity": {"provider": "p", "service_account": "s", "token_file": ` + file + `}`:                    "more than one of",
	} {
		c := newConfiguration(t)
		c.route("default")
		if _, err := c.ctx.LoadModuleByID("http.handlers.responses_proxy_gate", json.RawMessage("{"+options+"}")); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v, want it to say %q", options, err, says)
		}
	}
}

// Exactly one exchange for the token that is refused; and what comes after it
// is sent with another.
func TestATokenThatTheUpstreamRefusesIsExchangedAndTheNextRequestSentWithAnother(t *testing.T) {
	e := newTokenEndpoint(t)
	h, err := newConfiguration(t).withIdentity(t, e, "default", subjectFile(t))
	if err != nil {
		t.Fatal(err)
	}
	test, logs := testGate()
	test.credential = h.credential
	d := &deadKey{Handler: test, good: "upstream-token-1"}
	d.asks(t, http.StatusBadRequest, 1, nil)
	d.asks(t, http.StatusOK, 3, nil)
	d.saw(t, 4)
	if e.exchanges() != 2 || logs.FilterMessageSnippet("exchanged for another token").Len() != 1 {
		t.Errorf("%d exchanges; logged %v", e.exchanges(), logs.All())
	}
	for _, entry := range logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, "upstream-token") || strings.Contains(text, "the-workloads-token") {
			t.Errorf("logged %s", text)
		}
	}
}

// The token lives on: an endpoint that fails refuses nobody.
func TestAnEndpointThatFailsRefusesNobodyWhileTheTokenLives(t *testing.T) {
	e := newTokenEndpoint(t)
	h, err := newConfiguration(t).withIdentity(t, e, "default", subjectFile(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range []int{http.StatusServiceUnavailable, http.StatusForbidden} {
		e.fails(status)
		h.credential.identity.Renew()
		if got := presents(t, h); got != "Bearer upstream-token-0" {
			t.Errorf("while the endpoint answers %d, %s is presented", status, got)
		}
	}
	if e.exchanges() < 2 {
		t.Error("the endpoint was not asked")
	}
}

func TestOnlyAnEndpointThatRefusesTheIdentityEndsACallersTries(t *testing.T) {
	for status, want := range map[int]*refusal{
		http.StatusForbidden: errUpstreamUnauthorized, http.StatusServiceUnavailable: errIdentityUnavailable,
		http.StatusFound: errIdentityUnavailable, http.StatusCreated: errIdentityUnavailable, // as a proxy's page answers
	} {
		e := newTokenEndpoint(t)
		e.fails(status)
		exchanger := identity.Start(identity.Config{
			Endpoint: e.URL, Provider: "idp", ServiceAccount: "sa", Source: identity.TokenFile{Path: subjectFile(t)},
		})
		t.Cleanup(exchanger.Stop)
		c := &credential{identity: &followedIdentity{Exchanger: exchanger}}
		if got := c.await(t.Context()); got != want {
			t.Errorf("while the endpoint answers %d, a caller gets %v, want %v", status, got, want)
		}
	}
}
