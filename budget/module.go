// Package budget is the Caddy HTTP handler http.handlers.responses_budget. It
// stands in front of reverse_proxy, counts what each caller of the OpenAI
// Responses API spends, and refuses those who have spent what they may.
//
// Who the caller is, an authentication before it says: the gate of this
// module, or any other that sets {http.auth.user.id}.
package budget

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/storage"
)

func init() {
	caddy.RegisterModule(new(Handler))
}

// Handler limits what each caller may spend, and counts it. A caller is whom
// `{http.auth.user.id}` names; a request without it gets 500, because the
// operator forgot the authentication. A request that is refused gets 429 in
// the OpenAI error shape and its code in the header `X-Responses-Budget`.
//
// Counts are kept in Caddy's `storage`, and are the sum over all processes
// that use it. They survive restarts; a crash loses 2 seconds of them at most.
type Handler struct {
	// The budget's name: letters, digits, `_` and `-`, 64 at most. What is
	// spent belongs to this name and the caller: where it stands twice, what is
	// spent in one place is spent in both. Default: `default`.
	Name string `json:"name,omitempty"`

	// What every caller may spend.
	Limits

	// What models cost, in any unit: figures of the operator's, none are built
	// in. The model is the one that the request names. Default: none.
	Price []Price `json:"price,omitempty"`

	// What calls of tools cost that run at the API, in the unit of the prices.
	// Where `cost` is limited, tools without a fee are refused. Default: none.
	Fee []Fee `json:"fee,omitempty"`

	// Callers with limits of their own, by `{http.auth.user.id}`. Default: none.
	Client []Client `json:"client,omitempty"`

	logger  *zap.Logger
	book    *book
	shared  string // the key of the book in books
	limits  *limits
	clients map[string]*limits
}

// Limits are what one caller may spend. What is left out has no limit.
type Limits struct {
	// What may be spent in a stretch of time, which is aligned to UTC.
	// Around its end, twice as much can be spent in a short time.
	Per []Per `json:"per,omitempty"`

	// How many of a caller's requests may be under way at once. Default: any
	// number; then what can be spent beyond a limit has no bound.
	Concurrent int `json:"concurrent,omitempty"`

	Rules
}

// Per is what may be spent in a stretch of time.
type Per struct {
	// How long: a duration of a minute or more that divides a day (`10m`,
	// `1h`, `8h`), `1d`, `7d` (from Monday) or `month`.
	Window string `json:"window"`

	// How many requests. Default: any number.
	Requests int64 `json:"requests,omitempty"`

	// How many tokens, input and output together, as the API counts them.
	// Default: any number.
	Tokens int64 `json:"tokens,omitempty"`

	// How much money, in the unit of the prices. A model without a price is
	// refused then. Default: any amount.
	Cost Money `json:"cost,omitempty"`
}

// Client is a caller with limits of its own.
type Client struct {
	// The caller: what `{http.auth.user.id}` is for it.
	Name string `json:"name"`

	// What it may spend. What is left out is as for the others.
	Limits
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.responses_budget",
		New: func() caddy.Module { return new(Handler) },
	}
}

// books are the budgets of all configs that are running, by name and storage.
var books = caddy.NewUsagePool()

// Provision resolves the limits, and reads what is spent already.
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = ctx.Logger()
	h.Name = cmp.Or(h.Name, "default")
	if err := h.Validate(); err != nil {
		return err // (before the name is part of a path)
	}
	if err := h.resolve(); err != nil {
		return h.named(err)
	}
	if err := registerMetrics(ctx.GetMetricsRegistry()); err != nil {
		return h.named(err)
	}
	place := ctx.Storage()
	shared := h.Name + " in " + storage.New(place).Identity()
	kept, _, err := books.LoadOrNew(shared, func() (caddy.Destructor, error) {
		return openBook(place, h.Name, h.logger)
	})
	if err != nil {
		return h.named(err)
	}
	h.shared, h.book = shared, kept.(*book)
	h.book.join(h)
	return nil
}

// Validate checks the options against themselves.
func (h *Handler) Validate() error {
	if !isName(h.Name) {
		return h.named(errors.New("name: use letters, digits, '_' and '-', 64 at most"))
	}
	return nil
}

// ServeHTTP lets r pass and counts what it costs, or refuses it.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	user := userOf(r)
	if user == "" {
		h.logger.Error("a request came without {http.auth.user.id}; put responses_proxy_gate or another authentication before responses_budget")
		return h.refuse(w, r, "", errNoUser)
	}
	limits := h.limitsOf(user)
	exchange := &exchange{handler: h, user: user, limits: limits}
	// A place comes first: what is under way bounds the bodies that are held.
	var said verdict
	if exchange.reservation, said = h.book.enter(user, limits, time.Now()); said.reason != admitted {
		return h.refuse(w, r, user, said.answer())
	}
	defer exchange.reservation.end()
	if refused := exchange.request.inspect(r, limits); refused != nil {
		return h.refuse(w, r, user, refused)
	}
	if said := exchange.reservation.admit(limits, exchange.request.reserve, time.Now()); said.reason != admitted {
		return h.refuse(w, r, user, said.answer())
	}
	exchange.begin(w, r)
	exchange.watch(r)
	defer exchange.end()
	exchange.err = next.ServeHTTP(exchange, r)
	return exchange.err
}

// Cleanup implements caddy.CleanerUpper. It also runs after a failed Provision.
func (h *Handler) Cleanup() error {
	if h.book == nil {
		return nil
	}
	h.book.leave(h)
	_, err := books.Delete(h.shared)
	return err
}

// userOf is the caller's id, as the authentication before this handler set it.
func userOf(r *http.Request) string {
	replacer := replacerOf(r)
	if replacer == nil {
		return ""
	}
	user, _ := replacer.GetString("http.auth.user.id")
	user = strings.ToValidUTF8(user, "\ufffd") // (metrics and records have nothing else)
	return strings.ReplaceAll(user, modelMark, "\ufffd")
}

// refuse answers in place of what is behind the budget.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, user string, refused *refusal.Answer) error {
	if replacer := replacerOf(r); replacer != nil {
		replacer.Set(placeholders+"refused", refused.Code)
	}
	count(h.Name, user, refused.Code)
	refused.Write(w, r)
	return nil
}

// named says which budget an error is about.
func (h *Handler) named(err error) error { return fmt.Errorf("responses_budget %s: %w", h.Name, err) }

// isName reports whether text can be a part of a key in any storage.
func isName(text string) bool {
	if text == "" || len(text) > 64 {
		return false
	}
	for i := range len(text) {
		c := text[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// Interface guards
var (
	_ caddy.Module                = (*Handler)(nil)
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.Validator             = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)
