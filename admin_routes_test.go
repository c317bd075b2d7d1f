package responsesproxygate

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// adminEndpoint answers as Caddy's admin endpoint does, after its own checks.
type adminEndpoint struct {
	mux  *http.ServeMux
	logs *observer.ObservedLogs
}

func newAdminEndpoint() *adminEndpoint {
	core, logs := observer.New(zap.DebugLevel)
	endpoint := &adminEndpoint{mux: http.NewServeMux(), logs: logs}
	for _, route := range (&adminAPI{logger: zap.New(core)}).Routes() {
		endpoint.mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := route.Handler.ServeHTTP(w, r); err != nil {
				failure := caddy.APIError{HTTPStatus: http.StatusInternalServerError}
				errors.As(err, &failure)
				w.WriteHeader(failure.HTTPStatus)
				_, _ = fmt.Fprint(w, failure.Err)
			}
		})
	}
	return endpoint
}

func (e *adminEndpoint) do(method, path, body string, edits ...func(*http.Request)) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, "/responses_proxy_gate/"+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, edit := range edits {
		edit(r)
	}
	w := httptest.NewRecorder()
	e.mux.ServeHTTP(w, r)
	return w
}

// clientAt is the path of a caller that rotating made.
func clientAt(c *configuredCaller) string {
	return "gates/" + url.PathEscape(c.id.gate) + "/clients/" + c.name
}

func TestTheAdminEndpointTakesNothingThatItDoesNotUnderstand(t *testing.T) {
	c := rotating(t, publication{})
	token, client := c.inFile(t), clientAt(c)
	withType := func(values ...string) func(*http.Request) {
		return func(r *http.Request) { r.Header["Content-Type"] = values }
	}
	for name, attempt := range map[string]struct {
		method, path, body string
		edit               func(*http.Request)
		status             int
	}{
		"an unknown path":                {http.MethodGet, "", "", nil, 404},
		"a path that goes on":            {http.MethodPost, client + "/rotate/now", "", nil, 404},
		"a path with a slash at its end": {http.MethodPost, client + "/rotate/", "", nil, 404},
		"an unknown action":              {http.MethodPost, client + "/rotat", "", nil, 404},
		"an unknown gate":                {http.MethodPost, "gates/other/clients/codex/rotate", "", nil, 404},
		"an unknown gate as a whole":     {http.MethodPost, "gates/other/rotate", "", nil, 404},
		"an unknown client":              {http.MethodPost, "gates/" + t.Name() + "/clients/other/rotate", "", nil, 404},
		"a client that is not listed":    {http.MethodPost, "gates/" + t.Name() + "/clients/" + t.Name() + "/revoke", "", nil, 404},
		"a name with an escaped slash":   {http.MethodPost, "gates/" + t.Name() + "%2Fclients/codex/rotate", "", nil, 404},
		"a rotation by GET":              {http.MethodGet, client + "/rotate", "", nil, 405},
		"a revocation by DELETE":         {http.MethodDelete, client + "/revoke", "", nil, 405},
		"a list by POST":                 {http.MethodPost, "gates", "", nil, 405},
		"a grace in the query":           {http.MethodPost, client + "/rotate?grace=0s", "", nil, 400},
		"a misspelt option":              {http.MethodPost, client + "/rotate", `{"grase":"0s"}`, nil, 400},
		"a grace without a unit":         {http.MethodPost, client + "/rotate", `{"grace":"5"}`, nil, 400},
		"a grace that is a number":       {http.MethodPost, client + "/rotate", `{"grace":300}`, nil, 400},
		"a negative grace":               {http.MethodPost, client + "/rotate", `{"grace":"-5m"}`, nil, 400},
		"a list as the body":             {http.MethodPost, client + "/rotate", `["0s"]`, nil, 400},
		"two objects":                    {http.MethodPost, client + "/rotate", `{}{"grace":"0s"}`, nil, 400},
		"an option twice":                {http.MethodPost, client + "/rotate", `{"grace":"0s","grace":"5m"}`, nil, 400},
		"an option in other letters":     {http.MethodPost, client + "/rotate", `{"Grace":"0s"}`, nil, 400},
		"half an object":                 {http.MethodPost, client + "/rotate", `{"grace":"0s"`, nil, 400},
		"an option for a revocation":     {http.MethodPost, client + "/revoke", `{"grace":"0s"}`, nil, 400},
		"a body without end":             {http.MethodPost, client + "/rotate", `{"grace":"` + strings.Repeat("0", maxAdminBody), nil, 413},
		"a body that a form can send":    {http.MethodPost, client + "/rotate", `{"grace":"0s"}`, withType("text/plain"), 415},
		"a body of no type":              {http.MethodPost, client + "/revoke", `{}`, withType(), 415},
		"a body of two types":            {http.MethodPost, client + "/revoke", `{}`, withType("application/json", "text/plain"), 415},
	} {
		t.Run(name, func(t *testing.T) {
			edit := attempt.edit
			if edit == nil {
				edit = func(*http.Request) {}
			}
			got := newAdminEndpoint().do(attempt.method, attempt.path, attempt.body, edit)
			if got.Code != attempt.status || got.Body.Len() == 0 {
				t.Errorf("got %d %s, want %d and a reason", got.Code, got.Body, attempt.status)
			}
			if allow := got.Header().Get("Allow"); (got.Code == http.StatusMethodNotAllowed) != (allow != "") {
				t.Errorf("status %d, Allow %q", got.Code, allow)
			}
			if c.inFile(t) != token || !c.takes(token) || len(c.ring.tokens()) != 1 {
				t.Error("the token was changed")
			}
		})
	}
}

// Caddy logs the errors of its admin endpoint.
func TestAnErrorOfTheAdminEndpointHasNoSecretThatWasSentByMistake(t *testing.T) {
	c := rotating(t, publication{})
	for _, body := range []string{
		`"SECRET"`, `["SECRET"]`, `{"grace":["SECRET"]}`, `{"grace":{"":"SECRET"}}`, `SECRET`, `"SECRET`, `{"grace":SECRET}`, `{"grace":"0s"}"SECRET"`, `{"grace":"0s"} SECRET`,
		`{"SECRET`, `{"grace":"\ud800SECRET"}`,
	} {
		got := newAdminEndpoint().do(http.MethodPost, clientAt(c)+"/rotate", strings.ReplaceAll(body, "SECRET", testToken))
		if got.Code != http.StatusBadRequest || strings.Contains(got.Body.String(), testToken[:8]) {
			t.Errorf("%s: got %d %s", body, got.Code, got.Body)
		}
	}
}

func TestARotationByTheAdminEndpointHasTheGraceThatWasAskedFor(t *testing.T) {
	for name, a := range map[string]struct {
		rotation *rotation
		body     string
		want     time.Duration
	}{
		"the body's":               {&rotation{interval: time.Hour, grace: time.Minute}, `{"grace":"20s"}`, 20 * time.Second},
		"none":                     {&rotation{interval: time.Hour, grace: time.Minute}, `{"grace":"0s"}`, 0},
		"a day":                    {nil, `{"grace":"1d"}`, 24 * time.Hour},
		"the config's":             {&rotation{interval: time.Hour, grace: time.Minute}, ``, time.Minute},
		"the config's, by no word": {&rotation{interval: time.Hour, grace: time.Minute}, `{}`, time.Minute},
		"the usual one":            {nil, ``, defaultGrace},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := rotating(t, publication{rotation: a.rotation})
				former := c.inFile(t)
				got := newAdminEndpoint().do(http.MethodPost, clientAt(c)+"/rotate", a.body)
				if got.Code != http.StatusOK {
					t.Fatalf("got %d %s", got.Code, got.Body)
				}
				if token := c.inFile(t); token == former || !c.takes(token) {
					t.Error("there is no new token, or it is refused")
				}
				if a.want > 0 {
					time.Sleep(a.want - time.Nanosecond)
					if !c.takes(former) {
						t.Error("the former token ends early")
					}
					time.Sleep(time.Nanosecond)
				}
				if c.takes(former) {
					t.Error("the former token ends late")
				}
			})
		})
	}
}

func TestWhatCannotBeRotatedIsRefusedWithItsReason(t *testing.T) {
	for name, a := range map[string]struct {
		publication publication
		before      func(*configuredCaller)
		status      int
		says        string
	}{
		"a fixed token": {publication{fixed: secret.New(testToken)}, func(*configuredCaller) {}, 409, "fixed"},
		"after its end": {publication{}, func(c *configuredCaller) { c.current.ends = time.Now() }, 409, "expired"},
		"too often": {publication{}, func(c *configuredCaller) {
			for range maxAccepted - 1 {
				if err := c.rotate(time.Hour); err != nil {
					panic(err)
				}
			}
		}, 429, "grace 0"},
		"before it is told": {publication{}, func(c *configuredCaller) { c.current = publication{} }, 404, "not in the running config"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := rotating(t, a.publication)
				a.before(c)
				endpoint := newAdminEndpoint()
				got := endpoint.do(http.MethodPost, clientAt(c)+"/rotate", "")
				if got.Code != a.status || !strings.Contains(got.Body.String(), a.says) {
					t.Errorf("got %d %s, want %d and %q", got.Code, got.Body, a.status, a.says)
				}
				if endpoint.logs.FilterMessage("token rotated").Len() != 0 {
					t.Error("the log says that it was")
				}
			})
		})
	}
}

func TestRotatingAWholeGateLetsNobodyInAgain(t *testing.T) {
	active := rotatingClient(t, "active", publication{})
	fixed := rotatingClient(t, "fixed", publication{fixed: secret.New(testToken)})
	revoked := rotatingClient(t, "revoked", publication{})
	other := rotatingClient(t, "other", publication{})
	former, formerOther := active.inFile(t), other.inFile(t)
	endpoint := newAdminEndpoint()
	for range 2 { // revoking again changes nothing
		if got := endpoint.do(http.MethodPost, clientAt(revoked)+"/revoke", ""); got.Code != http.StatusOK {
			t.Fatalf("revoke: %d %s", got.Code, got.Body)
		}
	}
	got := endpoint.do(http.MethodPost, "gates/"+t.Name()+"/rotate", `{"grace":"0s"}`)
	var answer adminapi.Gate
	if err := json.Unmarshal(got.Body.Bytes(), &answer); err != nil || got.Code != http.StatusOK {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	var names []string
	for _, client := range answer.Clients {
		names = append(names, client.Name)
	}
	if fmt.Sprint(names) != "[active other]" {
		t.Errorf("it rotated %v", names)
	}
	if active.takes(former) || other.takes(formerOther) || !active.takes(active.inFile(t)) || !other.takes(other.inFile(t)) {
		t.Error("a former token is taken, or a new one is not")
	}
	if revoked.inFile(t) != "" || len(revoked.ring.tokens()) != 0 {
		t.Error("the revoked client has a token again")
	}
	if !fixed.takes(testToken) {
		t.Error("the fixed token ended")
	}
}

func TestAGateWithNothingToRotateSaysSo(t *testing.T) {
	c := rotating(t, publication{fixed: secret.New(testToken)})
	if got := newAdminEndpoint().do(http.MethodPost, "gates/"+c.id.gate+"/rotate", ""); got.Code != http.StatusConflict {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
}

// For a disk that is full.
func TestALeakedTokenThatCannotBeReplacedEndsAndTheAnswerSaysSo(t *testing.T) {
	c := rotating(t, publication{})
	leaked := c.inFile(t)
	elsewhere, err := infofile.New(filepath.Join(c.file.Path(), "below-a-file.json"), "")
	if err != nil {
		t.Fatal(err)
	}
	c.current.file = elsewhere
	got := newAdminEndpoint().do(http.MethodPost, clientAt(c)+"/rotate", `{"grace":"0s"}`)
	if got.Code != http.StatusInternalServerError || !strings.Contains(got.Body.String(), "the tokens have ended") {
		t.Errorf("got %d %s", got.Code, got.Body)
	}
	if c.takes(leaked) {
		t.Error("it is still taken")
	}
	c.current.file = c.file
}

func TestTheStatusTellsWhatAnOperatorAsks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := publication{rotation: &rotation{interval: 2 * time.Hour, grace: time.Hour}, ends: time.Now().Add(24 * time.Hour)}
		c := rotatingClient(t, "codex", p)
		fixed := rotatingClient(t, "ci", publication{fixed: secret.New(testToken)})
		began := time.Now().UTC()
		_, done := c.sessions.begin(t.Context())
		defer done()
		time.Sleep(time.Hour)
		c.usage.count()
		used := time.Now().UTC()
		endpoint := newAdminEndpoint()
		if got := endpoint.do(http.MethodPost, clientAt(c)+"/rotate", `{"grace":"30m"}`); got.Code != http.StatusOK {
			t.Fatalf("rotate: %d %s", got.Code, got.Body)
		}
		time.Sleep(time.Minute)
		at := func(when time.Time) string { return when.Format(time.RFC3339) }
		want := fmt.Sprintf(`{"gates":[{"name":%q,"clients":[`+
			`{"name":"ci","kind":"fixed","state":"active","began":%q,"age_seconds":3660,`+
			`"accepted_tokens":1,"accepted_requests":0,"open_websockets":0,"server_info":%q},`+
			`{"name":"codex","kind":"generated","state":"active","began":%[2]q,"age_seconds":3660,"rotated":%[4]q,"token_age_seconds":60,`+
			`"next_rotation":%q,"expires":%q,"accepted_tokens":2,"accepted_requests":1,"last_used":%[4]q,"open_websockets":1,"server_info":%[7]q}]}]}`,
			t.Name(), at(began), fixed.file.Path(), at(used), at(used.Add(2*time.Hour)), at(began.Add(24*time.Hour)), c.file.Path())
		got := endpoint.do(http.MethodGet, "gates", "")
		if strings.TrimSpace(got.Body.String()) != want {
			t.Errorf("got  %s\nwant %s", got.Body, want)
		}
		if got.Header().Get("Content-Type") != "application/json" || got.Header().Get("Cache-Control") != "no-store" {
			t.Errorf("the header is %v", got.Header())
		}
		time.Sleep(29 * time.Minute) // the end of the former token's grace
		if got := c.status(time.Now()); got.AcceptedTokens != 1 || got.State != adminapi.StateActive {
			t.Errorf("after the grace: %+v", got)
		}
		if err := fixed.revoke(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(24 * time.Hour)
		var answer adminapi.Gates
		if err := json.Unmarshal(endpoint.do(http.MethodGet, "gates", "").Body.Bytes(), &answer); err != nil {
			t.Fatal(err)
		}
		for i, state := range []string{adminapi.StateRevoked, adminapi.StateExpired} {
			if s := answer.Gates[0].Clients[i]; s.State != state || s.AcceptedTokens != 0 || s.NextRotation != nil {
				t.Errorf("%s: %+v", state, s)
			}
		}
	})
}

// Whoever reads answers and logs must not be able to call the gate, nor to
// test guesses of tokens.
func TestNoAnswerAndNoLogOfTheAdminEndpointHasATokenOrItsDigest(t *testing.T) {
	c := rotating(t, publication{})
	fixed := rotatingClient(t, "ci", publication{fixed: secret.New(testToken)})
	endpoint := newAdminEndpoint()
	secrets, said := []string{c.inFile(t), testToken}, ""
	for _, call := range []struct{ method, path, body string }{
		{http.MethodGet, "gates", ""},
		{http.MethodPost, clientAt(c) + "/rotate", `{"grace":"5m"}`},
		{http.MethodPost, clientAt(fixed) + "/rotate", ""},
		{http.MethodPost, "gates/" + t.Name() + "/rotate", ""},
		{http.MethodPost, clientAt(c) + "/revoke", ""},
		{http.MethodPost, clientAt(fixed) + "/revoke", ""},
		{http.MethodPost, clientAt(c) + "/rotate", `{"grace":"0s"}`},
		{http.MethodGet, "gates", ""},
	} {
		got := endpoint.do(call.method, call.path, call.body)
		said += fmt.Sprintf("%v\n%s\n", got.Header(), got.Body)
		secrets = append(secrets, c.told().Reveal())
	}
	for _, entry := range endpoint.logs.All() {
		said += fmt.Sprintf("%s %s %v\n", entry.Level, entry.Message, entry.ContextMap())
	}
	for _, want := range []string{"info token rotated map[client:codex", "info access revoked map[client:ci"} {
		if !strings.Contains(said, want) {
			t.Errorf("the log does not say %q:\n%s", want, said)
		}
	}
	for _, token := range secrets {
		digest := secret.DigestOf(token)
		for _, form := range []string{
			token, fmt.Sprintf("%x", digest), base64.StdEncoding.EncodeToString(digest[:]), base64.RawURLEncoding.EncodeToString(digest[:]),
			fmt.Sprint(digest[:8])[1:], strings.ReplaceAll(fmt.Sprint(digest[:8])[1:], " ", ","),
		} {
			if strings.Contains(said, strings.TrimSuffix(form, "]")) {
				t.Errorf("a token or its digest is told:\n%s", said)
			}
		}
	}
}

func TestTheLastRefusalsAreListedWithoutSecrets(t *testing.T) {
	const guess = "a-guess-that-could-have-been-somebodys-token-0123"
	config := newConfiguration(t)
	h := config.starts(t, "refusing", `, "client": [{"name": "ci"}]`)
	guessed := goodRequest()
	guessed.Header.Set("Authorization", "Bearer "+guess)
	guessed.URL.Path, guessed.RequestURI = "/v1/"+guess, "/v1/"+guess+"?key="+guess
	elsewhere := withToken(h, "ci")
	elsewhere.RequestURI = "/v1/files"
	elsewhere.URL.Path = "/v1/files"
	for range 30 {
		answerTo(t, h, guessed, unreached(t))
	}
	answerTo(t, h, elsewhere, unreached(t))
	newConfiguration(t).starts(t, "refusing", `, "client": [{"name": "ci"}]`)
	config.discard() // what was refused before a reload is listed, too

	got := newAdminEndpoint().do(http.MethodGet, "gates/refusing/refusals", "")
	var last adminapi.Refusals
	if err := json.Unmarshal(got.Body.Bytes(), &last); err != nil || strings.Contains(got.Body.String(), guess) {
		t.Fatalf("got %d %s", got.Code, got.Body)
	}
	if len(last.Refusals) != floodLimit+1 {
		t.Fatalf("%d are listed, want %d", len(last.Refusals), floodLimit+1)
	}
	if r := last.Refusals[0]; r.Code != "invalid_token" || r.Client != "" || r.Status != 401 || r.Path != "/v1/"+secret.Redacted && r.Path != secret.Redacted {
		t.Errorf("the first is %+v", r)
	}
	if r := last.Refusals[floodLimit]; r.Code != "route_not_allowed" || r.Client != "ci" || r.Path != "/v1/files" || r.Method != "POST" || r.RemoteAddr != elsewhere.RemoteAddr {
		t.Errorf("the last is %+v", r)
	}
	if got := newAdminEndpoint().do(http.MethodGet, "gates/nowhere/refusals", ""); got.Code != http.StatusNotFound {
		t.Errorf("of a gate that there is not: %d %s", got.Code, got.Body)
	}
}
