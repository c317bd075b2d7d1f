package responsesproxygate

import (
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	_ "github.com/caddyserver/caddy/v2/modules/filestorage" // storage file_system
	"github.com/prometheus/client_golang/prometheus"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// withStorage is a configuration whose storage is this folder.
func withStorage(t *testing.T, folder string) *configuration {
	t.Helper()
	storage, err := json.Marshal(map[string]string{"module": "file_system", "root": folder})
	if err != nil {
		t.Fatal(err)
	}
	return configurationOf(t, &caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}, StorageRaw: storage})
}

const sharing = `, "shared_clients": {}`

// starts loads a gate with shared clients and starts it.
func (c *configuration) starts(t *testing.T, name, members string) *Handler {
	t.Helper()
	h := c.mustLoad(t, name, members)
	for _, caller := range h.callers {
		caller.start(h.config)
	}
	h.roster.start(h.config)
	return h
}

func addsTo(t *testing.T, h *Handler, client string) (token string) {
	t.Helper()
	token = secret.NewToken().Reveal()
	if err := h.roster.add(t.Context(), client, secret.DigestOf(token), 0); err != nil {
		t.Fatal(err)
	}
	return token
}

func TestAReloadKeepsWhatIsKnownOfSharedClients(t *testing.T) {
	folder := t.TempDir()
	running := withStorage(t, folder)
	first := running.starts(t, t.Name(), sharing)
	token := addsTo(t, first, "ci")
	session, done := first.roster.clients()[0].sessions.begin(t.Context())
	defer done()
	// An outage: only what is known can be of help.
	if err := os.Rename(folder, folder+"-away"); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		next := withStorage(t, folder)
		h := next.starts(t, t.Name(), `, "shared_clients": {"sync_every": "1h"}`)
		running.discard()
		if user, ok := passes(t, h, token); !ok || user != "ci" {
			t.Errorf("after a reload it passes: %t, as %q", ok, user)
		}
		running = next
	}
	if session.Err() != nil {
		t.Error("a reload ends its WebSocket")
	}
}

func TestSharedClientsPassAsSoonAsAGateStarts(t *testing.T) {
	folder := t.TempDir()
	first := withStorage(t, folder)
	token := addsTo(t, first.starts(t, t.Name(), sharing), "ci")
	first.discard()
	if got, _ := rosters.References(t.Name()); got != 0 {
		t.Fatalf("%d references are left", got)
	}
	h := withStorage(t, folder).mustLoad(t, t.Name(), sharing)
	if user, ok := passes(t, h, token); !ok || user != "ci" {
		t.Errorf("it passes: %t, as %q", ok, user)
	}
	if _, ok := passes(t, h, secret.NewToken().Reveal()); ok {
		t.Error("a guess passes")
	}
}

func TestOfAnotherStorageNothingIsKnown(t *testing.T) {
	running := withStorage(t, t.TempDir())
	first := running.starts(t, t.Name(), sharing)
	token := addsTo(t, first, "ci")
	failed := withStorage(t, t.TempDir())
	failed.mustLoad(t, t.Name(), sharing)
	failed.discard()
	if _, ok := passes(t, first, token); !ok {
		t.Error("a reload that fails takes its access away")
	}
	next := withStorage(t, t.TempDir())
	h := next.starts(t, t.Name(), sharing)
	running.discard()
	if _, ok := passes(t, h, token); ok {
		t.Error("a client of the former storage passes")
	}
	other := addsTo(t, h, "other")
	if user, ok := passes(t, h, other); !ok || user != "other" {
		t.Errorf("a client of the storage passes: %t, as %q", ok, user)
	}
}

func TestWithoutTheOptionSharedClientsAreRefusedAndTheirSessionsEnd(t *testing.T) {
	folder := t.TempDir()
	running := withStorage(t, folder)
	first := running.starts(t, t.Name(), sharing)
	token := addsTo(t, first, "ci")
	session, done := first.roster.clients()[0].sessions.begin(t.Context())
	defer done()
	h := withStorage(t, folder).starts(t, t.Name(), "")
	running.discard()
	for _, gate := range []*Handler{first, h} {
		if _, ok := passes(t, gate, token); ok {
			t.Error("it passes")
		}
	}
	if session.Err() == nil {
		t.Error("its WebSocket goes on")
	}
}

func TestTheLoopOfARosterEndsWithItsGate(t *testing.T) {
	folder := t.TempDir()
	c := withStorage(t, folder)
	f := c.starts(t, t.Name(), sharing).roster
	c.discard()
	select {
	case <-f.stopped:
	case <-time.After(30 * time.Second):
		t.Error("it goes on")
	}
}

func TestGatesWithAnyNameKeepTheirClientsToThemselves(t *testing.T) {
	folder := t.TempDir()
	running := withStorage(t, folder)
	for _, name := range []string{".", "..", "a", "a.clients"} {
		addsTo(t, running.starts(t, name, sharing), "ci")
	}
	found, err := filepath.Glob(filepath.Join(folder, "responses_proxy_gate", "*", "ci.json"))
	if err != nil || len(found) != 4 {
		t.Errorf("the records are %q, %v", found, err)
	}
}

func TestSharedClientsAreNotReadOftenerThanTheStorageBears(t *testing.T) {
	for option, says := range map[string]string{`"999ms"`: "once a second at most", `"-5s"`: "once a second at most"} {
		_, err := withStorage(t, t.TempDir()).load(t.Name(), fmt.Sprintf(`, "shared_clients": {"sync_every": %s}`, option))
		if err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("sync_every %s: %v", option, err)
		}
	}
}

// Shared clients come and go while a config runs. What the gate counts and
// writes of them must not rely on those that were there when it was loaded.
func TestASharedClientThatAsksForTooMuchIsRefusedLikeAnyOther(t *testing.T) {
	h := withStorage(t, t.TempDir()).starts(t, t.Name(), sharing)
	token := addsTo(t, h, "ci")
	for range 2 * floodLimit {
		r := goodRequest()
		r.Header["Authorization"] = []string{"Bearer " + token}
		r.RequestURI, r.URL.Path = "/v1/files", "/v1/files"
		w := httptest.NewRecorder()
		if err := h.ServeHTTP(w, r, caddyhttp.HandlerFunc(answerNothing)); err != nil {
			t.Fatal(err)
		}
		if got := w.Header().Get(codeHeaderName); got != "route_not_allowed" {
			t.Fatalf("%d %q", w.Code, got)
		}
	}
}

// A fleet moves a client to the storage replica by replica: some have it in
// their config when it is already shared.
func TestAClientThatMovesToTheStorageIsStillCounted(t *testing.T) {
	watch := prometheus.NewRegistry()
	if err := registerMetrics(watch); err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	first := withStorage(t, folder)
	token := addsTo(t, first.starts(t, t.Name(), sharing), "ci")
	both := withStorage(t, folder)
	both.starts(t, t.Name(), sharing+`, "server_info": {"path": "`+filepath.ToSlash(filepath.Join(folder, "info.json"))+`"}, "client": [{"name": "ci"}]`)
	first.discard()
	h := withStorage(t, folder).starts(t, t.Name(), sharing)
	both.discard()
	r := goodRequest()
	r.Header["Authorization"] = []string{"Bearer " + token}
	serveTo(t, h, r, answerNothing)
	counted(t, watch, t.Name(), map[string]float64{
		"requests_total ci forwarded": 1, "upstream_responses_total ci 2xx": 1,
	})
}
