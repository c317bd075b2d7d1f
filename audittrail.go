package responsesproxygate

import (
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/recent"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

const (
	// A flood of refusals of one caller (or of nobody known) and one code is
	// written up to floodLimit lines in floodWindow. The rest is counted, and
	// the count written when the window closes: whoever has no token must not
	// be able to fill the disk.
	floodLimit  = 10
	floodWindow = 10 * time.Second

	// secretLength is how long a part of a path is that may be a token or a
	// key, or most of one. Tokens have 32 characters or more.
	secretLength = 24
)

// auditTrail writes one line for each refusal and, if the operator wants it,
// for each request that was let through. There is nothing in it of a query, a
// header or a body.
type auditTrail struct {
	logger     *zap.Logger // for http.handlers.responses_proxy_gate.audit
	gate       string
	policy     *policy
	credential *credential
	accepted   bool  // requests that were let through are written, too
	unknown    flood // of those nobody knows
	recent     *recent.Entries[adminapi.Refusal]
	closed     atomic.Bool

	mu   sync.Mutex
	open map[*atomic.Int64]window // by what counts in it
}

// flood counts the refusals in windows that are open, by the number of the
// outcome. It is kept with what else is counted of the gate or the caller.
type flood []atomic.Int64

// window is a time in which refusals of one caller and code are counted.
type window struct {
	client  string
	refused *refusal
	end     *time.Timer
}

// openAuditTrail begins the trail of a gate that is otherwise provisioned.
func (h *Handler) openAuditTrail() {
	h.trail = &auditTrail{
		logger:     h.logger.Named("audit"),
		gate:       h.Name,
		policy:     h.policy,
		credential: h.credential,
		accepted:   h.LogAccepted,
		unknown:    h.metrics.refused,
		recent:     &h.metrics.recent,
		open:       make(map[*atomic.Int64]window),
	}
}

// refused writes that r was refused, if the trail admits it, and reports
// whether it does: an access log need not have what the trail only counts. The
// caller is nil if it is not known.
func (t *auditTrail) refused(r *http.Request, caller *configuredCaller, refused *refusal) (admitted bool) {
	if !t.admits(caller, refused) {
		return false
	}
	t.remember(r, caller, refused)
	if line := t.logger.Check(refused.level(), "refused"); line != nil {
		line.Write(append(t.describe(r, caller), zap.String("code", refused.Code), zap.Int("status", refused.Status))...)
	}
	return true
}

// remember keeps what the trail says of a refusal for those who ask for the last
// ones. (A string that is cut out of the request's would keep all of it.)
func (t *auditTrail) remember(r *http.Request, caller *configuredCaller, refused *refusal) {
	now := time.Now()
	t.recent.Add(refused.Code, now, adminapi.Refusal{
		Time: now.UTC().Truncate(time.Millisecond), Client: nameOf(caller),
		RemoteAddr: strings.Clone(remoteAddr(r)), ClientIP: strings.Clone(clientIP(r)),
		Method: strings.Clone(loggedMethod(r.Method)), Path: strings.Clone(t.loggedPath(r)),
		Code: refused.Code, Status: refused.Status,
	})
}

// admits reports whether a refusal is to be written. It neither allocates nor
// looks at a clock, except for the first one in a window.
func (t *auditTrail) admits(caller *configuredCaller, refused *refusal) bool {
	if t.closed.Load() {
		return true // nobody would write the count any more; and few requests are left
	}
	counts := t.unknown
	if refused.stage != stageUnknown {
		counts = caller.metrics.refused
	}
	seen := &counts[refused.number]
	n := seen.Add(1)
	if n == 1 {
		t.openWindow(seen, window{client: nameOf(caller), refused: refused})
	}
	return n <= floodLimit
}

func (t *auditTrail) openWindow(seen *atomic.Int64, w window) {
	t.mu.Lock()
	defer t.mu.Unlock()
	w.end = time.AfterFunc(floodWindow, func() { t.closeWindow(seen) })
	t.open[seen] = w
}

// closeWindow writes how many refusals of a window were left out.
func (t *auditTrail) closeWindow(seen *atomic.Int64) {
	t.mu.Lock()
	w, isOpen := t.open[seen]
	delete(t.open, seen)
	t.mu.Unlock()
	if !isOpen {
		return
	}
	w.end.Stop()
	// The next refusal is the first of a new window.
	dropped := seen.Swap(0) - floodLimit
	if dropped <= 0 {
		return
	}
	message := "refused, and not written one by one"
	if w.refused.stage == stageBehind {
		message = "failed behind the gate, and not written one by one"
	}
	if line := t.logger.Check(w.refused.level(), message); line != nil {
		line.Write(zap.String("gate", t.gate), zap.String("client", w.client),
			zap.String("code", w.refused.Code), zap.Int64("dropped", dropped))
	}
}

// close closes every window: the gate's config is being replaced, or Caddy exits.
func (t *auditTrail) close() {
	if t == nil {
		return
	}
	t.closed.Store(true)
	t.mu.Lock()
	open := slices.Collect(maps.Keys(t.open))
	t.mu.Unlock()
	for _, seen := range open {
		t.closeWindow(seen)
	}
}

// level is WARN for what only a browser does: some web page tries to use the
// gate, or its own name for the gate.
func (f *refusal) level() zapcore.Level {
	switch f {
	case errOriginNotAllowed, errCrossSiteRequest, errHostNotAllowed:
		return zap.WarnLevel
	}
	return zap.InfoLevel
}

// acceptedRequest is a request that was let through and will be written when
// it has ended. Nil is one that will not.
type acceptedRequest struct {
	trail  *auditTrail
	began  time.Time
	fields []zap.Field // as the request was before handlers behind the gate rewrote it
}

// begin notes a request that was let through.
func (t *auditTrail) begin(r *http.Request, caller *configuredCaller) *acceptedRequest {
	if !t.accepted {
		return nil
	}
	return &acceptedRequest{trail: t, began: time.Now(), fields: t.describe(r, caller)}
}

// end writes what became of it, with the status that the caller got.
func (a *acceptedRequest) end(o *outcome, status int, r *http.Request) {
	if a == nil {
		return
	}
	a.trail.logger.Info("accepted", append(append(a.fields, zap.String("code", o.code), zap.Int("status", status),
		zap.Duration("duration", time.Since(a.began))), spentOf(r)...)...)
}

// budgetSays is what a budget behind the gate has published of r; nil if there
// is none, or nothing.
func budgetSays(r *http.Request, name string) any {
	replacer, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if replacer == nil {
		return nil
	}
	value, _ := replacer.Get("http.responses_budget." + name)
	return value
}

// refusedByBudget is why a budget refused r; "" if it did not.
func refusedByBudget(r *http.Request) string {
	code, _ := budgetSays(r, "refused").(string)
	return code
}

// spentOf is what r has cost, if a budget counts it.
func spentOf(r *http.Request) []zap.Field {
	model, ok := budgetSays(r, "model").(string)
	if !ok {
		return nil
	}
	fields := []zap.Field{zap.String("model", model)}
	for _, name := range []string{"input_tokens", "output_tokens"} {
		n, _ := budgetSays(r, name).(int64)
		fields = append(fields, zap.Int64(name, n))
	}
	if cost, ok := budgetSays(r, "cost").(string); ok {
		fields = append(fields, zap.String("cost", cost))
	}
	if estimated, _ := budgetSays(r, "estimated").(bool); estimated {
		fields = append(fields, zap.Bool("estimated", true))
	}
	return fields
}

// describe says who asked for what.
func (t *auditTrail) describe(r *http.Request, caller *configuredCaller) []zap.Field {
	fields := append(make([]zap.Field, 0, 10),
		zap.String("gate", t.gate), zap.String("client", nameOf(caller)), zap.String("remote_addr", remoteAddr(r)))
	if ip := clientIP(r); ip != "" {
		fields = append(fields, zap.String("client_ip", ip))
	}
	return append(fields, zap.String("method", loggedMethod(r.Method)), zap.String("path", t.loggedPath(r)))
}

// clientIP is the client's address, if trusted_proxies names another than the
// connection's.
func clientIP(r *http.Request) string {
	remote, _, _ := net.SplitHostPort(r.RemoteAddr)
	if ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string); ip != remote {
		return ip
	}
	return ""
}

// remoteAddr is the address and port of r's connection, or "@" if it has none:
// what stands there otherwise is text of the caller's, in the name of its unix
// socket or in a PROXY header.
func remoteAddr(r *http.Request) string {
	if _, err := netip.ParseAddrPort(r.RemoteAddr); err != nil {
		return "@"
	}
	return r.RemoteAddr
}

// nameOf is a caller's name, or "" for one who is not known.
func nameOf(caller *configuredCaller) string {
	if caller == nil {
		return ""
	}
	return caller.name
}

// knownMethods may stand in a log as they are. Any other is the caller's own
// text.
var knownMethods = append(slices.Clone(routeMethods), http.MethodOptions, http.MethodConnect, http.MethodTrace)

func loggedMethod(method string) string {
	if slices.Contains(knownMethods, method) {
		return method
	}
	return "other"
}

// loggedPath is r's path, escaped, so that it is visible ASCII; without what
// may be a secret, and not longer than secret.ShownPath makes it.
func (t *auditTrail) loggedPath(r *http.Request) string {
	if r.URL.RawPath == "" {
		for i := range t.policy.routes {
			if path := t.policy.routes[i].Path; path == r.URL.Path {
				return path
			}
		}
	}
	if t.hasSecret(r) {
		return secret.Redacted
	}
	return secret.ShownPath(r.URL.EscapedPath())
}

// hasSecret reports whether r's path has a secret of the gate's in it, or what r
// presents as a token. Secrets may have a slash in them, so that their
// segments look harmless.
func (t *auditTrail) hasSecret(r *http.Request) bool {
	path := r.URL.Path
	if len(path) < secretLength {
		return false
	}
	if strings.Contains(path, t.credential.value.Load().key.Reveal()) {
		return true
	}
	for _, c := range t.policy.tokens.callers {
		if c.fixed.Load() != nil && strings.Contains(path, c.fixedSecret().Reveal()) {
			return true
		}
	}
	for _, name := range []string{"X-Proxy-Token", "Authorization"} {
		for _, value := range r.Header[name] {
			if _, token, ok := strings.Cut(value, " "); ok && name == "Authorization" {
				value = strings.TrimLeft(token, " ")
			}
			if len(value) >= secretLength && strings.Contains(path, value) {
				return true
			}
		}
	}
	return false
}
