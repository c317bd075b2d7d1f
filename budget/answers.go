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
		"What a WebSocket asks for and costs cannot be seen here, and that is limited. Use HTTP.")
	errRoute = refusal.NewFinal(codeHeaderName, http.StatusForbidden, "route_not_counted",
		"What a request of this route asks for and costs cannot be seen here, and that is limited. POST /v1/responses and requests that cost nothing pass.")
	errEncoding = refusal.NewFinal(codeHeaderName, http.StatusUnsupportedMediaType, "encoding_not_readable",
		"What a request may ask for is limited here, so it must be readable. Send its body as application/json in UTF-8, without a Content-Encoding.")
	errBody = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "body_not_readable",
		"What a request may ask for is limited here, so it must be readable. Send one JSON object, not nested deeper than 256 times, in which no name stands twice or in another case than the API's, and max_output_tokens, if it is there, is a whole number of 1 or more.")
	errTooLarge = refusal.NewFinal(codeHeaderName, http.StatusRequestEntityTooLarge, "request_too_large",
		"The request body is larger than this server allows.")
	errBrokenBody = refusal.New(codeHeaderName, http.StatusBadRequest, "body_broken_off",
		"The request's body did not arrive whole.")
	errReserved = refusal.Soon(codeHeaderName, "budget_reserved",
		"What is left of this caller's budget is reserved for its requests under way. Try again when one of them has ended.", 2)
	errTooManyOpen = refusal.Soon(codeHeaderName, "too_many_at_once",
		"This caller has as many requests under way as it may. Try again when one of them has ended.", 2)
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
