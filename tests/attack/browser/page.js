// What the attacks have in common. Each is the body of an async function of
// (url, token): the address that it attacks, and the token if it stole one. It
// returns what the page has learned, and returns only when all is over.

const prompt = '{"model":"gpt-5","input":"hi"}'
const rig = (location.protocol === 'https:' ? 'https://' : 'http://') + 'rig.example'
const AsyncFunction = (async () => {}).constructor

// run runs one attack against several addresses at once, and tells what was learned of each.
function run(script, targets) {
  const attack = new AsyncFunction('url', 'token', script)
  return Promise.all(targets.map(async ({ url, token }) => {
    let learned
    try { learned = String(await attack(url, token)) } catch (e) { learned = 'error ' + e.name }
    return learned + timings(url)
  }))
}

// timings is what the Resource Timing API gives away of another origin: nothing, unless that origin agrees.
function timings(url) {
  const host = new URL(url).host
  if (host === location.host) return ''
  return performance.getEntriesByType('resource')
    .filter(e => new URL(e.name).host === host)
    .filter(e => e.responseStatus || e.encodedBodySize || e.transferSize)
    .map(e => ` timing ${e.responseStatus} ${e.encodedBodySize}`).join('')
}

// withToken are headers that carry a token wherever the proxy might take it from.
const withToken = (token, headers = {}) =>
  token ? { ...headers, 'Authorization': 'Bearer ' + token, 'X-Proxy-Token': token } : headers

// inURL puts a token into an address: all that an element can do.
function inURL(url, token) {
  if (token) { url = url.replace('://', '://x:' + token + '@') }
  return url
}

async function describe(response) {
  return [response.type, response.status, response.headers.get('X-Responses-Proxy-Gate') || '', await response.text()].join(' ')
}

const send = async (url, token, init) =>
  describe(await fetch(url, { method: 'POST', body: prompt, ...init, headers: withToken(token, init.headers) }))

async function xhr(url, token, type) {
  const request = new XMLHttpRequest()
  request.open('POST', url)
  for (const [name, value] of Object.entries(withToken(token, { 'Content-Type': type }))) request.setRequestHeader(name, value)
  const end = happens(request, 'loadend')
  request.send(prompt)
  await end
  return request.status + request.responseText
}

async function eventSource(url) {
  const source = new EventSource(url)
  const got = await new Promise(resolve => { source.onmessage = e => resolve(e.data); source.onerror = () => resolve('error') })
  source.close()
  return got
}

// webSocket offers the token as a subprotocol: pages cannot set headers there.
function webSocket(url, token) {
  const socket = new WebSocket(url.replace('http', 'ws'), token ? ['openai-insecure-api-key.' + token] : [])
  return new Promise(resolve => { socket.onmessage = e => resolve(e.data); socket.onerror = () => resolve('error') })
}

// answered waits until the request to url has its answer. It asks a host of
// its own each time: browsers wait with a seventh request to one host.
async function answered(url) {
  const port = new URL(url).port
  const response = await fetch(rig.replace('rig', port + '.rig') + '/answered?port=' + port)
  if (!response.ok) throw new DOMException('', 'NothingWasSent')
  return 'answered'
}

// put puts an element into the page.
function put(tag, attributes = {}, parent = document.body) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value)
  parent.append(element)
  return element
}

const happens = (target, ...events) =>
  new Promise(resolve => events.forEach(event => target.addEventListener(event, () => resolve(event), { once: true })))

// loads puts an element into the page and waits for what becomes of it.
const loads = (tag, attributes, ...events) =>
  happens(put(tag, attributes), ...(events.length ? events : ['load', 'error']))

let names = 0
const unique = () => 'n' + (++names) + '-' + Math.random().toString(36).slice(2)

// look tells what a page can see of a frame or window that went elsewhere.
function look(view) {
  try { return 'reads ' + view.document.body.innerText + ' ' + view.length } catch (e) { return e.name + ' ' + view.length }
}

// form sends the prompt as a form with this enctype. Its fields make JSON of a text/plain form.
async function form(url, enctype, attributes = {}, fields) {
  const frame = put('iframe', { name: unique() })
  const arrives = happens(frame, 'load')
  makeForm(url, enctype, { target: frame.name, ...attributes }, fields).submit()
  await arrives
  await answered(url)
  return look(frame.contentWindow)
}

function makeForm(action, enctype, attributes = {}, fields = { '{"model":"gpt-5","input":"': 'hi"}' }) {
  const it = put('form', { method: 'post', action, enctype, ...attributes })
  for (const [name, value] of Object.entries(fields)) put('input', { type: 'hidden', name, value }, it)
  return it
}

// arrived waits until a window shows what is no more its first page.
async function arrived(view, first) {
  for (;;) {
    try {
      if (view.location.href !== 'about:blank' && view.location.href !== first && view.document.readyState === 'complete') return
    } catch { return }
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}

// popup lets act do something to a new window, and tells what can be seen of it after that. What act returns is a page of
// its own that the window does not stay on.
async function popup(url, act) {
  const view = open('about:blank', unique())
  const first = await act(view)
  await answered(url)
  await arrived(view, first && new URL(first).href)
  const seen = look(view)
  view.close()
  return seen
}

// documentOf is the source of a document that runs a script with (url, token), and says what it learned.
function documentOf(script, url, token, id) {
  return `<!doctype html><body><script>
const prompt = ${JSON.stringify(prompt)}, url = ${JSON.stringify(url)}, token = ${JSON.stringify(token)};
const withToken = ${withToken}, describe = ${describe}, send = ${send};
(async () => { ${script} })().catch(e => 'error ' + e.name)
  .then(learned => parent.postMessage({ id: ${JSON.stringify(id)}, learned }, '*'));
</` + `script>`
}

// inDocument runs a script in a document of another kind, in a frame: frame(source) says where it comes from.
async function inDocument(script, url, token, frame) {
  const id = unique()
  const said = new Promise(resolve => addEventListener('message', function listen(e) {
    if (e.data.id !== id) return
    removeEventListener('message', listen)
    resolve(e.data.learned)
  }))
  put('iframe', frame(documentOf(script, url, token, id)))
  return said
}

const sandboxed = source => ({ sandbox: 'allow-scripts allow-forms', srcdoc: source })
const asData = source => ({ src: 'data:text/html,' + encodeURIComponent(source) })
const aForm = "document.body.innerHTML = '<form method=post enctype=text/plain action=' + url + '><input name=a value=b></form>'; document.forms[0].submit()"
const asBlob = source => ({ src: URL.createObjectURL(new Blob([source], { type: 'text/html' })) })

// ask hands url and token to a worker or a port of one, which attacks and says what it learned.
async function ask(worker, url, token) {
  const channel = new MessageChannel()
  const said = new Promise(resolve => { channel.port1.onmessage = e => resolve(e.data) })
  worker.postMessage({ url, token, prompt }, [channel.port2])
  return said
}

// serviceWorker is the service worker of this origin, ready.
async function serviceWorker() {
  const registration = await navigator.serviceWorker.register('/sw/worker.js')
  const worker = registration.installing || registration.waiting || registration.active
  while (worker.state !== 'activated') await happens(worker, 'statechange')
  return worker
}

function speculate(rule) {
  put('script', { type: 'speculationrules' }).textContent = JSON.stringify({ prefetch: [{ eagerness: 'immediate', ...rule }] })
}

const redirect = (code, to) => `/redirect?code=${code}&to=${encodeURIComponent(to)}`
const frameOf = html => '/frame?html=' + encodeURIComponent(html)
