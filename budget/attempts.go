package budget

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
)

// upstreamStatus is where reverse_proxy says what an upstream has answered. The
// caller may be told another status: handle_response, intercept and others are
// behind the budget.
const upstreamStatus = "http.reverse_proxy.status_code"

// attempts are the times that a request was sent to an upstream. reverse_proxy
// may do so again if one does not answer (lb_retry_match), and says nothing of
// those before the last.
type attempts struct {
	context.Context // of the request, before
	replacer        *caddy.Replacer
	trace           httptrace.ClientTrace

	begun      bool        // there was an attempt that says what becomes of it
	sent       atomic.Bool // the last attempt: the upstream may have the request whole
	unanswered int         // how many before the last were sent, and not answered
}

type attemptsKey struct{}

// Value implements context.Context.
func (a *attempts) Value(key any) any {
	if key == (attemptsKey{}) {
		return a
	}
	return a.Context.Value(key)
}

// watch watches what becomes of r on its way to upstreams. A budget behind
// another one asks that.
func (e *exchange) watch(r *http.Request) {
	replacer := replacerOf(r)
	if e.request.free || replacer == nil {
		return
	}
	if outer, ok := r.Context().Value(attemptsKey{}).(*attempts); ok {
		e.attempts = outer
		return
	}
	a := &e.watched
	a.Context, a.replacer = r.Context(), replacer
	a.trace.GetConn, a.trace.WroteRequest = a.begin, a.wrote
	e.attempts = a
	replacer.Delete(upstreamStatus) // of a forward_auth before the budget
	// (In place: a copy would be kept, too, for as long as a stream is open.)
	*r = *r.WithContext(httptrace.WithClientTrace(a, &a.trace))
}

// begin begins another attempt. (One that was answered is paid or refused: it is
// sent again only by handle_response or because its answer says so.)
func (a *attempts) begin(string) {
	a.begun = true
	if a.sent.Swap(false) && a.status() == 0 {
		a.unanswered++
	}
	a.replacer.Delete(upstreamStatus)
}

// wrote says that the request was sent, whole if there is no error.
func (a *attempts) wrote(info httptrace.WroteRequestInfo) {
	if info.Err == nil {
		a.sent.Store(true)
	}
}

// status is what the upstream has answered to the last attempt; 0 if it has not,
// or if nobody says.
func (a *attempts) status() int {
	if a == nil {
		return 0
	}
	status, _ := a.replacer.Get(upstreamStatus)
	code, _ := status.(int)
	return code
}

// mayBeAtWork reports whether the last attempt was sent and not answered.
func (a *attempts) mayBeAtWork() bool { return a != nil && a.sent.Load() && a.status() == 0 }

// reachedNobody reports whether the last attempt was not sent whole.
func (a *attempts) reachedNobody() bool {
	return a != nil && a.begun && !a.sent.Load() && a.status() == 0
}

// lost is how many attempts before the last may be at work or have been.
func (a *attempts) lost() int {
	if a == nil {
		return 0
	}
	return a.unanswered
}
