package responsesproxygate

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

func TestADisabledClientIsRefusedUntilItIsEnabledAndKeepsItsToken(t *testing.T) {
	for kind, p := range map[string]publication{
		"a generated token": {},
		"a fixed token":     {fixed: secret.New(testToken)},
	} {
		t.Run(kind, func(t *testing.T) {
			c := rotating(t, p)
			token, endpoint := c.inFile(t), newAdminEndpoint()
			session, done := c.openWebSocket(t.Context())
			defer done()
			does := func(action, state string, takes bool) {
				t.Helper()
				got := endpoint.do(http.MethodPost, clientAt(c)+"/"+action, "")
				if got.Code != http.StatusOK || !strings.Contains(got.Body.String(), `"state":"`+state+`"`) {
					t.Errorf("%s: got %d %s", action, got.Code, got.Body)
				}
				if c.takes(token) != takes || c.inFile(t) != token {
					t.Errorf("%s: takes the token: %v; or the file has another", action, !takes)
				}
			}
			does("disable", adminapi.StateDisabled, false)
			if session.Err() == nil {
				t.Error("its WebSocket goes on")
			}
			does("disable", adminapi.StateDisabled, false)
			does("enable", adminapi.StateActive, true)
			does("enable", adminapi.StateActive, true)
			if got := fmt.Sprint(endpoint.logs.All()); !strings.Contains(got, "access disabled") || !strings.Contains(got, "access enabled") || strings.Contains(got, token) {
				t.Errorf("logged %s", got)
			}
		})
	}
}

func TestNeitherARotationNorAnEnablingUndoesMoreThanItIsFor(t *testing.T) {
	c := rotating(t, publication{})
	endpoint := newAdminEndpoint()
	for _, action := range []string{"disable", "rotate"} {
		if got := endpoint.do(http.MethodPost, clientAt(c)+"/"+action, ""); got.Code != http.StatusOK {
			t.Errorf("%s: got %d %s", action, got.Code, got.Body)
		}
	}
	if c.takes(c.inFile(t)) {
		t.Error("a rotation has enabled the client")
	}
	for _, action := range []string{"revoke", "enable"} {
		if got := endpoint.do(http.MethodPost, clientAt(c)+"/"+action, ""); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), `"revoked"`) {
			t.Errorf("%s: got %d %s", action, got.Code, got.Body)
		}
	}
}

func TestAReloadKeepsAClientDisabled(t *testing.T) {
	first := newConfiguration(t)
	h := first.starts(t, "disabled", `, "client": [{"name": "ci"}]`)
	if err := h.callers[0].publish(h.config, publication{logger: h.logger}); err != nil {
		t.Fatal(err)
	}
	token := h.callers[0].told().Reveal()
	if got := newAdminEndpoint().do(http.MethodPost, "gates/disabled/clients/ci/disable", ""); got.Code != http.StatusOK {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	next := newConfiguration(t).mustLoad(t, "disabled", `, "client": [{"name": "ci"}]`)
	first.discard()
	if next.callers[0].told().Reveal() != token {
		t.Error("the token is another")
	}
	if _, ok := next.policy.tokens.match(markOf(token)); ok {
		t.Error("the client passes again")
	}
}
