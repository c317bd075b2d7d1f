package responsesproxygate

import (
	"io"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/keptconn"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
)

// outcome is what became of a request. Each of the gate's refusals is one, too.
type outcome struct {
	code   string // in metrics and the audit trail
	stage  stage
	number int // its place among those that are counted of the same
}

// stage is how far a request comes before it has an outcome.
type stage int

const (
	stageUnknown stage = iota // it is not known whose it is: counted of the gate
	stageKnown                // it is: counted of the caller
	stageBehind               // what is behind the gate has it: counted of the caller
)

// outcomesOfGate and outcomesOfCallers are all outcomes, by whom they are
// counted of and by number.
var outcomesOfGate, outcomesOfCallers []*outcome

// newOutcome is for package variables only.
func newOutcome(s stage, code string) *outcome {
	all := &outcomesOfCallers
	if s == stageUnknown {
		all = &outcomesOfGate
	}
	o := &outcome{code: code, stage: s, number: len(*all)}
	*all = append(*all, o)
	return o
}

var (
	outcomePreflight  = newOutcome(stageUnknown, "preflight")  // a CORS preflight of an allowed origin
	outcomeHealth     = newOutcome(stageUnknown, "health")     // the health endpoint
	outcomeShutdown   = newOutcome(stageKnown, "shutdown")     // the shutdown endpoint
	outcomeOverBudget = newOutcome(stageKnown, "over_budget")  // a budget behind the gate refused it: spent, or not to be counted
	outcomeForwarded  = newOutcome(stageBehind, "forwarded")   // what is behind the gate answered, to the end
	outcomeCutOff     = newOutcome(stageBehind, "cut_off")     // what is behind the gate began to answer, and broke off
	outcomeClientGone = newOutcome(stageBehind, "client_gone") // the caller left, or Caddy stopped, before the end
)

// codeHeaderName carries the code of an answer of the gate's own, so that a
// program can tell it from the upstream's without reading the body.
const codeHeaderName = refusals.GateHeader

// refusal is an answer of the gate's own, and the outcome of a request that
// gets it.
type refusal struct {
	*refusals.Answer
	*outcome
}

// Error makes a refusal usable where Go expects an error. The text is the code.
func (f *refusal) Error() string { return f.Code }

// newRefusal is for package variables only.
func newRefusal(s stage, status int, code, message string) *refusal {
	return &refusal{refusals.New(codeHeaderName, status, code, message), newOutcome(s, code)}
}

// newFinalRefusal is for what another try cannot change.
func newFinalRefusal(s stage, status int, code, message string) *refusal {
	return &refusal{refusals.NewFinal(codeHeaderName, status, code, message), newOutcome(s, code)}
}

// The refusals of the gate, in the order in which a request can meet them.
var (
	errOriginNotAllowed = newRefusal(stageUnknown, http.StatusForbidden, "origin_not_allowed",
		"Requests from web pages are refused. If this page is yours, name its origin in the gate's allow_origin option.")
	errCrossSiteRequest = newRefusal(stageUnknown, http.StatusForbidden, "cross_site_request",
		"A browser sent this request, for a web page or for a person who opened its address (Sec-Fetch-Site). If a page of yours sends it, name the page's origin in the gate's allow_origin option.")
	errHostNotAllowed = newRefusal(stageUnknown, http.StatusForbidden, "host_not_allowed",
		"The Host of this request is not one the gate answers to. Use 127.0.0.1, or name the host in the gate's allow_host option.")
	errTooEarly = newRefusal(stageUnknown, http.StatusTooEarly, "too_early",
		"This request came in TLS early data, where anybody on the network can send it again. Send it once the handshake is complete.")
	errContentTypeNotJSON = newRefusal(stageUnknown, http.StatusUnsupportedMediaType, "content_type_not_json",
		"A request with a body needs exactly one header \"Content-Type: application/json\". (For uploads, the gate's option allow_route has the word multipart.)")
	errMissingToken = newRefusal(stageUnknown, http.StatusUnauthorized, "missing_token",
		"Send the gate's token as \"Authorization: Bearer <token>\" or as \"X-Proxy-Token: <token>\". The token is in the server-info file of this launch.")
	errInvalidToken = newRefusal(stageUnknown, http.StatusUnauthorized, "invalid_token",
		"This is not a token of this gate. Tokens change with every launch: read the server-info file again, and send exactly one.")
	errRouteNotAllowed = newRefusal(stageKnown, http.StatusForbidden, "route_not_allowed",
		"The gate does not forward this method and path, but POST /v1/responses without a query, or in place of that what its option allow_route names (the command's --allow-route adds). If your client calls /v1/chat/completions, switch it to the Responses API; the gate's docs/clients.md says how.")
	errWebSocketWithBody = newRefusal(stageKnown, http.StatusBadRequest, "websocket_with_body",
		"A WebSocket handshake has no body. Send what you have to say as messages, once the WebSocket is open.")
	errTooManyInFlight = &refusal{refusals.Soon(codeHeaderName, "too_many_in_flight",
		"This caller has as many requests under way as one caller may have. Wait until some of them have ended, and try again.", 1), newOutcome(stageKnown, "too_many_in_flight")}
	errWebSocketNotEnabled = newRefusal(stageKnown, http.StatusUpgradeRequired, "websocket_not_enabled",
		"WebSocket is not enabled on this path. Use HTTP, or open it with the gate's option \"allow_route GET <path>\", beside \"allow_route POST <path>\" for HTTP; for the command, with --websocket.")
)

// The answers that stand in for the next handler's failures, and for what
// must not reach the caller.
var (
	errUpstreamUnauthorized = newFinalRefusal(stageKnown, http.StatusBadRequest, "upstream_unauthorized",
		"The upstream refuses the operator's credential. Your gate token is fine, and another try will not help: the operator must renew the key that upstream_bearer or upstream_bearer_file names, or mend upstream_identity. Until then the gate asks the upstream again after a second, and then after twice as long each time, up to a minute.")
	errIdentityUnavailable = newRefusal(stageKnown, http.StatusServiceUnavailable, "identity_unavailable",
		"The gate has no token for the upstream at the moment: the exchange of its own identity fails. Your gate token is fine. Try again later; the operator's log says why.")
	errAccountRefused = newFinalRefusal(stageKnown, http.StatusBadRequest, "upstream_account_refused",
		"The upstream refuses the OpenAI-Organization, OpenAI-Project or ChatGPT-Account-Id header of this request together with the operator's credential. Leave the headers out, or ask the operator which ones the key may use.")
	errUpstreamRedirects = newFinalRefusal(stageBehind, http.StatusBadGateway, "upstream_redirects",
		"The upstream answered with a redirect, which the gate does not pass on: your client would follow it with its gate token and your request. The operator must let reverse_proxy lead to where the API is.")
	errTokenEnded = newRefusal(stageKnown, http.StatusUnauthorized, "access_ended",
		"The token of this request lost its access before the request was whole, so it was not carried out. Read the server-info file again, or ask the operator.")
	errUpstreamUnreachable = newRefusal(stageBehind, http.StatusBadGateway, "upstream_unreachable",
		"The gate could not get an answer from the upstream. Try again; the operator's log says why.")
	errUpstreamUnavailable = newRefusal(stageBehind, http.StatusServiceUnavailable, "upstream_unavailable",
		"No upstream is available at the moment. Try again later; the operator's log says why.")
	errUpstreamTimeout = newRefusal(stageBehind, http.StatusGatewayTimeout, "upstream_timeout",
		"The upstream did not answer in time. Try again; the operator's log says why.")
	errRequestTooLarge = newRefusal(stageBehind, http.StatusRequestEntityTooLarge, "request_too_large",
		"The request body is larger than this server allows.")
	errRateLimited = newRefusal(stageBehind, http.StatusTooManyRequests, "rate_limited",
		"This caller has made too many requests. Wait as long as Retry-After says, if it is there, and try again.")
	errRequestTooSlow = newRefusal(stageBehind, http.StatusRequestTimeout, "request_too_slow",
		"The body of this request came too slowly: after the first 30 seconds of waiting, it has to come at 1 KiB a second at least. Try again.")
	errRequestFailed = newRefusal(stageBehind, http.StatusBadRequest, "request_failed",
		"The server could not handle this request; the operator's log says why.")
	errNoUpstream = newRefusal(stageBehind, http.StatusBadGateway, "upstream_missing",
		"The gate let this request pass, but nothing behind it answered. The operator needs a reverse_proxy after responses_proxy_gate; if there is one, its upstream broke the protocol.")
)

const (
	// refusedBodyTimeout is how long a refused request's body may take to
	// arrive. It goes nowhere; but a client that is still sending would not
	// read an answer on a connection that is cut at once.
	refusedBodyTimeout = 250 * time.Millisecond

	// maxRefusedBody is how much of it, in bytes: what net/http is ready to
	// skip to keep a connection open.
	maxRefusedBody = 256 << 10

	// refusedAnswerPatience is how long a caller may take to make room for the
	// answer to a refused request.
	refusedAnswerPatience = 2 * time.Second
)

// maxTakenBody is how much of a body is read for takeBody, in bytes: several
// times what the API takes.
const maxTakenBody = 256 << 20

// takeBody reads the body of a caller who is known and is refused all the
// same. On a connection that is cut while the body is still on its way, the
// caller may not see the answer, and would try again.
func takeBody(r *http.Request) {
	if r.Body != nil && r.ProtoMajor == 1 && r.Header["Expect"] == nil {
		_, _ = io.Copy(io.Discard, io.LimitReader(&pacedReader{Reader: r.Body}, maxTakenBody)) // the answer is the same if it breaks off
	}
}

// leave sees to it that a request which is refused holds nothing for long: not
// by a body that does not come, not by an answer that is not read, and not by
// the connection. If all were kept, anybody could have as many as there are, each
// for one request in minutes. Over HTTP/2, whose connections carry many requests,
// those of callers who are known go on.
func leave(w http.ResponseWriter, r *http.Request, known bool) {
	deadline := time.Now().Add(refusedAnswerPatience)
	if _, answer := caddyhttp.IdleTimeoutsFromContext(r.Context()); answer != nil {
		_ = answer.SetWriteDeadline(deadline) // it would put its own in place of another
	} else {
		_ = http.NewResponseController(w).SetWriteDeadline(deadline)
	}
	leaveBody(w, r)
	if r.ProtoMajor == 1 && !keptconn.Keep(r) || r.ProtoMajor == 2 && !known {
		w.Header()["Connection"] = []string{"close"} // over HTTP/2, net/http makes it GOAWAY
	}
}

// leaveBody sees to it that the body of a refused request is not waited for:
// whoever has no token must not hold a connection, or an exit, by never
// sending what was announced. Over HTTP/2 and 3, net/http resets the stream.
func leaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor != 1 || r.ContentLength == 0 {
		return
	}
	// A handler around the gate may have net/http read on before Caddy is done
	// with the request, or put another deadline in force: so it is set now, and
	// where it stays the longest that anybody waits. (An error means that there
	// is no connection, as in a test.)
	deadline := time.Now().Add(refusedBodyTimeout)
	if body, _ := caddyhttp.IdleTimeoutsFromContext(r.Context()); body != nil {
		_ = body.SetReadDeadline(deadline)
	} else {
		_ = http.NewResponseController(w).SetReadDeadline(deadline)
	}
	if r.ContentLength < 0 || r.ContentLength > maxRefusedBody || r.Header["Expect"] != nil {
		w.Header().Set("Connection", "close") // then none of it is read, nor asked for by 100 Continue
	}
}

// refuse answers r with a refusal. A page on an allowed origin may read it.
// The caller is nil if it is not known.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, caller *configuredCaller, refused *refusal) error {
	h.count(caller, refused.outcome)
	if !h.trail.refused(r, caller, refused) {
		skipAccessLog(r)
	}
	h.policy.allowCORS(w.Header(), r)
	leave(w, r, caller != nil)
	refused.Write(w)
	return nil
}

// skipAccessLog keeps r out of the access log: who has no token must not be
// able to fill the disk. The request is counted, in the metrics and the trail.
func skipAccessLog(r *http.Request) {
	if vars, ok := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		vars[caddyhttp.LogSkipVar] = true
	}
}
