package responsesproxygate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/dump"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/keptconn"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

// newAnswer is where the answer to r, a request of a caller's, is written, and r
// with the key for the Transport and a context with which it can be cut off.
func (h *Handler) newAnswer(w http.ResponseWriter, r *http.Request, caller *configuredCaller, presented *presentedKey) (*answerWriter, *http.Request) {
	answer := &answerWriter{
		ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		handler:               h,
		caller:                caller,
		outcome:               outcomeForwarded,
	}
	ctx := &heldKeyContext{held: heldKey{
		header: h.credential.headerName,
		value:  presented.header,
		anyWay: h.allows(riskPlaintextUpstream),
		access: &answer.access,
		body:   &answer.body,
	}}
	answer.access.handler, answer.access.caller = h, caller
	ctx.Context, answer.cutOff, answer.alone = keptconn.WithCancel(r.Context())
	answer.request, answer.sent.held = r.WithContext(ctx), &ctx.held
	return answer, answer.request
}

// forward passes r on and streams the answer back. A failure of the next
// handler is answered here and not returned to Caddy, whose error log would
// print the request's headers as they came in, the token among them.
//
// The key is the one that is held for r.
func (h *Handler) forward(answer *answerWriter, r *http.Request, next caddyhttp.Handler, key secret.Secret) error {
	caller := answer.caller
	answer.accepted = h.trail.begin(r, caller)
	caller.metrics.inFlight.Inc()
	defer answer.observe()
	defer answer.finishWithheld()
	answer.wrapBody(r)
	underWay.begin(answer)
	defer underWay.done(answer)
	err := next.ServeHTTP(answer, r)
	if err == nil && !answer.wroteHeader {
		err = answer.sent.held.fault
	}
	answer.whole = err == nil || !answer.wroteHeader
	switch {
	case !answer.wroteHeader && answer.access.ended.Load():
		answer.endAccess()
	case err != nil:
		answer.fail(err, key)
	case answer.wroteHeader:
		answer.dropCodeTrailer()
	default:
		h.logger.Error("nothing behind the gate answered; put reverse_proxy after responses_proxy_gate, or, if it is there, look at its log at level DEBUG",
			zap.String("gate", h.Name))
		answer.refuse(errNoUpstream)
	}
	return nil
}

// answerWriter passes the upstream's answer through as it streams, with these
// exceptions: a 401, a redirect, and what is no status, is withheld; there are
// no informational answers; and CORS headers and the code are the gate's own.
type answerWriter struct {
	caddyhttp.ResponseWriterWrapper
	handler     *Handler
	request     *http.Request
	caller      *configuredCaller
	access      access
	body        callersBody
	sent        sentOn
	accepted    *acceptedRequest
	cutOff      context.CancelFunc // of the request, and of all on its connection
	alone       bool               // it is of this request alone
	wroteHeader bool
	status      int         // the caller's answer's; 0 before there is one
	upstream    int         // the status from behind the gate; 0 before there is one
	outcome     *outcome    // so far
	whole       bool        // what is behind the gate did not break off
	withheld    http.Header // not nil once the upstream's answer is withheld: where its headers go instead
	own         http.Header // then, the headers of the gate's own answer
	discarded   int64       // bytes of the withheld answer
}

// Header implements http.ResponseWriter.
func (a *answerWriter) Header() http.Header {
	if a.withheld != nil {
		return a.withheld // trailers of the withheld answer
	}
	return a.ResponseWriter.Header()
}

// WriteHeader implements http.ResponseWriter.
func (a *answerWriter) WriteHeader(status int) {
	if a.wroteHeader {
		return
	}
	if status >= 100 && status < 200 && status != http.StatusSwitchingProtocols {
		// Informational; the final one follows. Callers of an API do nothing
		// with them, and net/http itself tells one who waits to go on (100).
		return
	}
	header := a.ResponseWriter.Header()
	dropCORS(header)
	if a.access.ended.Load() {
		a.endAccess()
		return
	}
	if status == statusClientGone && a.sent.held.fault != nil {
		return // reverse_proxy takes the caller for gone; who forwards answers it
	}
	if refused := a.reasonToWithhold(status, header); refused != nil {
		a.withhold(header, refused)
		return
	}
	a.wroteHeader, a.status, a.upstream = true, status, status
	delete(header, codeHeaderName) // only the gate's own answers have it
	a.handler.policy.allowCORS(header, a.request)
	stream := isEventStream(header) && header["Content-Length"] == nil // (below, they may change)
	a.ResponseWriter.WriteHeader(status)
	if stream {
		// reverse_proxy would do it with the first event, from so deep that
		// each stream's stack would keep another page (docs/tuning.md). If it
		// cannot be done, the first event will tell.
		_ = http.NewResponseController(a.ResponseWriter).Flush()
	}
}

// reasonToWithhold is what the caller is answered in place of an upstream's
// answer that it must not have; nil if it may have it.
func (a *answerWriter) reasonToWithhold(status int, header http.Header) *refusal {
	gate, logger := zap.String("gate", a.handler.Name), a.handler.logger
	switch {
	case status < 100 || status > 999:
		// Not HTTP; net/http's client takes it, and its server panics.
		logger.Error("the upstream answered with a status that is none", gate, zap.Int("status", status))
		return errUpstreamUnreachable
	case status >= 300 && status < 400 && header["Location"] != nil:
		if a.handler.trail.admits(a.caller, errUpstreamRedirects) {
			logger.Error("the upstream answered with a redirect, which is withheld: the caller would follow it with its token; let reverse_proxy lead to where the API is",
				gate, zap.Int("status", status))
		}
		a.upstream = status
		return errUpstreamRedirects
	}
	refused, wait, began := a.sent.answered(status)
	switch {
	case refused == errNoUpstream:
		logger.Error("something behind the gate answered with status 401 that was not given the operator's key; "+
			"if it leads to the upstream, write in that reverse_proxy: transport responses_proxy_gate", gate)
	case began:
		logger.Error("the upstream refused the operator's credential (status 401); "+a.sent.credential.remedy(), gate, zap.Duration("next_try_after", wait))
	}
	if refused != nil {
		// OpenAI's error text has a part of the operator's key; and to the
		// gate's callers 401 must mean their own token, because many renew it
		// and try again when they see one.
		a.upstream = status
	}
	return refused
}

// isEventStream reports whether an answer is a stream of events (WHATWG HTML §9.2).
func isEventStream(header http.Header) bool {
	for _, value := range header["Content-Type"] {
		mediaType, _, _ := strings.Cut(value, ";")
		if equalFoldASCII(strings.TrimSpace(mediaType), "text/event-stream") {
			return true
		}
	}
	return false
}

// withhold answers in place of the upstream, of whose answer nothing is passed on.
func (a *answerWriter) withhold(header http.Header, refused *refusal) {
	clear(header)
	if refused == errTokenEnded {
		leave(a.ResponseWriter, a.request, true)
	}
	a.handler.policy.allowCORS(header, a.request)
	a.wroteHeader, a.outcome, a.status = true, refused.outcome, refused.Status
	// The handler goes on, and may flush before it ends.
	header["Content-Length"] = []string{strconv.Itoa(len(refused.Body))}
	refused.Send(a.ResponseWriter)
	a.withheld, a.own = make(http.Header), header.Clone()
}

// endAccess answers a caller whose access has ended.
func (a *answerWriter) endAccess() {
	a.handler.trail.refused(a.request, a.caller, errTokenEnded)
	a.withhold(a.ResponseWriter.Header(), errTokenEnded)
}

// dropCodeTrailer takes from an upstream's answer, once it is over, a trailer
// that only the gate may send.
func (a *answerWriter) dropCodeTrailer() {
	if a.withheld == nil && a.upstream != 0 {
		header := a.ResponseWriter.Header()
		delete(header, codeHeaderName)
		delete(header, http.TrailerPrefix+codeHeaderName)
	}
}

// maxDiscarded is how much of a withheld answer is read to the end, in bytes.
// OpenAI's is about 300. One that does not end is cut off.
const maxDiscarded = 64 << 10

var errWithheld = errors.New("the answer is withheld from the caller")

// discard takes n bytes of a withheld answer.
func (a *answerWriter) discard(n int) (int, error) {
	if a.discarded += int64(n); a.discarded > maxDiscarded {
		return 0, errWithheld
	}
	return n, nil
}

// finishWithheld ends an exchange whose answer was withheld: the gate's own
// answer is complete, whatever became of the upstream's.
func (a *answerWriter) finishWithheld() {
	if a.withheld == nil {
		return
	}
	if thrown := recover(); thrown != nil && thrown != http.ErrAbortHandler {
		panic(thrown)
	}
	// Over HTTP/2, fields that are added to a header after it was sent
	// become trailers. A handler may have kept the map from before. What was
	// sent is there for the access log.
	header := a.ResponseWriter.Header()
	clear(header)
	maps.Copy(header, a.own)
}

// refuse answers in place of a next handler that did not.
func (a *answerWriter) refuse(refused *refusal) {
	a.wroteHeader, a.outcome, a.status = true, refused.outcome, refused.Status
	header := a.ResponseWriter.Header()
	dropCORS(header)
	a.handler.policy.allowCORS(header, a.request)
	refused.Write(a.ResponseWriter, a.request)
}

// observe counts and writes what became of the request, which has ended.
func (a *answerWriter) observe() {
	if !a.whole && a.withheld == nil {
		a.outcome = outcomeCutOff
		if a.access.ended.Load() || a.request.Context().Err() != nil {
			a.outcome = outcomeClientGone
		}
	}
	var refused string
	if a.outcome == outcomeForwarded && a.status >= http.StatusBadRequest {
		if refused = refusedByBudget(a.request); refused != "" {
			a.outcome, a.upstream = outcomeOverBudget, 0
		}
	}
	metrics := a.caller.metrics
	metrics.inFlight.Dec()
	metrics.requests[a.outcome.number].Inc()
	switch {
	case a.outcome == outcomeCutOff, a.upstream == 0 && a.status >= http.StatusInternalServerError:
		metrics.answered(0)
	case a.upstream != 0:
		metrics.answered(a.upstream)
	}
	if a.outcome == outcomeOverBudget {
		a.handler.trail.refused(a.request, a.caller, &refusal{&refusals.Answer{Status: a.status, Code: refused}, outcomeOverBudget})
		return
	}
	a.accepted.end(a.outcome, a.status, a.request)
}

// Write implements http.ResponseWriter.
func (a *answerWriter) Write(data []byte) (int, error) {
	a.WriteHeader(http.StatusOK) // if nothing has been written yet
	if a.withheld != nil {
		return a.discard(len(data))
	}
	return a.ResponseWriter.Write(data)
}

// ReadFrom implements io.ReaderFrom, for sendfile and splice.
func (a *answerWriter) ReadFrom(src io.Reader) (int64, error) {
	a.WriteHeader(http.StatusOK)
	if a.withheld != nil {
		return io.Copy(struct{ io.Writer }{a}, src) // through Write, which bounds it
	}
	return a.ResponseWriterWrapper.ReadFrom(src)
}

// FlushError is what http.ResponseController calls to flush. Without it, a
// flush would go around WriteHeader.
func (a *answerWriter) FlushError() error {
	a.WriteHeader(http.StatusOK)
	return http.NewResponseController(a.ResponseWriter).Flush()
}

// openDumps checks the directory for dumps.
func (h *Handler) openDumps() error {
	if h.DumpDir == "" {
		return nil
	}
	path, err := resolvePath("dump_dir", h.DumpDir)
	if err != nil {
		return err
	}
	if h.dumper, err = dump.Open(path, dump.Secrets{Texts: h.tokenTexts, IsToken: h.isToken}, h.logger); err != nil {
		return fmt.Errorf("dump_dir: %w", err)
	}
	return nil
}

// beginDump takes down a request, if exchanges are dumped.
func (h *Handler) beginDump(r *http.Request, caller *configuredCaller, key secret.Secret) *dump.Exchange {
	if h.dumper == nil {
		return nil
	}
	secrets := []string{caller.told().Reveal(), key.Reveal()}
	if token, refused := presentedToken(r.Header); refused == nil {
		secrets = append(secrets, token)
	}
	return h.dumper.Begin(r, isWebSocketUpgrade(r), secrets...)
}

// tokenTexts are the tokens of the config's callers.
func (h *Handler) tokenTexts() []string {
	var texts []string
	for _, c := range h.policy.tokens.callers {
		texts = append(texts, c.told().Reveal())
	}
	return texts
}

// isToken reports whether a text is anybody's token now, a shared client's or a
// former one's in its grace period too.
func (h *Handler) isToken(text string) bool {
	_, ok := h.policy.tokens.match(markOf(text))
	return ok
}

// Interface guards
var (
	_ http.ResponseWriter = (*answerWriter)(nil)
	_ io.ReaderFrom       = (*answerWriter)(nil)
)
