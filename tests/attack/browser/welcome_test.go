//go:build unix

package browser

import (
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// callAndStream is what a page does that may call the gate: it asks for a
// streamed answer, and tells its server when the first event is there.
const callAndStream = `
const response = await fetch(url, {
  method: 'POST',
  headers: { 'Content-Type': 'application/json', 'Authorization': 'Bearer ' + token },
  body: '{"model":"gpt-5","input":"hi","stream":true}',
})
if (!response.ok) return response.status + ' ' + await response.text()
const reader = response.body.pipeThrough(new TextDecoderStream()).getReader()
let got = ''
for (;;) {
  const { value, done } = await reader.read()
  if (done) return got
  got += value
  if (got === 'data: one\n\n') await fetch(rig + '/tell?one')
}`

func TestAPageOfAnAllowedOriginReadsAStreamAsItComes(t *testing.T) {
	t.Parallel()
	a := startAttacker(t)
	up := gatetest.NewUpstream(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		_, _ = io.WriteString(w, "data: one\n\n")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-a.heard("one"): // the page has read it while the answer goes on
			_, _ = io.WriteString(w, "data: two\n\n")
		case <-time.After(patience):
		}
	})
	gate := gatetest.StartGate(t, up, gatetest.Site{Gate: "allow_origin https://app.example"})
	tab := newTab(t, startBrowser(t, a))
	tab.load(t, "https://app.example/page")
	it := victim{addr: gate.Addr, path: "/v1/responses", Token: gate.Token}
	it.connect(t, a)
	learned := tab.attack(t, vector{attack: callAndStream}, []victim{it})
	if want := "data: one\n\ndata: two\n\n"; !strings.HasPrefix(learned[0], want) {
		t.Errorf("the page has read %q, want %q", learned[0], want)
	}
	up.Only(t).HasKey(t)
}

func TestAnAllowedOriginOpensTheGateToNoOtherPage(t *testing.T) {
	t.Parallel()
	a := startAttacker(t)
	up := newUpstream(t)
	gate := gatetest.StartGate(t, up, gatetest.Site{Gate: "allow_origin https://app.example"})
	tab := newTab(t, startBrowser(t, a))
	_, securePort, err := net.SplitHostPort(a.secure.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	const call = `return send(url, token, { headers: { 'Content-Type': 'application/json' } })`
	for _, c := range []struct {
		who, page, attack, token string
		want                     string // what the page learns
	}{
		{"the allowed page", "https://app.example", call, gate.Token, treasure},
		{"the allowed page without the token", "https://app.example", call, "", "cors 401 missing_token"},
		{"the allowed page with another token", "https://app.example", call, strings.Repeat("A", 43), "cors 401 invalid_token"},
		{"the allowed page with text/plain", "https://app.example", `return send(url, token, { headers: { 'Content-Type': 'text/plain' } })`, gate.Token, "cors 415 content_type_not_json"},
		{"the allowed page without cors", "https://app.example", `return send(url, token, { mode: 'no-cors' })`, gate.Token, "opaque 0"},
		{"the allowed page by an image", "https://app.example", `return loads('img', { src: url })`, gate.Token, "error"},
		{"the allowed page by a link", "https://app.example", `return popup(url, view => { view.location = url })`, gate.Token, "SecurityError 0"},
		{"the allowed page's form", "https://app.example", `return form(url, 'text/plain')`, gate.Token, "SecurityError 0"},
		{"a sandboxed frame of the allowed page", "https://app.example", `return inDocument("return send(url, token, { headers: { 'Content-Type': 'application/json' } })", url, token, sandboxed)`, gate.Token, "error TypeError"},
		{"the allowed page, through another's redirect", "https://app.example", `return send('https://attacker.example' + redirect(307, url), token, { headers: { 'Content-Type': 'application/json' } })`, gate.Token, "error TypeError"},
		{"another page", "https://attacker.example", call, gate.Token, "error TypeError"},
		{"a page of a subdomain", "https://sub.app.example", call, gate.Token, "error TypeError"},
		{"a page of the domain over http", "http://app.example", call, gate.Token, "error TypeError"},
		{"a page of another port", "https://app.example:" + securePort, call, gate.Token, "error TypeError"},
	} {
		t.Run(c.who, func(t *testing.T) {
			up.Forget()
			tab.load(t, c.page+"/page")
			defer tab.closeOthers(t)
			it := victim{addr: gate.Addr, path: "/v1/responses", Token: c.token}
			it.connect(t, a)
			learned := tab.attack(t, vector{attack: c.attack}, []victim{it})
			if !strings.Contains(learned[0], c.want) {
				t.Errorf("the page learned %q, want %q", learned[0], c.want)
			}
			if exchanges, ok := it.wire.answered(patience); !ok {
				t.Errorf("the gate got %d requests, and not all have an answer", len(exchanges))
			}
			if c.want == treasure {
				up.Only(t).HasKey(t)
			} else {
				up.SawNothing(t)
			}
		})
	}
}
