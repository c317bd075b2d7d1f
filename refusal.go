package responsesproxygate

import (
	"errors"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/keptconn"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
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
	outcomeClientGone = newOutcome(stageBehind, "client_gone") // the caller left or lost its access, or Caddy stopped, before the end
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
		"The gate refuses requests from web pages. If this page is yours, name its origin in the option allow_origin (command: --allow-origin).")
	errCrossSiteRequest = newRefusal(stageUnknown, http.StatusForbidden, "cross_site_request",
		"The gate refuses this request, because a browser sent it (Sec-Fetch-Site), for a web page or for a person who opened its address. If a page of yours sent it, name the page's origin in the option allow_origin (command: --allow-origin).")
	errHostNotAllowed = newRefusal(stageUnknown, http.StatusForbidden, "host_not_allowed",
		"The gate does not answer to the Host of this request. Use 127.0.0.1, or name the host in the option allow_host (command: --allow-host).")
	errTooEarly = newRefusal(stageUnknown, http.StatusTooEarly, "too_early",
		"The gate refuses TLS early data, because anybody on the network can send it again. Send this request when the handshake is complete.")
	errContentTypeNotJSON = newRefusal(stageUnknown, http.StatusUnsupportedMediaType, "content_type_not_json",
		`The gate refuses the Content-Type of this body. Send exactly one header "Content-Type: application/json". For uploads, the operator can write the word multipart into the option allow_route.`)
	errMissingToken = newRefusal(stageUnknown, http.StatusUnauthorized, "missing_token",
		`This request has no token of the gate. Send it as "Authorization: Bearer <token>" or as "X-Proxy-Token: <token>". The token is in the server-info file of this launch.`)
	errInvalidToken = newRefusal(stageUnknown, http.StatusUnauthorized, "invalid_token",
		"The gate refuses this token. Tokens change with every launch: read the server-info file again, and send exactly one token.")
	errRouteNotAllowed = newRefusal(stageKnown, http.StatusForbidden, "route_not_allowed",
		"The gate refuses this method and path. By default, it allows POST /v1/responses without a query, and nothing else. The operator can allow others: with the option allow_route, which replaces the default, or with the command's flag --allow-route, which adds to it. If your client calls /v1/chat/completions, switch it to the Responses API (docs/clients.md of the gate says how).")
	errWebSocketWithBody = newRefusal(stageKnown, http.StatusBadRequest, "websocket_with_body",
		"The gate refuses a WebSocket handshake with a body. Send messages when the WebSocket is open.")
	errTooManyInFlight = &refusal{refusals.Soon(codeHeaderName, "too_many_in_flight",
		"This caller has as many requests under way as it may have. Try again when some of them have ended.", 1), newOutcome(stageKnown, "too_many_in_flight")}
	errWebSocketNotEnabled = newRefusal(stageKnown, http.StatusUpgradeRequired, "websocket_not_enabled",
		`The gate refuses WebSocket on this path. Use HTTP. The operator can allow WebSocket: with the option "allow_route GET <path>" beside "allow_route POST <path>", or with the command's flag --websocket.`)
)

// The answers that stand in for the next handler's failures, and for what
// must not reach the caller.
var (
	errUpstreamUnauthorized = newFinalRefusal(stageKnown, http.StatusBadRequest, "upstream_unauthorized",
		"The upstream refuses the operator's key. Your gate token is right, and another try does not help. The operator must renew the key that upstream_bearer or upstream_bearer_file names, or mend upstream_identity. The gate asks the upstream again by itself, after a second at first, and after a minute at most.")
	errIdentityUnavailable = newRefusal(stageKnown, http.StatusServiceUnavailable, "identity_unavailable",
		"The gate has no token for the upstream at the moment, because it gets none for its own identity. Your gate token is right. Try again later. The operator's log says why.")
	errAccountRefused = newFinalRefusal(stageKnown, http.StatusBadRequest, "upstream_account_refused",
		"The upstream refuses this request's OpenAI-Organization, OpenAI-Project or ChatGPT-Account-Id together with the operator's key. Leave these headers out, or ask the operator which of them the key may use.")
	errUpstreamRedirects = newFinalRefusal(stageBehind, http.StatusBadGateway, "upstream_redirects",
		"The upstream answered with a redirect. The gate does not pass it on: your client would follow it with the gate token and your request. The operator must point reverse_proxy (command: --upstream-url) to where the API is.")
	errTokenEnded = newRefusal(stageKnown, http.StatusUnauthorized, "access_ended",
		"The gate did not carry out this request, because its token lost its access before the request was whole. Read the server-info file again, or ask the operator.")
	errUpstreamUnreachable = newRefusal(stageBehind, http.StatusBadGateway, "upstream_unreachable",
		"The gate got no answer from the upstream. Try again. The operator's log says why.")
	errUpstreamUnavailable = newRefusal(stageBehind, http.StatusServiceUnavailable, "upstream_unavailable",
		"The gate has no upstream that is available at the moment. Try again later. The operator's log says why.")
	errUpstreamTimeout = newRefusal(stageBehind, http.StatusGatewayTimeout, "upstream_timeout",
		"The upstream did not answer in time. Try again. The operator's log says why.")
	errRequestTooLarge = newRefusal(stageBehind, http.StatusRequestEntityTooLarge, "request_too_large",
		"The request's body is larger than this server allows. Send a smaller one.")
	errRateLimited = newRefusal(stageBehind, http.StatusTooManyRequests, "rate_limited",
		"This caller has made too many requests. Wait and try again. If the header Retry-After is there, it says how long.")
	errRequestTooSlow = newRefusal(stageBehind, http.StatusRequestTimeout, "request_too_slow",
		"The body of this request came too slowly. After the first 30 seconds of waiting, at least 1 KiB must come each second. Try again.")
	errRequestFailed = newRefusal(stageBehind, http.StatusBadRequest, "request_failed",
		"The server could not handle this request. The operator's log says why.")
	errNoUpstream = newRefusal(stageBehind, http.StatusBadGateway, "upstream_missing",
		"The gate let this request pass, but nothing behind it answered. The operator must put a reverse_proxy after responses_proxy_gate. If there is one, its upstream broke the protocol.")
)

const (
	// refusedBodyTimeout is how long a refused request's body may take to
	// arrive. It goes nowhere; but a client that is still sending would not
	// read an answer on a connection that is cut at once.
	refusedBodyTimeout = 250 * time.Millisecond

	// maxRefusedBody is how much of it, in bytes: what net/http is ready to
	// skip to keep a connection open.
	maxRefusedBody = 256 << 10

	// refusedAnswerTimeout is how long a caller may take to make room for the
	// answer to a refused request.
	refusedAnswerTimeout = 2 * time.Second
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
	deadline := time.Now().Add(refusedAnswerTimeout)
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
	refused.Write(w, r)
	return nil
}

// skipAccessLog keeps r out of the access log: who has no token must not be
// able to fill the disk. The request is counted, in the metrics and the trail.
func skipAccessLog(r *http.Request) {
	if vars, ok := r.Context().Value(caddyhttp.VarsCtxKey).(map[string]any); ok {
		vars[caddyhttp.LogSkipVar] = true
	}
}

// fail logs an error of the next handler, and answers in its place. If it is
// too late for another answer, it cuts the connection, so that what was sent so
// far cannot be taken for the whole.
func (a *answerWriter) fail(err error, key secret.Secret) {
	refused := a.failure(err)
	clientGone := errorStatus(err) == statusClientGone
	status := refused.Status
	switch {
	case a.wroteHeader:
		status = a.status
	case clientGone:
		status = statusClientGone
	}
	if a.handler.trail.admits(a.caller, refused) { // a caller must not be able to fill the disk
		level := zap.ErrorLevel
		if !a.wroteHeader && (clientGone || a.isCallersDoing(refused)) {
			level = zap.InfoLevel
		}
		a.handler.logFailure(level, a.request, status, err, key)
	}
	switch {
	case a.wroteHeader:
		panic(http.ErrAbortHandler)
	case clientGone:
		a.WriteHeader(statusClientGone) // for the access log; nobody reads it
		a.outcome, a.upstream = outcomeClientGone, 0
	default:
		a.refuse(refused)
	}
}

// isCallersDoing reports whether a failure is the caller's own doing, so that
// the operator has nothing to mend.
func (a *answerWriter) isCallersDoing(refused *refusal) bool {
	switch refused {
	case errRequestTooSlow, errRateLimited, errRequestTooLarge:
		return true
	case errRequestFailed:
		return a.body.broken.Load()
	}
	return false
}

// failure is the answer for an error of the next handler.
func (a *answerWriter) failure(err error) *refusal {
	refused := failure(err)
	if refused != errUpstreamUnreachable || !a.body.broken.Load() {
		return refused
	}
	// The caller's fault, not the upstream's. What follows on the connection
	// may be the rest of the body: it is no next request.
	if leave(a.ResponseWriter, a.request, true); a.request.ProtoMajor == 1 {
		a.ResponseWriter.Header().Set("Connection", "close")
	}
	if a.body.slow.Load() {
		return errRequestTooSlow
	}
	return errRequestFailed
}

// statusClientGone is what Caddy uses when the client has closed the
// connection (from nginx; there is no standard one).
const statusClientGone = 499

// failure is the answer for an error, by its kind.
func failure(err error) *refusal {
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return errRequestTooLarge
	}
	switch status := errorStatus(err); {
	case status == http.StatusRequestEntityTooLarge:
		return errRequestTooLarge
	case status == http.StatusTooManyRequests:
		return errRateLimited // a rate limit behind the gate; it has set Retry-After
	case status == http.StatusGatewayTimeout:
		return errUpstreamTimeout
	case status == http.StatusServiceUnavailable:
		return errUpstreamUnavailable
	case status >= 400 && status < 500:
		return errRequestFailed
	}
	return errUpstreamUnreachable
}

// errorStatus is the status that a handler's error asks for.
func errorStatus(err error) int {
	if handlerError := (caddyhttp.HandlerError{}); errors.As(err, &handlerError) {
		return handlerError.StatusCode
	}
	return http.StatusInternalServerError
}

// logFailure logs what failed, without the request's headers, and the status
// that the caller gets for it. The error may quote what the upstream sent,
// which may quote the key.
func (h *Handler) logFailure(level zapcore.Level, r *http.Request, status int, err error, key secret.Secret) {
	h.logger.Log(level, "request failed behind the gate",
		zap.String("gate", h.Name),
		zap.String("method", r.Method),
		zap.String("path", r.URL.Path),
		zap.Int("status", status),
		zap.String("error", strings.ReplaceAll(err.Error(), key.Reveal(), secret.Redacted)))
}
