package responsesproxygate

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// digestText is a token's digest as the admin endpoint takes it.
func digestText(token string) string {
	digest := secret.DigestOf(token)
	return hex.EncodeToString(digest[:])
}

func sharedAt(h *Handler, client string) string {
	return "gates/" + url.PathEscape(h.Name) + "/shared/" + client
}

func TestSharedClientsChangeThroughTheAdminEndpoint(t *testing.T) {
	endpoint := newAdminEndpoint()
	h := withStorage(t, t.TempDir()).starts(t, t.Name(), sharing)
	at := sharedAt(h, "ci")
	first, second := secret.NewToken().Reveal(), secret.NewToken().Reveal()

	added := endpoint.do(http.MethodPut, at, fmt.Sprintf(`{"sha256":%q,"expires":"30d"}`, digestText(first)))
	if added.Code != http.StatusOK || !strings.Contains(added.Body.String(), `"kind":"shared","state":"active"`) {
		t.Errorf("adding: %d %s", added.Code, added.Body)
	}
	if user, ok := passes(t, h, first); !ok || user != "ci" {
		t.Errorf("it passes: %t, as %q", ok, user)
	}
	if rotated := endpoint.do(http.MethodPost, at+"/rotate", fmt.Sprintf(`{"sha256":%q,"grace":"0s"}`, digestText(second))); rotated.Code != http.StatusOK {
		t.Errorf("rotating: %d %s", rotated.Code, rotated.Body)
	}
	if _, ok := passes(t, h, first); ok {
		t.Error("the former token passes")
	}
	if _, ok := passes(t, h, second); !ok {
		t.Error("the next token is refused")
	}

	var listed adminapi.Gates
	if err := json.Unmarshal(endpoint.do(http.MethodGet, "gates", "").Body.Bytes(), &listed); err != nil {
		t.Fatal(err)
	}
	for _, gate := range listed.Gates {
		if gate.Name != h.Name {
			continue
		}
		if len(gate.Clients) != 2 || gate.Storage == nil || gate.Storage.LastRead == nil || gate.Storage.Error != "" {
			t.Fatalf("the list has %+v", gate)
		}
		if c := gate.Clients[1]; c.Name != "ci" || c.Kind != adminapi.KindShared || c.AcceptedRequests != 2 || c.AcceptedTokens != 1 || c.Expires == nil || c.LastUsed == nil {
			t.Errorf("the list has %+v", c)
		}
	}

	if revoked := endpoint.do(http.MethodPost, "gates/"+h.Name+"/clients/ci/revoke", ""); revoked.Code != 404 || !strings.Contains(revoked.Body.String(), "client remove") {
		t.Errorf("revoking it as a client of the config: %d %s", revoked.Code, revoked.Body)
	}
	if removed := endpoint.do(http.MethodDelete, at, ""); removed.Code != http.StatusOK || removed.Body.String() != "{}\n" {
		t.Errorf("removing: %d %s", removed.Code, removed.Body)
	}
	if _, ok := passes(t, h, second); ok {
		t.Error("a removed client passes")
	}
	for _, entry := range endpoint.logs.All() {
		if text := fmt.Sprint(entry.Message, entry.ContextMap()); strings.Contains(text, first) || strings.Contains(text, second) || strings.Contains(text, digestText(first)) {
			t.Errorf("the log has %s", text)
		}
	}
}

func TestTheAdminEndpointRefusesChangesThatItCannotMake(t *testing.T) {
	endpoint := newAdminEndpoint()
	h := withStorage(t, t.TempDir()).starts(t, t.Name(), sharing)
	alone := withStorage(t, t.TempDir()).starts(t, t.Name()+"-alone", "")
	digest := fmt.Sprintf(`{"sha256":%q`, digestText(secret.NewToken().Reveal()))
	addsTo(t, h, "there")
	for name, attempt := range map[string]struct {
		method, path, body string
		status             int
	}{
		"a token in place of its digest": {http.MethodPut, sharedAt(h, "ci"), fmt.Sprintf(`{"sha256":%q}`, secret.NewToken().Reveal()), 400},
		"no digest":                      {http.MethodPut, sharedAt(h, "ci"), "", 400},
		"an end that is no duration":     {http.MethodPut, sharedAt(h, "ci"), digest + `,"expires":"soon"}`, 400},
		"an end at once":                 {http.MethodPut, sharedAt(h, "ci"), digest + `,"expires":"0s"}`, 400},
		"a misspelt option":              {http.MethodPut, sharedAt(h, "ci"), digest + `,"expire":"1h"}`, 400},
		"a grace that is none":           {http.MethodPost, sharedAt(h, "there") + "/rotate", digest + `,"grace":"-1s"}`, 400},
		"a name that is none":            {http.MethodPut, sharedAt(h, "a%2Fb"), digest + `}`, 400},
		"a name that is taken":           {http.MethodPut, sharedAt(h, "there"), digest + `}`, 409},
		"the gate's name":                {http.MethodPut, sharedAt(h, h.Name), digest + `}`, 409},
		"a client that is not there":     {http.MethodDelete, sharedAt(h, "ci"), "", 404},
		"rotating one that is not there": {http.MethodPost, sharedAt(h, "ci") + "/rotate", digest + `}`, 404},
		"a gate without shared clients":  {http.MethodPut, sharedAt(alone, "ci"), digest + `}`, 404},
		"a gate that is not there":       {http.MethodPut, "gates/none/shared/ci", digest + `}`, 404},
		"another method":                 {http.MethodPost, sharedAt(h, "ci"), digest + `}`, 405},
		"a query":                        {http.MethodDelete, sharedAt(h, "there") + "?gate=x", "", 400},
	} {
		got := endpoint.do(attempt.method, attempt.path, attempt.body)
		if got.Code != attempt.status {
			t.Errorf("%s: %d %s, want %d", name, got.Code, got.Body, attempt.status)
		}
	}
	if n := len(h.roster.clients()); n != 1 {
		t.Errorf("there are %d clients after all that", n)
	}
}

func TestASharedClientIsDisabledAndEnabledOnEveryReplica(t *testing.T) {
	folder, endpoint := t.TempDir(), newAdminEndpoint()
	h := withStorage(t, folder).starts(t, t.Name(), sharing)
	at, token := sharedAt(h, "ci"), secret.NewToken().Reveal()
	do := func(path, body, want string) {
		t.Helper()
		method := http.MethodPost
		if path == at {
			method = http.MethodPut
		}
		if got := endpoint.do(method, path, body); got.Code != http.StatusOK || !strings.Contains(got.Body.String(), want) {
			t.Errorf("%s %s: got %d %s, want %s", path, body, got.Code, got.Body, want)
		}
	}
	do(at, fmt.Sprintf(`{"sha256":%q}`, digestText(token)), `"active"`)
	do(at+"/disable", "", `"state":"disabled"`)
	if _, ok := passes(t, h, token); ok {
		t.Error("a disabled client passes")
	}
	// Another replica has what the storage has.
	if record, err := h.roster.current.store.Load(t.Context(), "ci"); err != nil || !record.Disabled {
		t.Errorf("the storage has %+v, %v", record, err)
	}
	do(at+"/rotate", fmt.Sprintf(`{"sha256":%q}`, digestText(secret.NewToken().Reveal())), `"state":"disabled"`)
	do(at+"/enable", "", `"state":"active"`)
	if _, ok := passes(t, h, token); !ok {
		t.Error("an enabled client is refused")
	}
	if got := endpoint.do(http.MethodPost, sharedAt(h, "nobody")+"/disable", ""); got.Code != http.StatusNotFound {
		t.Errorf("nobody is disabled: %d %s", got.Code, got.Body)
	}
}

func TestASharedClientsEndIsChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReplica(t, newMemoryStorage())
		token := r.adds(t, "ci", time.Hour)
		set := func(expires time.Duration) {
			t.Helper()
			if err := r.setEnd(t.Context(), "ci", expires); err != nil {
				t.Fatal(err)
			}
		}
		set(3 * time.Hour)
		time.Sleep(2 * time.Hour)
		r.wants(t, "after the former end", token, "ci")
		set(0)
		time.Sleep(48 * time.Hour)
		r.wants(t, "without an end", token, "ci")
		set(time.Minute)
		time.Sleep(time.Minute)
		r.wants(t, "after an end that came nearer", token, "")
		if err := r.setEnd(t.Context(), "ci", time.Hour); !errors.Is(err, errAccessEnded) {
			t.Errorf("the former token comes back: %v", err)
		}
	})
}

func TestAnEndIsChangedByWordsOnly(t *testing.T) {
	endpoint := newAdminEndpoint()
	h := withStorage(t, t.TempDir()).starts(t, t.Name(), sharing)
	at := sharedAt(h, "ci")
	endpoint.do(http.MethodPut, at, fmt.Sprintf(`{"sha256":%q,"expires":"1h"}`, digestText(secret.NewToken().Reveal())))
	for body, status := range map[string]int{
		`{"expires":"2h"}`: 200, `{"expires":""}`: 400, ``: 400, `{}`: 400, `{"expires":"-1h"}`: 400, `{"expires":"0s"}`: 400,
		`{"expires":"7"}`: 400, `{"expire":"1h"}`: 400,
	} {
		if got := endpoint.do(http.MethodPost, at+"/expires", body); got.Code != status {
			t.Errorf("%s: got %d %s, want %d", body, got.Code, got.Body, status)
		}
	}
	if got := endpoint.do(http.MethodPost, at+"/expires", `{"expires":"never"}`); got.Code != 200 || strings.Contains(got.Body.String(), `"expires"`) {
		t.Errorf("never: got %d %s", got.Code, got.Body)
	}
}
