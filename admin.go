package responsesproxygate

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	strictjson "github.com/go-json-experiment/json"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/budget"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/surroundings"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

// adminAPI is the gates' part of Caddy's admin endpoint: its routes tell about
// clients, rotate their tokens and revoke their access.
//
// It also keeps an open admin endpoint from ever being opened beside a
// gate. The gate's own check would come too late: Caddy opens the admin
// endpoint of a new config before it provisions that config's handlers, and
// when they then refuse it, the old config goes on beside the new, open
// endpoint. Caddy provisions the modules of admin.api before it opens it.
type adminAPI struct {
	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.responses_proxy_gate",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Provision refuses an admin endpoint that another process has, beside a gate,
// and an admin endpoint that other users can reach, if the
// config has a gate that does not allow it, or if such a gate runs: it goes on
// running if the config turns out to be unusable, and Caddy does not close the
// endpoint again then.
func (a *adminAPI) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger(a)
	config, err := surroundings.ConfigOf(ctx)
	if err != nil {
		return err
	}
	if err := surroundings.RefuseAdminInUse(config); err != nil {
		return err
	}
	if anyGuardsAdmin() {
		process.DropOthersWriteRights()
		if err := surroundings.CheckAdmin(config, infofile.CheckSocket); err != nil {
			return fmt.Errorf("a responses_proxy_gate is running: %w. To leave the gate for such an endpoint, restart Caddy", err)
		}
		return nil
	}
	if config.HasGateWithout(riskTCPAdmin) {
		process.DropOthersWriteRights()
		return surroundings.CheckAdmin(config, infofile.CheckSocket)
	}
	return nil
}

const (
	adminGate   = adminapi.GatesPath + "/{gate}"
	adminClient = adminGate + "/clients/{client}"

	// adminShared is where the admin endpoint has a gate's shared clients. Tokens
	// never go through it: whoever adds a client makes its token and sends the digest.
	adminShared = adminGate + "/shared/{client}"

	adminSpending = adminapi.BudgetsPath + "/{budget}/clients/{client}"
)

// maxAdminBody is far above what any of the routes takes.
const maxAdminBody = 4 << 10

// adminMethods are the methods of one path, and what each does. What it
// returns is the answer, as JSON.
type adminMethods map[string]func(*http.Request) (any, error)

// adminPaths are the routes.
func (a *adminAPI) adminPaths() map[string]adminMethods {
	return map[string]adminMethods{
		adminapi.GatesPath:      {http.MethodGet: a.listGates},
		adminGate + "/rotate":   {http.MethodPost: a.rotateGate},
		adminGate + "/refusals": {http.MethodGet: a.listRefusals},

		adminClient + "/rotate":  {http.MethodPost: a.rotateClient},
		adminClient + "/revoke":  {http.MethodPost: a.revokeClient},
		adminClient + "/disable": {http.MethodPost: a.disableClient},
		adminClient + "/enable":  {http.MethodPost: a.enableClient},

		adminShared:              {http.MethodPut: a.addShared, http.MethodDelete: a.removeShared},
		adminShared + "/rotate":  {http.MethodPost: a.rotateShared},
		adminShared + "/disable": {http.MethodPost: a.disableShared},
		adminShared + "/enable":  {http.MethodPost: a.enableShared},
		adminShared + "/expires": {http.MethodPost: a.setEndOfShared},

		adminapi.BudgetsPath:     {http.MethodGet: listBudgets},
		adminSpending + "/reset": {http.MethodPost: resetSpending},

		adminapi.Prefix: nil, // whatever else begins like this
	}
}

// Routes implements caddy.AdminRouter.
func (a *adminAPI) Routes() (routes []caddy.AdminRoute) {
	for path, methods := range a.adminPaths() {
		routes = append(routes, caddy.AdminRoute{Pattern: path, Handler: methods})
	}
	return routes
}

// ServeHTTP implements caddy.AdminHandler. Caddy itself has refused requests
// of web pages (Host, Origin, Sec-Fetch-Mode) before.
func (methods adminMethods) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	if methods == nil {
		return adminError(http.StatusNotFound, fmt.Errorf("there is nothing here; gates and their clients are listed at %s", adminapi.GatesPath))
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet // the server leaves the body out
	}
	answer := methods[method]
	if answer == nil {
		allowed := slices.Sorted(maps.Keys(methods))
		if methods[http.MethodGet] != nil {
			allowed = append(allowed, http.MethodHead)
		}
		w.Header().Set("Allow", strings.Join(allowed, ", "))
		return adminError(http.StatusMethodNotAllowed, fmt.Errorf("use %s", strings.Join(allowed, " or ")))
	}
	if r.URL.RawQuery != "" || r.URL.ForceQuery {
		// A grace that is overlooked there would leave a leaked token valid.
		return adminError(http.StatusBadRequest, errors.New("there are no parameters in the query; options go into the body, as JSON"))
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxAdminBody)
	content, err := answer(r)
	if err != nil {
		return err
	}
	refusals.SetHeader(w.Header(), refusals.Own)
	return json.NewEncoder(w).Encode(content)
}

// adminError is an error with its status, as Caddy's admin endpoint answers it.
func adminError(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

// readAdminBody reads a body of JSON into options, strictly: what is misspelt
// would otherwise be overlooked. No body is an empty one.
func readAdminBody(r *http.Request, options any) error {
	body, err := io.ReadAll(r.Body)
	if tooLarge := new(http.MaxBytesError); errors.As(err, &tooLarge) {
		return adminError(http.StatusRequestEntityTooLarge, fmt.Errorf("the body has more than %d bytes", tooLarge.Limit))
	}
	if err != nil {
		return adminError(http.StatusBadRequest, fmt.Errorf("reading the body: %w", err))
	}
	if len(body) == 0 {
		return nil
	}
	// A web page can send a body of another type without asking first.
	if values := r.Header["Content-Type"]; len(values) != 1 || !isJSON(values[0]) {
		return adminError(http.StatusUnsupportedMediaType, errors.New("a body needs the header \"Content-Type: application/json\""))
	}
	if err := strictjson.Unmarshal(body, options, strictjson.RejectUnknownMembers(true)); err != nil {
		return adminError(http.StatusBadRequest, fmt.Errorf("the body: %w", err))
	}
	return nil
}

func (a *adminAPI) listGates(*http.Request) (any, error) {
	return adminapi.Gates{Gates: statusOfGates(time.Now())}, nil
}

func listBudgets(*http.Request) (any, error) { return budget.Usage(time.Now()), nil }

// listRefusals answers the last refusals of a gate.
func (a *adminAPI) listRefusals(r *http.Request) (any, error) {
	gate := r.PathValue("gate")
	if len(callersOf(gate)) == 0 {
		return nil, errNoSuchGate(gate)
	}
	return adminapi.Refusals{Refusals: refusalsOf(gate)}, nil
}

// statusOfGates describes every gate that runs, by name.
func statusOfGates(now time.Time) []adminapi.Gate {
	byName := make(map[string]*adminapi.Gate)
	callers.Range(func(id, value any) bool {
		if c := value.(*caller); c.runs() {
			name := id.(callerID).gate
			if byName[name] == nil {
				byName[name] = &adminapi.Gate{Name: name}
			}
			byName[name].Clients = append(byName[name].Clients, c.status(now))
		}
		return true
	})
	gates := make([]adminapi.Gate, 0, len(byName)) // (an empty list is not null)
	for _, gate := range byName {
		gate.Identity = identityStatus(gate.Name)
		if f := rosterOf(gate.Name); f != nil {
			storage, shared := f.status(now)
			gate.Storage, gate.Clients = storage, append(gate.Clients, shared...)
		}
		slices.SortFunc(gate.Clients, func(a, b adminapi.Client) int { return cmp.Compare(a.Name, b.Name) })
		gates = append(gates, *gate)
	}
	slices.SortFunc(gates, func(a, b adminapi.Gate) int { return cmp.Compare(a.Name, b.Name) })
	return gates
}

// runs reports whether a config that has the caller was started.
func (c *caller) runs() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone.Load() {
		return false
	}
	for _, p := range c.configs {
		if p.started {
			return true
		}
	}
	return false
}

// status describes the caller.
func (c *caller) status(now time.Time) adminapi.Client {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.current
	s := c.describe(adminapi.KindGenerated, p.ends, now)
	if p.file != nil {
		s.ServerInfo = p.file.Path()
	}
	if c.failure != nil {
		s.Error = c.failure.Error()
	}
	switch {
	case p.ended(now):
		s.State = adminapi.StateExpired
	case c.isRevokedIn(p):
		s.State = adminapi.StateRevoked
	case c.disabled.Load():
		s.State = adminapi.StateDisabled
	case p.hasFixedToken():
		s.AcceptedTokens = 1 + countUsable(p.former, now)
	default:
		s.AcceptedTokens = countUsable(c.ring.tokens(), now)
	}
	if p.hasFixedToken() {
		s.Kind = adminapi.KindFixed
		return s
	}
	age := int64(now.Sub(c.rotated).Seconds())
	s.Rotated, s.TokenAgeSeconds = optionalTime(c.rotated), &age
	if p.rotation != nil && s.State == adminapi.StateActive {
		s.NextRotation = optionalTime(c.rotated.Add(p.rotation.interval))
	}
	return s
}

// describe is what is said of every caller, configured or shared.
func (c *caller) describe(kind string, ends, now time.Time) adminapi.Client {
	s := adminapi.Client{
		Name:             c.id.name(),
		Kind:             kind,
		State:            adminapi.StateActive,
		Began:            inSeconds(c.began),
		AgeSeconds:       int64(now.Sub(c.began).Seconds()),
		AcceptedRequests: c.usage.accepted.Load(),
		OpenWebSockets:   c.sessions.count(),
	}
	if last := c.usage.last.Load(); last != 0 {
		s.LastUsed = optionalTime(time.Unix(0, last))
	}
	if !ends.IsZero() {
		s.Expires = optionalTime(ends)
	}
	return s
}

// status describes the shared clients as this replica knows them.
func (f *roster) status(now time.Time) (storage *adminapi.Storage, clients []adminapi.Client) {
	f.mu.Lock()
	defer f.mu.Unlock()
	storage = new(adminapi.Storage)
	if !f.lastRead.IsZero() {
		storage.LastRead = optionalTime(f.lastRead)
	}
	if f.failure != nil {
		storage.Error = f.failure.Error()
	}
	for _, c := range f.clients() {
		status := c.sharedStatus(now)
		if f.current.reserved[c.name] {
			status.Error = errReservedName.Error()
		}
		clients = append(clients, status)
	}
	return storage, clients
}

// sharedStatus describes a shared client. What is counted is this replica's.
func (c *configuredCaller) sharedStatus(now time.Time) adminapi.Client {
	s := c.describe(adminapi.KindShared, c.ends, now)
	switch {
	case !c.ends.IsZero() && !now.Before(c.ends):
		s.State = adminapi.StateExpired
	case c.disabled.Load():
		s.State = adminapi.StateDisabled
	default:
		s.AcceptedTokens = countUsable(c.ring.tokens(), now)
	}
	return s
}

// countUsable is how many of some tokens are accepted now.
func countUsable(tokens []acceptedToken, now time.Time) (n int) {
	for _, token := range tokens {
		if token.usable(now) {
			n++
		}
	}
	return n
}

func inSeconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func optionalTime(t time.Time) *time.Time {
	t = inSeconds(t)
	return &t
}

// callersOf are the callers of a gate that runs, by name.
func callersOf(gate string) (found []*caller) {
	callers.Range(func(id, value any) bool {
		if c := value.(*caller); id.(callerID).gate == gate && c.runs() {
			found = append(found, c)
		}
		return true
	})
	slices.SortFunc(found, func(a, b *caller) int { return strings.Compare(a.id.name(), b.id.name()) })
	return found
}

func errNoSuchGate(gate string) error {
	return adminError(http.StatusNotFound, fmt.Errorf("there is no gate %q in the running config; those that run are listed at %s", gate, adminapi.GatesPath))
}

// rosterOf is the roster of a gate; nil without one.
func rosterOf(gate string) (found *roster) {
	rosters.Range(func(name, value any) bool {
		if name == gate {
			found = value.(*roster)
		}
		return found == nil
	})
	return found
}

// Interface guards
var (
	_ caddy.Provisioner = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
