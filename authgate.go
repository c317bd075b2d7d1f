package responsesproxygate

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// policy is what the gate checks a request against. It is fixed once
// provisioned: checking reads it and the request, and touches nothing else.
type policy struct {
	origins      []string // serialized origins, as browsers send them
	hosts        []string // names beside the loopback ones, without port and brackets
	routes       []Route
	forms        bool   // one of the routes is for uploads
	shutdownPath string // "" when off
	tokens       *tokenSet
	unixIsReal   bool // an address of a unix socket is the listener's, never what a caller wrote into a PROXY header
}

// checkBrowser refuses what a web page can make a browser send. It comes
// before everything else, so that a page learns nothing about tokens or paths.
func (p *policy) checkBrowser(r *http.Request) *refusal {
	origin, hasOrigin := r.Header["Origin"]
	allowedOrigin := hasOrigin && p.allowsOrigin(origin)
	if hasOrigin && !allowedOrigin {
		// "Origin: null" (a sandboxed frame, a file, a redirect) and an empty
		// value are somebody's page too.
		return errOriginNotAllowed
	}
	// Browsers send Sec-Fetch-Site with every request to a loopback address.
	// Without the header it is no current browser. (Node's fetch sends
	// Sec-Fetch-Mode alone, which says nothing.) "none" is no page but a
	// program with a browser's network stack, unless it is a navigation: a
	// page can bring that about, by a redirect from an address that a person
	// opens, or by speculation rules (seen in Chromium 156).
	if site, ok := r.Header["Sec-Fetch-Site"]; ok && !allowedOrigin {
		if len(site) != 1 || site[0] != "none" || r.Header.Get("Sec-Fetch-Mode") == "navigate" {
			return errCrossSiteRequest
		}
	}
	// A rebound DNS name reaches us as the attacker's Host: to the browser it
	// is same-origin, so this is the only check that sees it.
	if !p.allowsHost(r.Host) && !(p.unixIsReal && overUnixSocket(r)) {
		return errHostNotAllowed
	}
	return nil
}

// checkCaller decides on a request that no web page can have sent: is the
// body JSON, does the caller have a token, may it go where it wants to. It
// returns whose token it is, if it is anybody's, and why the request is
// refused, if it is.
func (p *policy) checkCaller(r *http.Request) (caller *configuredCaller, token tokenMark, refused *refusal) {
	if inEarlyData(r) {
		return nil, token, errTooEarly
	}
	// Which routes are for uploads is not told to whoever has no token.
	form := p.forms && isForm(r)
	if refused := checkContentType(r); refused != nil && !form {
		return nil, token, refused
	}
	presented, refused := presentedToken(r.Header)
	if refused != nil {
		return nil, token, refused
	}
	token = markOf(presented)
	caller, ok := p.tokens.match(token)
	if !ok {
		return nil, token, errInvalidToken
	}
	return caller, token, p.checkTarget(r, caller, form)
}

// checkTarget decides whether a caller may go where it wants to.
func (p *policy) checkTarget(r *http.Request, caller *configuredCaller, form bool) *refusal {
	if p.isShutdown(r) && !form {
		if caller.id.client != "" {
			return errRouteNotAllowed // a client must not end the others' gate
		}
		return nil
	}
	if refused := p.checkRoute(r); refused != nil {
		return refused
	}
	if isWebSocketUpgrade(r) && hasHandshakeBody(r) {
		return errWebSocketWithBody
	}
	return nil
}

// hasHandshakeBody reports whether a WebSocket handshake brings a body. Whoever
// reads it here or upstream, to another it would be the first messages. (Over
// HTTP/2 and 3, the stream is the WebSocket itself, of unknown length.)
func hasHandshakeBody(r *http.Request) bool {
	return r.ContentLength > 0 || r.ContentLength < 0 && r.ProtoMajor == 1
}

// inEarlyData reports whether r came before the TLS handshake was complete (which
// Caddy allows over HTTP/3), here or at a server in front (RFC 8470 §5.1). It
// may be one that somebody on the network recorded: token and all, it could be
// sent again, and be paid for, as often as they like.
func inEarlyData(r *http.Request) bool {
	return r.TLS != nil && !r.TLS.HandshakeComplete || r.Header["Early-Data"] != nil
}

// allowsOrigin reports whether the one Origin header is an allowed one. Origins
// are compared byte by byte, as the Fetch standard serializes them.
func (p *policy) allowsOrigin(values []string) bool {
	return len(values) == 1 && slices.Contains(p.origins, values[0])
}

// allowsHost reports whether a Host header (RFC 9110 §7.2), with or without a
// port, is loopback or one of the operator's names.
func (p *policy) allowsHost(host string) bool {
	name, ok := hostWithoutPort(host)
	if !ok {
		return false
	}
	if equalFoldASCII(name, "localhost") {
		return true
	}
	if isDigit(name[0]) || strings.Contains(name, ":") { // it could be an address
		addr, err := netip.ParseAddr(name)
		if err == nil && (addr == ipv6Loopback || addr.Is4() && addr.IsLoopback()) {
			return true
		}
	}
	for _, host := range p.hosts {
		if equalFoldASCII(name, host) {
			return true
		}
	}
	return false
}

var ipv6Loopback = netip.IPv6Loopback()

// hostWithoutPort splits a Host header strictly: the name (an IPv6 address
// without its brackets) and whether the whole is well formed.
func hostWithoutPort(host string) (name string, ok bool) {
	rest := ""
	if inner, isIPv6 := strings.CutPrefix(host, "["); isIPv6 {
		name, rest, ok = strings.Cut(inner, "]")
		if !ok || !strings.Contains(name, ":") {
			return "", false
		}
	} else if i := strings.IndexByte(host, ':'); i >= 0 {
		name, rest = host[:i], host[i:]
	} else {
		name = host
	}
	if name == "" {
		return "", false
	}
	if rest == "" {
		return name, true
	}
	port, hasColon := strings.CutPrefix(rest, ":")
	if !hasColon || port == "" || len(port) > 5 {
		return "", false
	}
	for i := range len(port) {
		if !isDigit(port[i]) {
			return "", false
		}
	}
	return name, true
}

// overUnixSocket reports whether r came in over a unix socket. No browser can
// reach one, and its clients have no meaningful Host to send.
func overUnixSocket(r *http.Request) bool {
	addr, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return ok && addr.Network() == "unix"
}

// checkContentType demands exactly one JSON Content-Type of a request with a
// body. What passes is never one of the CORS-safelisted types of the Fetch
// standard (text/plain, the two form types), so a page cannot send it without
// a preflight, which the gate answers for allowed origins only.
func checkContentType(r *http.Request) *refusal {
	if r.ContentLength == 0 {
		return nil // no body: there is nothing to mistake for JSON
	}
	if r.Method == http.MethodConnect && isWebSocketUpgrade(r) {
		return nil // its "body" is the WebSocket itself (RFC 8441)
	}
	if r.ProtoMajor == 3 && r.ContentLength < 0 && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		// HTTP/3 does not tell here whether the stream has ended: without a
		// Content-Length, every GET looks like one with a body. Browsers send
		// no body with GET and HEAD, so there is no type to check either.
		return nil
	}
	values := r.Header["Content-Type"]
	if len(values) != 1 || !isJSON(values[0]) {
		return errContentTypeNotJSON
	}
	return nil
}

// isJSON reports whether a Content-Type is application/json, in any case and
// with any well-formed parameters (RFC 9110 §8.3.1).
func isJSON(contentType string) bool {
	essence, params, hasParams := strings.Cut(contentType, ";")
	// Only spaces and tabs may stand around the essence. Anything else, a
	// comma (a second type, for parsers that split there), a byte beyond
	// ASCII, makes the comparison fail.
	if !equalFoldASCII(strings.Trim(essence, " \t"), "application/json") {
		return false
	}
	if !hasParams {
		return true
	}
	switch params { // what most clients send, without the cost of parsing
	case "charset=utf-8", " charset=utf-8", "charset=UTF-8", " charset=UTF-8":
		return true
	}
	// A comma in a parameter is legal inside quotes, but some parsers split
	// there first, and read a second type behind it. No client needs one.
	if strings.ContainsRune(params, ',') || !isVisible(params, " \t") {
		return false
	}
	_, _, err := mime.ParseMediaType(contentType)
	return err == nil
}

// presentedToken finds the one token that a request presents. X-Proxy-Token
// decides if it is there at all, else Authorization: a caller's library may
// insist on sending an Authorization header of its own.
func presentedToken(header http.Header) (string, *refusal) {
	if values, ok := header["X-Proxy-Token"]; ok {
		if len(values) != 1 {
			return "", errInvalidToken // two values: which one was checked elsewhere?
		}
		if values[0] == "" {
			return "", errMissingToken
		}
		return values[0], nil
	}
	values := header["Authorization"]
	if len(values) == 0 {
		return "", errMissingToken
	}
	if len(values) != 1 {
		return "", errInvalidToken
	}
	// The scheme is case-insensitive (RFC 9110 §11.1), and one or more
	// spaces follow it (RFC 6750 §2.1).
	scheme, token, _ := strings.Cut(values[0], " ")
	if !equalFoldASCII(scheme, "Bearer") {
		return "", errMissingToken
	}
	token = strings.TrimLeft(token, " ")
	if token == "" {
		return "", errMissingToken
	}
	return token, nil
}

// isWebSocketUpgrade reports whether r is an opening handshake: of RFC 6455, or
// of RFC 8441 over HTTP/2 and RFC 9220 over HTTP/3 (extended CONNECT).
func isWebSocketUpgrade(r *http.Request) bool {
	switch {
	case r.Method == http.MethodGet && r.ProtoMajor == 1:
		return httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket") &&
			httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade")
	case r.Method == http.MethodConnect && r.ProtoMajor == 2:
		return len(r.Header[":protocol"]) == 1 && r.Header[":protocol"][0] == "websocket"
	case r.Method == http.MethodConnect && r.ProtoMajor == 3:
		return r.Proto == "websocket"
	}
	return false
}

// equalFoldASCII reports whether s is word, an ASCII one, in any case. Unicode
// folds some letters beyond ASCII (ſ, K) into it; they are longer.
func equalFoldASCII(s, word string) bool {
	return len(s) == len(word) && strings.EqualFold(s, word)
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }

// isVisible reports whether s has only visible ASCII characters, and those of also.
func isVisible(s, also string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 0x21 || c > 0x7e) && strings.IndexByte(also, c) < 0 {
			return false
		}
	}
	return true
}

// corsMaxAge is how long, in seconds, a browser may remember a preflight's
// answer. Ten minutes: an origin that is taken out of allow_origin loses its
// preflight soon, and its requests at once.
const corsMaxAge = "600"

// corsExposedHeaders are the response headers that a page on an allowed
// origin may read, beside the ones that the Fetch standard always exposes.
const corsExposedHeaders = codeHeaderName + ", X-Request-Id, Retry-After, Openai-Processing-Ms, " +
	"X-Ratelimit-Limit-Requests, X-Ratelimit-Limit-Tokens, X-Ratelimit-Remaining-Requests, " +
	"X-Ratelimit-Remaining-Tokens, X-Ratelimit-Reset-Requests, X-Ratelimit-Reset-Tokens"

// isPreflight reports whether r is a CORS-preflight request (Fetch standard
// §4.8). Ask only after checkBrowser: an Origin it let through is an allowed one.
func isPreflight(r *http.Request) bool {
	return r.Method == http.MethodOptions &&
		len(r.Header["Origin"]) == 1 && len(r.Header["Access-Control-Request-Method"]) == 1
}

// answerPreflight tells a browser that a page on an allowed origin may call
// the allowed routes. It is answered without a token, because browsers send
// none with a preflight; the request that follows needs one.
func (p *policy) answerPreflight(w http.ResponseWriter, r *http.Request) {
	header := w.Header()
	p.allowCORS(header, r)
	header.Set("Access-Control-Allow-Methods", p.corsMethods())
	if requested := r.Header["Access-Control-Request-Headers"]; len(requested) > 0 {
		header.Set("Access-Control-Allow-Headers", strings.Join(requested, ", "))
	}
	if r.Header.Get("Access-Control-Request-Private-Network") == "true" {
		header.Set("Access-Control-Allow-Private-Network", "true")
	}
	header.Set("Access-Control-Max-Age", corsMaxAge)
	header.Add("Vary", "Access-Control-Request-Headers")
	header.Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusNoContent)
}

// allowCORS lets a page on an allowed origin read the answer to r. It does
// nothing for a request without Origin, and never says "*": checkBrowser has
// refused every other origin before.
func (p *policy) allowCORS(header http.Header, r *http.Request) {
	if len(p.origins) == 0 {
		return
	}
	header.Add("Vary", "Origin")
	if origin := r.Header["Origin"]; p.allowsOrigin(origin) {
		header.Set("Access-Control-Allow-Origin", origin[0])
		header.Set("Access-Control-Expose-Headers", corsExposedHeaders)
	}
}

// dropCORS removes what an upstream says about CORS: the upstream does not
// know the gate's allowed origins.
func dropCORS(header http.Header) {
	for name := range header {
		if strings.HasPrefix(name, "Access-Control-") {
			delete(header, name)
		}
	}
}

// corsMethods are the methods of the allowed routes.
func (p *policy) corsMethods() string {
	var methods []string
	for _, route := range p.routes {
		if !slices.Contains(methods, route.Method) {
			methods = append(methods, route.Method)
		}
	}
	return strings.Join(methods, ", ")
}
