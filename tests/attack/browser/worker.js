// The attacker's worker, shared worker and service worker.

async function attack({ url, token, prompt }) {
  const headers = token ? { 'Authorization': 'Bearer ' + token, 'X-Proxy-Token': token } : {}
  try {
    const response = await fetch(url, { method: 'POST', mode: 'no-cors', body: prompt, headers })
    return [response.type, response.status, await response.text()].join(' ')
  } catch (e) { return 'error ' + e.name }
}

self.onmessage = async e => e.ports[0].postMessage(await attack(e.data))
self.onconnect = e => { e.ports[0].onmessage = async e => e.ports[0].postMessage(await attack(e.data)) }

// What a service worker does to the requests of the pages that it controls.
self.onfetch = e => {
  const query = new URL(e.request.url).searchParams
  if (query.has('sw-redirect')) e.respondWith(Response.redirect(query.get('sw-redirect'), 307))
  if (query.has('sw-fetch')) e.respondWith(fetch(query.get('sw-fetch'), { mode: 'no-cors' }))
}
