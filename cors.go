package responsesproxygate

import (
	"net/http"
	"slices"
	"strings"
)

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
