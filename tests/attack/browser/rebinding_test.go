//go:build unix

package browser

import (
	"slices"
	"testing"
)

// reboundVectors are what a page can do to its own origin: everything, as
// CORS has no say in it. It reads what it is answered.
func reboundVectors() []vector {
	return []vector{
		plain("a fetch", `return send(url, token, { method: 'GET', body: undefined })`, stopped, reads),
		plain("a fetch of application/json", `return send(url, token, { headers: { 'Content-Type': 'application/json' } })`, reads, reads),
		plain("a fetch that must be same-origin", `return send(url, token, { mode: 'same-origin', headers: { 'Content-Type': 'application/json' } })`, reads, reads),
		plain("a fetch that names no referrer", `return send(url, token, { referrerPolicy: 'no-referrer', headers: { 'Content-Type': 'application/json' } })`, reads, reads),
		plain("a HEAD", `const r = await fetch(url, { method: 'HEAD', headers: withToken(token) }); return r.status + [...r.headers].filter(([n]) => n !== 'date').join()`, stopped, spends),
		plain("a PUT", `return send(url, token, { method: 'PUT', headers: { 'Content-Type': 'application/json' } })`, stopped, reads),
		plain("an XMLHttpRequest", `return xhr(url, token, 'application/json')`, reads, reads),
		plain("a beacon", `return navigator.sendBeacon(url, new Blob([prompt], { type: 'application/json' })) + await answered(url)`, spends, spends),
		plain("a form into a frame that it reads", `return form(url, 'text/plain')`, reads, reads),
		plain("a frame that it reads", `const f = put('iframe', { src: url }); await happens(f, 'load'); return look(f.contentWindow)`, stopped, reads),
		plain("a window that it reads", `return popup(url, view => { view.location = url })`, stopped, reads),
		plain("an image", `return loads('img', { src: url })`, stopped, spends),
		plain("a script", `return loads('script', { src: url })`, stopped, spends),
		plain("an EventSource", `return eventSource(url)`, stopped, reads),
		plain("a WebSocket", `return webSocket(url, token)`, stopped, reads),
		plain("a worker's fetch", `const source = await (await fetch(rig + '/worker.js')).text(); return ask(new Worker(URL.createObjectURL(new Blob([source]))), url, token)`, reads, reads),
	}
}

// DNS rebinding: the attacker's name first leads to the attacker's server,
// from which the browser loads the page, and then to the victim's machine. The
// page is now same-origin with the proxy.
//
// The wire does here what the attacker's DNS does: to the browser, one host
// and port is first one server and then another, and the connections to the
// first have ended. What it sends is the same as after a second look-up:
// rebind.example as Host, and its own origin as Origin, if it sends that.
func TestAPageThatRebindsItsNameReachesNothingAndLearnsNothing(t *testing.T) {
	t.Parallel()
	b := startBattle(t)
	t.Run("attacks", func(t *testing.T) {
		for half := range slices.Chunk(reboundVectors(), 8) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				tab := newTab(t, b.browser)
				for _, v := range half {
					t.Run(v.harm, func(t *testing.T) {
						victims := b.victims(t)
						var learned []string
						for i := range victims {
							victim := &victims[i]
							victim.wire.leadTo(b.attacker.plain.Listener.Addr().String())
							home := "http://rebind.example:" + victim.wire.port
							tab.load(t, home+"/page")
							victim.wire.leadTo(victim.addr)
							victim.URL = home + victim.path
							learned = append(learned, tab.attack(t, v, victims[i:i+1])...)
							tab.closeOthers(t)
						}
						v.judge(t, victims, learned)
					})
				}
			})
		}
	})
	b.nothingCameThrough(t)
}
