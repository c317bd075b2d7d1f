//go:build unix

package browser

// elementVectors are the requests that the elements of a page bring about.
func elementVectors() []vector {
	vectors := []vector{
		every("an image", `return loads('img', { src: inURL(url, '') })`, stopped, spends),
		every("an image with CORS", `return loads('img', { src: url, crossorigin: 'anonymous' })`, stopped, spends),
		every("an image without a referrer", `return loads('img', { src: url, referrerpolicy: 'no-referrer' })`, stopped, spends),
		plain("an image that is redirected", `return loads('img', { src: redirect(302, url) })`, stopped, spends),
		every("an image in an srcset", `return loads('img', { srcset: url + ' 1x' })`, stopped, spends),
		every("an image of an SVG", `const s = document.createElementNS('http://www.w3.org/2000/svg', 'svg'); document.body.append(s); const i = document.createElementNS('http://www.w3.org/2000/svg', 'image'); const end = happens(i, 'load', 'error'); i.setAttribute('href', url); s.append(i); return end`, stopped, spends),
		every("an image button", `return loads('input', { type: 'image', src: url })`, stopped, spends),
		every("a background image", `put('div', { style: 'width:9px;height:9px;background:url("' + url + '")' }); return answered(url)`, stopped, spends),
		every("a font", `try { await new FontFace('f', 'url("' + url + '")').load() } catch (e) { return e.name }`, stopped, spends),
		every("an @import", `put('style').textContent = '@import "' + url + '"'; return answered(url)`, stopped, spends),
		every("a script", `return loads('script', { src: url })`, stopped, spends),
		every("a script with CORS", `return loads('script', { src: url, crossorigin: 'anonymous' })`, stopped, spends),
		every("a module script", `return loads('script', { src: url, type: 'module' })`, stopped, spends),
		every("an import()", `try { await import(url) } catch (e) { return e.name }`, stopped, spends),
		every("an import() of JSON", `try { return JSON.stringify(await import(url, { with: { type: 'json' } })) } catch (e) { return e.name }`, stopped, reads),
		secure("a worklet", `try { await CSS.paintWorklet.addModule(url) } catch (e) { return e.name }`, stopped, spends),
		every("a style sheet", `return loads('link', { rel: 'stylesheet', href: url })`, stopped, spends),
		every("a preload", `return loads('link', { rel: 'preload', as: 'script', href: url })`, stopped, spends),
		every("a prefetch", `return loads('link', { rel: 'prefetch', href: url })`, stopped, spends),
		every("a module preload", `return loads('link', { rel: 'modulepreload', href: url })`, stopped, spends),
		every("a preload by a Link header", `put('iframe', { src: '/frame?link=' + encodeURIComponent('<' + url + '>; rel=preload; as=image') }); return answered(url)`, stopped, spends),
		every("a video", `return loads('video', { src: url, preload: 'auto' }, 'loadedmetadata', 'error')`, stopped, spends),
		every("a sound", `return loads('audio', { src: url, preload: 'auto' }, 'loadedmetadata', 'error')`, stopped, spends),
		every("a video's poster", `put('video', { poster: url }); return answered(url)`, stopped, spends),
		every("a frame", `const f = put('iframe', { src: inURL(url, '') }); await happens(f, 'load'); return look(f.contentWindow)`, stopped, spends),
		every("a sandboxed frame", `const f = put('iframe', { src: url, sandbox: '' }); await happens(f, 'load'); return look(f.contentWindow)`, stopped, spends),
		every("an object", `return loads('object', { data: url })`, stopped, spends),
		every("an embed", `return loads('embed', { src: url })`, stopped, spends),
		every("the ping of a link", `put('a', { href: '#', ping: url }).click(); return answered(url)`, spends, spends),
		every("the report of a broken Content-Security-Policy", `put('iframe', { src: '/reports?to=' + encodeURIComponent(url) }); return answered(url)`, spends, spends),
		secure("a frame that a service worker answers with a redirect", `await serviceWorker(); const f = put('iframe', { src: '/sw/frame?sw-redirect=' + encodeURIComponent(url) }); await happens(f, 'load'); return look(f.contentWindow)`, stopped, spends),
		every("a speculative prefetch", `speculate({ urls: [url] }); return answered(url)`, stopped, spends),
		every("a speculative prefetch without a referrer", `speculate({ urls: [url], referrer_policy: 'no-referrer' }); return answered(url)`, stopped, spends),
	}
	// Addresses that lead to the same port under another name. To some of them
	// browsers send no Sec-Fetch-Site at all, because they are not trustworthy.
	for _, name := range []struct {
		harm, host string
		from       func(string, string, fate, fate) vector
	}{
		{"under a name of the attacker's that leads to this machine", "here.attacker.example", plain},
		{"under 0.0.0.0", "0.0.0.0", plain},
		{"under a name below localhost", "attacker.localhost", every},
		{"under localhost", "localhost", every},
		{"under 127.1", "127.1", every},
		{"under 2130706433", "2130706433", every},
	} {
		at := `url = url.replace('127.0.0.1', '` + name.host + `'); `
		vectors = append(
			vectors,
			name.from("an image "+name.harm, at+`return loads('img', { src: url, referrerpolicy: 'no-referrer' })`, stopped, spends),
			name.from("a fetch "+name.harm, at+`return send(url, token, { mode: 'no-cors' })`, spends, spends),
			name.from("a form "+name.harm, at+`return form(url, 'text/plain')`, spends, spends),
		)
	}
	return vectors
}

// formVectors are forms, and what else moves a frame or a window.
func formVectors() []vector {
	var vectors []vector
	for _, enctype := range []string{"text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/json"} {
		vectors = append(
			vectors,
			every("a form of "+enctype+" into a frame", `return form(url, '`+enctype+`')`, spends, spends),
			every("a form of "+enctype+" into a window", `return popup(url, view => makeForm(inURL(url, token), '`+enctype+`', { target: view.name }).submit())`, spends, spends),
		)
	}
	return append(
		vectors,
		every("a form without fields", `return form(url, 'text/plain', {}, {})`, spends, spends),
		every("a form that its own server redirects by 307", `return form(url, 'text/plain', { action: redirect(307, url) })`, spends, spends),
		every("a form that its own server redirects by 308 into a window", `return popup(url, view => makeForm(redirect(308, url), 'text/plain', { target: view.name }).submit())`, spends, spends),
		every("a form that its own server redirects by 302, and becomes a GET", `return popup(url, view => makeForm(redirect(302, url), 'text/plain', { target: view.name }).submit())`, stopped, spends),
		every("a form with GET", `return popup(url, view => makeForm(inURL(url, token), 'text/plain', { target: view.name, method: 'get' }, {}).submit())`, stopped, spends),
		every("a form that wants no referrer", `return popup(url, view => makeForm(inURL(url, token), 'text/plain', { target: view.name, rel: 'noreferrer' }).submit())`, spends, spends),
		every("a form in a page that wants no referrer", `put('meta', { name: 'referrer', content: 'no-referrer' }); return form(url, 'text/plain')`, spends, spends),
		every("a form into a window that knows no opener", `const f = makeForm(url, 'text/plain', { target: '_blank', rel: 'noopener' }); f.submit(); return answered(url)`, spends, spends),
		every("a form from a sandboxed frame", `put('iframe', sandboxed(documentOf(aForm, url, token))); return answered(url)`, spends, spends),
		every("a form from a data: document", `put('iframe', asData(documentOf(aForm, url, token))); return answered(url)`, spends, spends),
		every("a form from a blob: document", `put('iframe', asBlob(documentOf(aForm, url, token))); return answered(url)`, spends, spends),
		secure("a form that a service worker answers with a redirect", `await serviceWorker(); const outer = put('iframe', { src: '/sw/frame?html=' + encodeURIComponent('<form method=post enctype=text/plain><input name=a value=b></form>') }); await happens(outer, 'load'); const f = outer.contentDocument.forms[0]; f.action = '/sw/frame?sw-redirect=' + encodeURIComponent(url); f.submit(); return answered(url)`, spends, spends),
		every("a window that is opened", `const view = open(inURL(url, token), unique()); await answered(url); await arrived(view); const seen = look(view); view.close(); return seen`, stopped, spends),
		every("a window that is opened without opener and referrer", `open(inURL(url, token), '_blank', 'noopener,noreferrer'); return answered(url)`, stopped, spends),
		every("a window that is sent elsewhere", `return popup(url, view => { view.location = inURL(url, token) })`, stopped, spends),
		every("a window that is redirected", `return popup(url, view => { view.location = location.origin + redirect(302, url) })`, stopped, spends),
		every("a window that is redirected by 307", `return popup(url, view => { view.location = location.origin + redirect(307, url) })`, stopped, spends),
		every("a window that a Refresh header sends elsewhere", `return popup(url, view => view.location = location.origin + '/frame?refresh=' + encodeURIComponent(url))`, stopped, spends),
		every("a window that a meta element sends elsewhere", `return popup(url, view => view.location = location.origin + frameOf('<meta http-equiv=refresh content="0;url=' + url + '">'))`, stopped, spends),
		every("a link that is clicked", `return popup(url, view => put('a', { href: inURL(url, token), target: view.name }).click())`, stopped, spends),
		every("a link that wants no referrer and no opener", `put('a', { href: url, target: '_blank', rel: 'noreferrer noopener' }).click(); return answered(url)`, stopped, spends),
		every("a link that is downloaded", `const f = put('iframe', { src: frameOf('<a download=x href="' + url + '">') }); await happens(f, 'load'); f.contentDocument.links[0].click(); return answered(url)`, stopped, spends),
	)
}
