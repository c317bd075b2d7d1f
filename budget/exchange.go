package budget

import (
	"cmp"
	"context"
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

// exchange is a request and, once it is admitted, its answer, which it passes on
// as it comes, and reads meanwhile.
type exchange struct {
	caddyhttp.ResponseWriterWrapper
	handler     *Handler
	user        string
	limits      *limits
	request     request
	reservation reservation
	began       time.Time
	caller      context.Context // of the request
	attempts    *attempts       // nil if the request is free
	watched     attempts        // that they are, unless a budget before this one has them

	err    error // what the next handler returned
	status int   // of the final answer; 0 before there is one
	events *eventScanner
	json   *jsonScanner
	booked bool
	cost   Spent  // once it is booked
	told   string // and the model's name
}

// begin begins the answer to a request that is admitted.
func (e *exchange) begin(w http.ResponseWriter, r *http.Request) {
	e.ResponseWriter, e.began, e.caller = w, time.Now(), r.Context()
	e.handler.note(e.user, e.limits, e.began)
	if replacer := replacerOf(r); replacer != nil {
		replacer.Map(e.placeholder)
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
	if e.request.free || !succeeded(e.status) && !succeeded(e.attempts.status()) {
		return
	}
	if encoding := header.Get("Content-Encoding"); encoding != "" && !strings.EqualFold(encoding, "identity") {
		return
	}
	mediaType := header.Get("Content-Type")
	if mediaType != "text/event-stream" && mediaType != "application/json" {
		mediaType, _, _ = mime.ParseMediaType(mediaType)
	}
	switch mediaType {
	case "text/event-stream":
		e.events = new(eventScanner)
	case "application/json":
		e.json = newScanner(placeResponse)
	}
}

func succeeded(status int) bool { return status >= 200 && status < 300 }

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
			e.book(e.events.found, e.attempts.lost())
		}
	case e.json != nil:
		if e.json.feed(data); e.json.done {
			e.book(e.json.usage(), e.attempts.lost())
		}
	}
}

// end books what has not been told.
func (e *exchange) end() {
	switch {
	case e.booked:
	case !e.costsNothing():
		e.book(usage{model: e.model(), calls: e.calls()}, e.attempts.lost())
	case e.attempts.lost() > 0:
		e.book(usage{}, e.attempts.lost()-1)
	}
	// A trailer comes after the header.
	delete(e.Header(), codeHeaderName)
	delete(e.Header(), http.TrailerPrefix+codeHeaderName)
	if !e.booked {
		count(e.handler.Name, e.user, "free")
	}
	if e.events != nil {
		e.events.letGo()
	}
	if e.json != nil {
		scanners.Put(e.json)
		e.json = nil
	}
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

// statusCallerGone is what reverse_proxy answers in an upstream's stead if the
// caller has left before the upstream has answered.
const statusCallerGone = 499

// costsNothing reports whether the API has taken nothing for the request, at the
// last attempt: it refused it, or never got it. What the upstream has answered
// counts more than what the caller is told.
func (e *exchange) costsNothing() bool {
	told := e.attempts.status()
	switch {
	case e.request.free, e.status == http.StatusSwitchingProtocols:
		return true
	case told >= 300:
		return e.status == 0 || e.status >= 300
	case told != 0, e.attempts.mayBeAtWork():
		return false
	case e.status == statusCallerGone && e.caller.Err() != nil:
		return false // reverse_proxy says so itself: the upstream may be at work
	case e.status >= 300, e.err != nil && e.attempts.reachedNobody():
		return true
	case e.status != 0, e.err == nil:
		return false
	}
	notReached := reverseproxy.DialError{}
	failed := caddyhttp.HandlerError{}
	return errors.As(e.err, &notReached) || errors.As(e.err, &failed) && failed.StatusCode == http.StatusServiceUnavailable
}

// book books what the request has cost: what the answer tells, or an estimate,
// and one for each lost attempt before.
func (e *exchange) book(told usage, lost int) {
	e.booked = true
	now := time.Now()
	cost := Spent{Input: told.input, Cached: told.cached, Output: told.output, Reasoning: told.reasoning}
	if !told.told {
		cost = e.estimate(e.seenOutput(now))
	}
	cost.Cost = e.request.cost(cost, told.calls)
	for range lost {
		one := e.estimate(e.unseenOutput(now))
		one.Cost = e.request.cost(one, toolCalls{})
		cost = cost.plus(one)
	}
	name := cmp.Or(told.model, "unknown")
	label := models.label(name)
	e.reservation.book(label, cost, now)
	e.handler.note(e.user, e.limits, now)
	e.told, e.cost = label, cost
	if isModel(name) {
		e.told = name // a log has room for more names than metrics have
	}
	e.handler.spent(e, label)
}

// estimate is what an answer with so much output is taken to cost.
func (e *exchange) estimate(output int64) Spent {
	return Spent{Input: e.request.input(), Output: output, Estimated: e.request.input() + output}
}

// seenOutput is what the answer is taken to have that did not tell. A
// stream that was seen to begin grew as long as it was seen, and has a token or
// more in each piece that was.
func (e *exchange) seenOutput(now time.Time) int64 {
	if e.events == nil || !e.events.came {
		return e.unseenOutput(now)
	}
	return min(max(e.grown(now), e.events.deltas), e.request.maxOutput)
}

// unseenOutput is what an answer is taken to have of which nobody saw how far
// the API came, which may go on when its caller has left: what is reserved, where
// anything is.
func (e *exchange) unseenOutput(now time.Time) int64 {
	if e.request.reserve != (amount{}) {
		return e.request.maxOutput
	}
	return min(e.grown(now), e.request.maxOutput)
}

// grown is what comes in the time since the request began.
func (e *exchange) grown(now time.Time) int64 {
	return (int64(now.Sub(e.began)/time.Second) + 1) * tokensPerSecond
}

// placeholders is what the names of all placeholders begin with.
const placeholders = "http.responses_budget."

// placeholder is the value of {http.responses_budget.<name>}, for logs and the
// handlers around this one. (It is made when somebody asks: few do.)
func (e *exchange) placeholder(key string) (any, bool) {
	name, ok := strings.CutPrefix(key, placeholders)
	if !ok || !e.booked {
		return nil, false
	}
	switch {
	case name == "model":
		return e.told, true
	case name == "input_tokens":
		return e.cost.Input, true
	case name == "output_tokens":
		return e.cost.Output, true
	case name == "estimated":
		return e.cost.Estimated > 0, true
	case name == "cost" && e.request.price != nil:
		return e.cost.Cost.String(), true
	}
	return nil, false
}

// replacerOf is the request's replacer; nil outside of Caddy.
func replacerOf(r *http.Request) *caddy.Replacer {
	replacer, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	return replacer
}

// Interface guards
var (
	_ http.ResponseWriter = (*exchange)(nil)
	_ io.ReaderFrom       = (*exchange)(nil)
)
