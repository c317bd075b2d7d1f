//go:build unix

package browser

// vector is one way in which a page makes a browser send a request, and what
// it comes to at the proxies that serve as controls.
type vector struct {
	harm   string // a sentence
	attack string // JavaScript, see page.js

	// What the vector does to the original proxy, and to Caddy's reverse_proxy
	// alone. A vector that does nothing to either would prove nothing.
	original, stock fate

	from pages
}

// fate is how far an attack gets.
type fate int

const (
	stopped fate = iota // the upstream hears nothing
	spends              // the upstream answers a request with the operator's key
	reads               // and the page can read the answer
)

func (f fate) String() string {
	return [...]string{"is stopped", "spends the key", "spends the key and reads the answer"}[f]
}

// pages says from which kind of page a vector works.
type pages int

const (
	everyPage   pages = iota
	securePages       // what browsers call a secure context: https, or this machine
	plainPages        // an https page may not, because of mixed content
)

func every(harm, attack string, original, stock fate) vector {
	return vector{harm, attack, original, stock, everyPage}
}

func secure(harm, attack string, original, stock fate) vector {
	return vector{harm, attack, original, stock, securePages}
}

func plain(harm, attack string, original, stock fate) vector {
	return vector{harm, attack, original, stock, plainPages}
}

// The Content-Types that a page may send without a preflight (Fetch standard,
// "CORS-safelisted request-header"), also in disguise.
var safelisted = []string{
	"text/plain", "text/plain;charset=UTF-8", "TEXT/PLAIN", "text/plain; x=application/json",
	"application/x-www-form-urlencoded", "multipart/form-data; boundary=application",
}

// Some that it may not.
var notSafelisted = []string{
	"application/json", "application/json; charset=utf-8", "text/json", "application/octet-stream",
}

// fetchVectors are the requests that a script sends itself.
func fetchVectors() []vector {
	var vectors []vector
	for _, kind := range safelisted {
		vectors = append(
			vectors,
			every("a no-cors fetch of "+kind, `return send(url, token, { mode: 'no-cors', headers: { 'Content-Type': `+quoted(kind)+` } })`, spends, spends),
			every("a cors fetch of "+kind, `return send(url, token, { headers: { 'Content-Type': `+quoted(kind)+` } })`, reads, reads),
		)
	}
	for _, kind := range notSafelisted {
		vectors = append(
			vectors,
			every("a no-cors fetch of "+kind+", which the browser turns into text/plain", `return send(url, token, { mode: 'no-cors', headers: { 'Content-Type': `+quoted(kind)+` } })`, spends, spends),
			every("a cors fetch of "+kind+", after a preflight", `return send(url, token, { headers: { 'Content-Type': `+quoted(kind)+` } })`, stopped, reads),
		)
	}
	for _, body := range []struct{ name, js string }{
		{"a Blob without a type", `new Blob([prompt])`},
		{"a Blob of text/plain", `new Blob([prompt], { type: 'text/plain' })`},
		{"a Blob of application/json", `new Blob([prompt], { type: 'application/json' })`},
		{"a Blob of text/plain that goes on as JSON", `new Blob([prompt], { type: 'text/plain;application/json' })`},
		{"a FormData", `(() => { const f = new FormData(); f.append('a', new Blob([prompt], { type: 'application/json' })); return f })()`},
		{"URLSearchParams", `new URLSearchParams({ a: prompt })`},
		{"an ArrayBuffer", `new TextEncoder().encode(prompt).buffer`},
		{"no body at all", `null`},
	} {
		vectors = append(vectors, every("a no-cors fetch with "+body.name, `return send(url, token, { mode: 'no-cors', body: `+body.js+` })`, spends, spends))
	}
	for _, policy := range []string{"no-referrer", "origin", "same-origin", "strict-origin-when-cross-origin", "unsafe-url"} {
		vectors = append(vectors, every("a no-cors fetch under the referrer policy "+policy, `return send(url, token, { mode: 'no-cors', referrerPolicy: '`+policy+`' })`, spends, spends))
	}
	for _, method := range []string{"GET", "HEAD"} {
		vectors = append(vectors, every("a no-cors "+method, `return send(url, token, { method: '`+method+`', mode: 'no-cors', body: undefined })`, stopped, spends))
	}
	for _, method := range []string{"GET", "PUT", "DELETE", "PATCH", "OPTIONS"} {
		vectors = append(vectors, every("a cors "+method, `return send(url, token, { method: '`+method+`', body: undefined })`, stopped, reads))
	}
	return append(
		vectors,
		every("a fetch that outlives its page", `return send(url, token, { mode: 'no-cors', keepalive: true })`, spends, spends),
		every("a fetch with cookies", `return send(url, token, { mode: 'no-cors', credentials: 'include' })`, spends, spends),
		every("a fetch that sets the browser's own headers", `return send(url, '', { mode: 'no-cors', headers: { 'Sec-Fetch-Site': 'none', 'Origin': '', 'Host': 'localhost', 'Authorization': 'Bearer ' + token } })`, spends, spends),
		every("a fetch through the cache", `return send(url, token, { mode: 'no-cors', method: 'GET', body: undefined, cache: 'force-cache' })`, stopped, spends),
		every("a fetch that asks for local addresses", `return send(url, token, { mode: 'no-cors', targetAddressSpace: 'loopback' })`, spends, spends),
		every("an XMLHttpRequest of text/plain", `return xhr(url, token, 'text/plain')`, reads, reads),
		every("an XMLHttpRequest of application/json", `return xhr(url, token, 'application/json')`, stopped, reads),
		every("a beacon of a string", `return navigator.sendBeacon(url, prompt) + await answered(url)`, spends, spends),
		every("a beacon of a Blob of text/plain", `return navigator.sendBeacon(url, new Blob([prompt], { type: 'text/plain' })) + await answered(url)`, spends, spends),
		every("a beacon of a Blob of application/json", `return navigator.sendBeacon(url, new Blob([prompt], { type: 'application/json' })) + await answered(url)`, stopped, spends),
		every("a beacon of a FormData", `const f = new FormData(); f.append('a', prompt); return navigator.sendBeacon(url, f) + await answered(url)`, spends, spends),
		every("a beacon of URLSearchParams", `return navigator.sendBeacon(url, new URLSearchParams({ a: prompt })) + await answered(url)`, spends, spends),
		every("a beacon of an ArrayBuffer", `return navigator.sendBeacon(url, new TextEncoder().encode(prompt)) + await answered(url)`, spends, spends),
		secure("a fetch that is sent later", `fetchLater(url, { method: 'POST', body: prompt, activateAfter: 0 }); return answered(url)`, spends, spends),
		every("an EventSource", `return eventSource(url)`, stopped, reads),
		every("a WebSocket", `return webSocket(url, token)`, stopped, reads),
		every("a worker's fetch", `return ask(new Worker('/worker.js'), url, token)`, spends, spends),
		every("a shared worker's fetch", `const w = new SharedWorker('/worker.js'); w.port.start(); return ask(w.port, url, token)`, spends, spends),
		secure("a service worker's fetch", `return ask(await serviceWorker(), url, token)`, spends, spends),
		every("the fetch of a worker from a blob:", `const source = await (await fetch('/worker.js')).text(); return ask(new Worker(URL.createObjectURL(new Blob([source]))), url, token)`, spends, spends),
		every("the fetch of a worker from a data: URL, whose origin is null", `const source = await (await fetch('/worker.js')).text(); return ask(new Worker('data:text/javascript,' + encodeURIComponent(source)), url, token)`, spends, spends),
		every("a fetch from a sandboxed frame, whose origin is null", `return inDocument("return send(url, token, { mode: 'no-cors' })", url, token, sandboxed)`, spends, spends),
		every("a cors fetch from a sandboxed frame", `return inDocument("return send(url, token, {})", url, token, sandboxed)`, reads, reads),
		every("a fetch from a data: document", `return inDocument("return send(url, token, { mode: 'no-cors' })", url, token, asData)`, spends, spends),
		every("a fetch from a blob: document", `return inDocument("return send(url, token, { mode: 'no-cors' })", url, token, asBlob)`, spends, spends),
		every("a fetch from an about:blank frame", `const f = put('iframe'); return describe(await f.contentWindow.fetch(url, { method: 'POST', mode: 'no-cors', body: prompt, headers: withToken(token) }))`, spends, spends),
		every("a fetch that is redirected by 307", `return send(redirect(307, url), token, { mode: 'no-cors' })`, spends, spends),
		every("a fetch that is redirected by 308", `return send(redirect(308, url), token, { mode: 'no-cors' })`, spends, spends),
		every("a fetch that is redirected by 302, and becomes a GET", `return send(redirect(302, url), token, { mode: 'no-cors' })`, stopped, spends),
		every("a cors fetch that is redirected by 307", `return send(redirect(307, url), token, {})`, reads, reads),
		every("a beacon that is redirected by 307", `return navigator.sendBeacon(redirect(307, url), prompt) + await answered(url)`, spends, spends),
		every("a fetch that says application/json to its own server, which redirects it", `return send(redirect(307, url), '', { mode: 'cors', headers: { 'Content-Type': 'application/json', ...withToken(token) } })`, stopped, reads),
	)
}
