package budget

import (
	"fmt"
	"net/http"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
)

// codeHeaderName carries the code of an answer of the budget's own. Upstreams
// cannot forge it: it is taken out of their answers.
const codeHeaderName = "X-Responses-Budget"

// The answers that are always the same.
var (
	errNoUser = refusal.New(codeHeaderName, http.StatusInternalServerError, "no_user",
		"The server does not know whose budget this request is on. The operator must put an authentication, such as responses_proxy_gate, before responses_budget.")
	errWebSocket = refusal.New(codeHeaderName, http.StatusUpgradeRequired, "websocket_not_counted",
		"This server limits what requests ask for and cost, and cannot see that in a WebSocket. Use HTTP.")
	errRoute = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "route_not_counted",
		"This server limits what requests ask for and cost, and cannot see that on this path. It allows POST /v1/responses and /v1/responses/compact, and requests that cost nothing.")
	errEncoding = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "encoding_not_readable",
		"This server limits what requests ask for, so it must read their bodies. Send application/json in UTF-8, without a Content-Encoding.")
	errBody = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "body_not_readable",
		"This server limits what requests ask for, so it must read their bodies. Send one JSON object, nested 256 times at most. Write each name once, and as the API does. If they are there, max_output_tokens must be a whole number of 1 or more, store and background true or false, and tools a list.")
	errTooLarge = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "request_too_large",
		"The request's body is larger than this server allows. Send a smaller one.")
	errBrokenBody = refusal.New(codeHeaderName, http.StatusBadRequest, "body_broken_off",
		"The request's body did not arrive whole. Send it again.")
	errReserved = refusal.Soon(codeHeaderName, "budget_reserved",
		"This caller's requests under way have reserved the rest of its budget. Try again when one of them has ended.", 2)
	errTooManyOpen = refusal.Soon(codeHeaderName, "too_many_at_once",
		"This caller has as many requests under way as it may have. Try again when one of them has ended.", 2)
)

// answer is what a caller is told whose request is not admitted.
func (v verdict) answer() *refusal.Answer {
	switch v.reason {
	case reserved:
		return errReserved
	case tooManyOpen:
		return errTooManyOpen
	}
	spent := fmt.Sprintf("%d tokens", v.limit.tokens)
	switch v.unit {
	case "requests":
		spent = fmt.Sprintf("%d requests", v.limit.requests)
	case "cost":
		spent = v.limit.cost.String()
	}
	return refusal.UntilReset(codeHeaderName, "budget_exhausted",
		fmt.Sprintf("This caller's budget of %s per %s is spent. It is new at %s; until then another try will not help.",
			spent, v.limit.window.name, v.resets.UTC().Format("2006-01-02 15:04 UTC")),
		v.now, v.resets)
}
