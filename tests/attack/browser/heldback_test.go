//go:build unix

package browser

import (
	"net/http"
	"testing"
)

// Some requests the browser itself sends nobody: the Fetch standard forbids
// them. No proxy, gated or not, ever sees one. If a browser comes to send one,
// it belongs among the other vectors.
func TestWhatTheBrowserHoldsBackReachesNoProxy(t *testing.T) {
	t.Parallel()
	a := startAttacker(t)
	tab := newTab(t, startBrowser(t, a))
	for harm, attack := range map[string]string{
		"a same-origin fetch of another origin":  `return send(url, token, { mode: 'same-origin' })`,
		"a no-cors PUT":                          `return send(url, token, { mode: 'no-cors', method: 'PUT' })`,
		"a no-cors PATCH":                        `return send(url, token, { mode: 'no-cors', method: 'PATCH' })`,
		"a fetch that calls itself a navigation": `return send(url, token, { mode: 'navigate' })`,
		"a CONNECT":                              `return send(url, token, { method: 'CONNECT', body: undefined })`,
		"a TRACE":                                `return send(url, token, { method: 'TRACE', body: undefined })`,
		"a no-cors fetch of a stream":            `return send(url, token, { mode: 'no-cors', duplex: 'half', body: new Blob([prompt]).stream() })`,
		"a beacon of a stream":                   `return navigator.sendBeacon(url, new Blob([prompt]).stream()) || 'error TypeError'`,
		"a worker from another origin":           `return ask(new Worker(url), url, token)`,
		"a service worker from another origin":   `await navigator.serviceWorker.register(url)`,
	} {
		t.Run(harm, func(t *testing.T) {
			const marker = "/marker"
			it := victim{addr: a.plain.Listener.Addr().String(), path: "/v1/responses"}
			it.connect(t, a)
			tab.load(t, "https://attacker.example/page")
			learned := tab.attack(t, vector{attack: attack}, []victim{it})
			// What comes after it has arrived; so it would have, too.
			evaluate[string](t, tab, "send(new URL('"+marker+"', "+quoted(it.URL)+"), '', { mode: 'no-cors', method: 'GET', body: undefined })")
			exchanges, ok := it.wire.answered(patience)
			if !ok || len(exchanges) != 1 || exchanges[0].uri != marker || exchanges[0].method != http.MethodGet {
				t.Errorf("the browser sent %+v, want only the request that came after; the page learned %q", exchanges, learned)
			}
		})
	}
}
