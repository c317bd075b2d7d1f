//go:build unix

package browser

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// battle is an attacker, the browser that visits it, and whom it attacks.
type battle struct {
	attacker *attacker
	browser  context.Context

	strict   *gatetest.Gate // the command, as it comes
	open     *gatetest.Gate // a gate whose routes are no obstacle, and that pages of app.example may call
	controls []*control
}

const everythingOpen = `
		allow_origin https://app.example
		allow_route POST /v1/responses
		allow_route GET /v1/responses any_query
		allow_route PUT /v1/responses
		allow_route DELETE /v1/responses
		shutdown_endpoint`

func startBattle(t *testing.T) *battle {
	t.Helper()
	a := startAttacker(t)
	b := &battle{attacker: a, browser: startBrowser(t, a)}
	b.strict = gatetest.StartCommand(t, newUpstream(t), gatetest.Site{}, gatetest.Launch{})
	b.open = gatetest.StartGate(t, newUpstream(t), gatetest.Site{Gate: everythingOpen})
	b.controls = append(startOriginal(t), startStock(t))
	return b
}

// victim is what a page attacks: an address, and the token, if it has got hold
// of one. Each has a wire of its own, so it is known what it was sent.
type victim struct {
	URL   string `json:"url"`
	Token string `json:"token"`

	who     string
	wire    *wire
	path    string
	addr    string
	control *control // nil for a gate
}

// victims are all that an attack is tried on: gates, asked with right and
// wrong paths and tokens, and the controls.
func (b *battle) victims(t *testing.T) []victim {
	t.Helper()
	victims := []victim{
		{who: "the gate", addr: b.strict.Addr, path: "/v1/responses"},
		{who: "the gate, for a page with the token", addr: b.strict.Addr, path: "/v1/responses", Token: b.strict.Token},
		{who: "the gate, on a wrong path", addr: b.strict.Addr, path: "/v1/nothing"},
		{who: "an open gate, for a page with the token", addr: b.open.Addr, path: "/v1/responses", Token: b.open.Token},
		{who: "an open gate, for a page with a wrong token", addr: b.open.Addr, path: "/v1/responses", Token: b.strict.Token},
		{who: "an open gate's shutdown, for a page with the token", addr: b.open.Addr, path: "/shutdown", Token: b.open.Token},
	}
	for _, control := range b.controls {
		victims = append(victims, victim{who: control.name, addr: control.addr, path: "/v1/responses", control: control})
	}
	for i := range victims {
		victims[i].connect(t, b.attacker)
	}
	return victims
}

// connect gives the victim its wire, and the address of that.
func (victim *victim) connect(t *testing.T, a *attacker) {
	t.Helper()
	victim.wire = a.wire(t, victim.addr)
	victim.URL = "http://127.0.0.1:" + victim.wire.port + victim.path
}

// nothingCameThrough fails the test if an attack reached the upstream of a
// gate. A request with the token does: so it would have been seen.
func (b *battle) nothingCameThrough(t *testing.T) {
	t.Helper()
	for _, gate := range []*gatetest.Gate{b.strict, b.open} {
		gate.Up.SawNothing(t)
		if got := gate.Do(t); got.Status != http.StatusOK || !strings.Contains(got.Body, treasure) {
			t.Errorf("after the attacks, a request with the token got %d %s", got.Status, got.Body)
		}
		gate.Up.Only(t).HasKey(t)
	}
}
