//go:build unix

package browser

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// origin is where a hostile page is from.
type origin struct {
	name, url string
	secure    bool // what browsers call a secure context
}

func (a *attacker) origins() []origin {
	return []origin{
		{"a page on http", "http://attacker.example", false},
		{"a page on https", "https://attacker.example", true},
		// Same-site with the proxy, for browsers; and what a browser's own
		// protection of the local network does not concern.
		{"a page that another program on this machine serves", strings.Replace(a.plain.URL, "127.0.0.1", "localhost", 1), true},
	}
}

// can reports whether a vector works from the pages of an origin.
func (o origin) can(v vector) bool {
	switch v.from {
	case securePages:
		return o.secure
	case plainPages:
		return !strings.HasPrefix(o.url, "https:")
	default:
		return true
	}
}

// Every vector is tried on the gate, with and without the token, and in the
// same page on the two proxies without a gate, where it has to work: a suite
// that cannot fail would be worth nothing.
func TestNoWebPageReachesTheUpstreamOrLearnsAnything(t *testing.T) {
	t.Parallel()
	b := startBattle(t)
	t.Run("attacks", func(t *testing.T) {
		for _, from := range b.attacker.origins() {
			t.Run(from.name, func(t *testing.T) {
				t.Parallel()
				tab := newTab(t, b.browser)
				for _, v := range allVectors() {
					if !from.can(v) {
						continue
					}
					t.Run(v.harm, func(t *testing.T) {
						victims := b.victims(t)
						tab.load(t, from.url+"/page")
						defer tab.closeOthers(t)
						v.judge(t, victims, tab.attack(t, v, victims))
					})
				}
			})
		}
	})
	b.nothingCameThrough(t)
}

func allVectors() []vector {
	return slices.Concat(fetchVectors(), elementVectors(), formVectors())
}

func TestEveryAttackWorksSomewhere(t *testing.T) {
	for _, v := range slices.Concat(allVectors(), reboundVectors()) {
		if v.original == stopped && v.stock == stopped {
			t.Errorf("%s: this attack works nowhere, and shows nothing", v.harm)
		}
	}
}

// attack runs a vector against the victims, all at once, and returns what the
// page learned of each.
func (tab tab) attack(t *testing.T, v vector, victims []victim) []string {
	t.Helper()
	learned := evaluate[[]string](t, tab, "run("+quoted(v.attack)+", "+quoted(victims)+")")
	if len(learned) != len(victims) {
		t.Fatalf("the page tells of %d victims, want %d", len(learned), len(victims))
	}
	return learned
}

// judge fails the test unless a vector did to each victim what it should.
func (v vector) judge(t *testing.T, victims []victim, learned []string) {
	t.Helper()
	for i, it := range victims {
		exchanges, ok := it.wire.answered(patience)
		if !ok {
			t.Errorf("%s: it got %d requests, and not all have an answer: this attack was none; the page learned %q", it.who, len(exchanges), learned[i])
			continue
		}
		if it.control != nil {
			if got, want := fateOf(exchanges, learned[i]), it.control.fate(v); got != want {
				t.Errorf("%s: this attack %v, want that it %v; the page learned %q", it.who, got, want, learned[i])
			}
			continue
		}
		if strings.Contains(learned[i], treasure) {
			t.Errorf("%s: the page has read %q", it.who, learned[i])
		}
		first := slices.IndexFunc(victims, func(other victim) bool { return other.addr == it.addr })
		if learned[i] != learned[first] {
			t.Errorf("the page can tell %s from %s: %q, %q", it.who, victims[first].who, learned[i], learned[first])
		}
		for _, e := range exchanges {
			e.wasRefused(t, it.who)
		}
	}
}

// fateOf is how far an attack came where there is no gate.
func fateOf(exchanges []exchange, learned string) fate {
	if strings.Contains(learned, treasure) {
		return reads
	}
	for _, e := range exchanges {
		if e.method != http.MethodOptions && !e.isForIcon() && e.answer.Header.Get(fromUpstream) != "" {
			return spends
		}
	}
	return stopped
}

// The refusals that a page may meet. Any other code would mean that the
// request got past the checks that are for pages.
var browserRefusals = []string{"origin_not_allowed", "cross_site_request", "host_not_allowed"}

// wasRefused fails the test unless the gate refused a request for coming from
// a page, in a way that no page can read.
func (e exchange) wasRefused(t *testing.T, who string) {
	t.Helper()
	code := e.answer.Header.Get("X-Responses-Proxy-Gate")
	if e.answer.StatusCode != http.StatusForbidden || !slices.Contains(browserRefusals, code) {
		t.Errorf("%s: %s %s of %s got %d %q; it came with %q", who, e.method, e.uri, e.host, e.answer.StatusCode, code, e.header)
	}
	for name := range e.answer.Header {
		if strings.HasPrefix(name, "Access-Control-") {
			t.Errorf("%s: the answer to %s %s has %s", who, e.method, e.uri, name)
		}
	}
}
