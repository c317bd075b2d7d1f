package budget

import (
	"cmp"
	"errors"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// exchange is an admitted request and its answer, which it passes on as it
// comes, and reads meanwhile.
type exchange struct {
	caddyhttp.ResponseWriterWrapper
	handler     *Handler
	http        *http.Request
	user        string
	request     *request
	reservation *reservation
	began       time.Time

	err    error // what the next handler returned
	status int   // of the final answer; 0 before there is one
	events *eventScanner
	json   *jsonScanner
	booked bool
}

// begin wraps an admitted request.
func (h *Handler) begin(w http.ResponseWriter, r *http.Request, user string, request *request, reservation *reservation) *exchange {
	return &exchange{
		ResponseWriterWrapper: caddyhttp.ResponseWriterWrapper{ResponseWriter: w},
		handler:               h, http: r, user: user, request: request, reservation: reservation, began: time.Now(),
	}
}

// WriteHeader implements http.ResponseWriter.
func (e *exchange) WriteHeader(status int) {
	header := e.Header()
	delete(header, codeHeaderName) // only the budget's own answers have it
	if status < 200 && status != http.StatusSwitchingProtocols {
		e.ResponseWriter.WriteHeader(status) // informational; the final one follows
		return
	}
	if e.status == 0 {
		e.status = status
		e.choose(header)
	}
	e.ResponseWriter.WriteHeader(status)
}

// choose finds out how the answer tells what it has cost. One that is
// compressed, though nobody asked for that, is not read, and so estimated.
func (e *exchange) choose(header http.Header) {
	if !e.succeeded() || e.request.free {
		return
	}
	if encoding := header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return
	}
	mediaType, _, _ := mime.ParseMediaType(header.Get("Content-Type"))
	switch mediaType {
	case "text/event-stream":
		e.events = newEventScanner()
	case "application/json":
		e.json = newAnswerScanner()
	}
}

func (e *exchange) succeeded() bool { return e.status >= 200 && e.status < 300 }

// Write implements http.ResponseWriter. What a piece tells is booked before the
// piece is passed on: nobody can read it, leave and not pay.
func (e *exchange) Write(data []byte) (int, error) {
	if e.status == 0 {
		e.WriteHeader(http.StatusOK)
	}
	e.read(data)
	return e.ResponseWriter.Write(data)
}

// ReadFrom implements io.ReaderFrom. (What the kernel passes on, nobody reads.)
func (e *exchange) ReadFrom(src io.Reader) (int64, error) {
	if e.status == 0 {
		e.WriteHeader(http.StatusOK)
	}
	if e.events == nil && e.json == nil {
		return e.ResponseWriterWrapper.ReadFrom(src)
	}
	return io.Copy(struct{ io.Writer }{e}, src)
}

// FlushError is what http.ResponseController calls to flush. Without it, a
// flush would go around WriteHeader.
func (e *exchange) FlushError() error {
	if e.status == 0 {
		e.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(e.ResponseWriter).Flush()
}

// read looks for the usage in a piece of the answer.
func (e *exchange) read(data []byte) {
	switch {
	case e.booked:
	case e.events != nil:
		if e.events.feed(data) {
			e.book(e.events.found)
		}
	case e.json != nil:
		if e.json.feed(data); e.json.done {
			e.book(e.json.usage())
		}
	}
}

// end books what has not been told.
func (e *exchange) end() {
	if !e.booked && !e.costsNothing() {
		e.book(usage{model: e.model(), calls: e.calls()})
	}
	// A trailer comes after the header.
	delete(e.Header(), codeHeaderName)
	delete(e.Header(), http.TrailerPrefix+codeHeaderName)
	e.handler.ended(e)
}

// model is the answer's, as far as it was read.
func (e *exchange) model() string {
	switch {
	case e.events != nil:
		return e.events.found.model
	case e.json != nil:
		return e.json.found.model
	}
	return ""
}

// calls are the calls of tools at the API, as far as the answer was read.
func (e *exchange) calls() toolCalls {
	switch {
	case e.events != nil:
		return e.events.calls
	case e.json != nil:
		return e.json.calls
	}
	return toolCalls{}
}

// costsNothing reports whether the API has taken nothing for the request: it
// refused it, or never got it.
func (e *exchange) costsNothing() bool {
	if e.request.free || e.status >= 300 || e.status == http.StatusSwitchingProtocols {
		return true
	}
	if e.status != 0 || e.err == nil {
		return false
	}
	notReached := reverseproxy.DialError{}
	failed := caddyhttp.HandlerError{}
	return errors.As(e.err, &notReached) || errors.As(e.err, &failed) && failed.StatusCode == http.StatusServiceUnavailable
}

// book books what the request has cost: what the answer tells, or an estimate.
func (e *exchange) book(told usage) {
	e.booked = true
	now := time.Now()
	cost := Spent{Input: told.input, Cached: told.cached, Output: told.output, Reasoning: told.reasoning}
	if !told.told {
		cost = Spent{Input: e.request.input(), Output: e.estimatedOutput(now)}
		cost.Estimated = cost.Input + cost.Output
	}
	cost.Cost = e.request.cost(cost, told.calls)
	e.reservation.book(cost, now)
	e.reservation.bookModel(models.label(cmp.Or(told.model, "unknown")), cost, now)
	e.handler.note(e.user, e.handler.limitsOf(e.user))
	e.handler.spent(e, told.model, cost)
}

// estimatedOutput is what an answer is taken to have that did not tell. A
// stream that was seen to begin grew as long as it was seen. Of any other,
// nobody saw how far the API came, which may go on when its caller has left: so
// what is reserved counts, where anything is.
func (e *exchange) estimatedOutput(now time.Time) int64 {
	if e.events == nil && e.request.reserve != (amount{}) {
		return e.request.maxOutput
	}
	seconds := int64(now.Sub(e.began)/time.Second) + 1
	return min(seconds*tokensPerSecond, e.request.maxOutput)
}

// tell sets a placeholder, {http.responses_budget.<name>}, for logs and for
// the handlers around this one.
func tell(r *http.Request, name string, value any) {
	if replacer, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		replacer.Set("http.responses_budget."+name, value)
	}
}

// Interface guards
var (
	_ http.ResponseWriter = (*exchange)(nil)
	_ io.ReaderFrom       = (*exchange)(nil)
)
