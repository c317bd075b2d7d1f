package responsesproxygate

import (
	"bytes"
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
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/budget"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	refusals "github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
	"go.uber.org/zap"
)

const (
	adminGate   = adminapi.GatesPath + "/{gate}"
	adminClient = adminGate + "/clients/{client}"

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
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(options); err != nil {
		return adminError(http.StatusBadRequest, fmt.Errorf("the body: %w", err))
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return adminError(http.StatusBadRequest, errors.New("the body: there is something after the JSON object"))
	}
	return nil
}

// readGrace reads the grace from the body of a rotation; nil is the default.
func readGrace(r *http.Request) (*time.Duration, error) {
	var options adminapi.RotateOptions
	if err := readAdminBody(r, &options); err != nil || options.Grace == nil {
		return nil, err
	}
	grace, err := adminapi.ParseGrace(*options.Grace)
	if err != nil {
		return nil, adminError(http.StatusBadRequest, err)
	}
	return &grace, nil
}

func (a *adminAPI) listGates(*http.Request) (any, error) {
	return adminapi.Gates{Gates: statusOfGates(time.Now())}, nil
}

func listBudgets(*http.Request) (any, error) { return budget.Usage(time.Now()), nil }

// resetSpending forgives a caller what it has spent.
func resetSpending(r *http.Request) (any, error) {
	if err := readAdminBody(r, new(struct{})); err != nil {
		return nil, err
	}
	spent, err := budget.Reset(r.PathValue("budget"), r.PathValue("client"), time.Now())
	if err != nil {
		return nil, adminError(http.StatusNotFound, fmt.Errorf("%w; those there are, and their callers, are listed at %s", err, adminapi.BudgetsPath))
	}
	return spent, nil
}

// rotateClient rotates one caller's token, and answers what holds now.
func (a *adminAPI) rotateClient(r *http.Request) (any, error) {
	grace, err := readGrace(r)
	if err != nil {
		return nil, err
	}
	c, err := callerIn(r)
	if err != nil {
		return nil, err
	}
	used, err := c.rotateWith(grace, true)
	if err != nil {
		return nil, a.failed(c, "rotate", err)
	}
	a.logger.Info("token rotated", zap.String("gate", c.id.gate), zap.String("client", c.id.name()), zap.Duration("grace", used))
	return c.status(time.Now()), nil
}

// rotateGate rotates every generated token of a gate. It leaves out those
// that have none to rotate, and the revoked, whom it would let in again.
func (a *adminAPI) rotateGate(r *http.Request) (any, error) {
	grace, err := readGrace(r)
	if err != nil {
		return nil, err
	}
	gate := r.PathValue("gate")
	found := callersOf(gate)
	if len(found) == 0 {
		return nil, errNoSuchGate(gate)
	}
	answer := adminapi.Gate{Name: gate, Clients: []adminapi.Client{}}
	var errs []error
	for _, c := range found {
		used, err := c.rotateWith(grace, false)
		switch {
		case errors.Is(err, errFixedToken), errors.Is(err, errExpired), errors.Is(err, errIsRevoked), errors.Is(err, errNotRunning):
		case infofile.IsOwnersFault(err): // that client's alone
			answer.NotRotated = append(answer.NotRotated, a.failed(c, "rotate", err).Error())
		case err != nil:
			errs = append(errs, a.failed(c, "rotate", err))
		default:
			a.logger.Info("token rotated", zap.String("gate", c.id.gate), zap.String("client", c.id.name()), zap.Duration("grace", used))
			answer.Clients = append(answer.Clients, c.status(time.Now()))
		}
	}
	switch {
	case len(errs) == 1:
		return nil, errs[0]
	case len(errs) > 0:
		return nil, adminError(http.StatusInternalServerError, errors.Join(errs...))
	case len(answer.Clients) == 0 && len(answer.NotRotated) == 0:
		return nil, adminError(http.StatusConflict, fmt.Errorf("gate %s: it has no token to rotate: its tokens are fixed, expired or revoked", gate))
	}
	return answer, nil
}

func (a *adminAPI) revokeClient(r *http.Request) (any, error) {
	return a.changeClient(r, "revoke", "access revoked", (*caller).revoke)
}

func (a *adminAPI) disableClient(r *http.Request) (any, error) {
	return a.changeClient(r, "disable", "access disabled", (*caller).disable)
}

func (a *adminAPI) enableClient(r *http.Request) (any, error) {
	return a.changeClient(r, "enable", "access enabled", (*caller).enable)
}

// changeClient does what takes no options to the caller that a path names.
func (a *adminAPI) changeClient(r *http.Request, action, done string, change func(*caller) error) (any, error) {
	if err := readAdminBody(r, new(struct{})); err != nil {
		return nil, err
	}
	c, err := callerIn(r)
	if err != nil {
		return nil, err
	}
	if err := change(c); err != nil {
		return nil, a.failed(c, action, err)
	}
	a.logger.Info(done, zap.String("gate", c.id.gate), zap.String("client", c.id.name()))
	return c.status(time.Now()), nil
}

// listRefusals answers the last refusals of a gate.
func (a *adminAPI) listRefusals(r *http.Request) (any, error) {
	gate := r.PathValue("gate")
	if len(callersOf(gate)) == 0 {
		return nil, errNoSuchGate(gate)
	}
	return adminapi.Refusals{Refusals: refusalsOf(gate)}, nil
}

// failed says what could not be done, with the status of why.
func (a *adminAPI) failed(c *caller, action string, err error) error {
	status := http.StatusInternalServerError
	switch {
	case errors.Is(err, errFixedToken), errors.Is(err, errExpired):
		status = http.StatusConflict
	case errors.Is(err, errManyTokens):
		status = http.StatusTooManyRequests
	case errors.Is(err, errNotRunning):
		status = http.StatusNotFound
	case c.isRevoked():
		err = fmt.Errorf("the server-info file could not be changed, but the tokens have ended, and there is none until a rotation succeeds: %w", err)
	}
	a.logger.Warn("could not "+action, zap.String("gate", c.id.gate), zap.String("client", c.id.name()), zap.Error(err))
	return adminError(status, fmt.Errorf("%s %s: %w", action, c.id, err))
}

// callerIn finds the caller that a request's path names. The gate's own token
// has the gate's name.
func callerIn(r *http.Request) (*caller, error) {
	id := callerID{gate: r.PathValue("gate"), client: r.PathValue("client")}
	found := callersOf(id.gate)
	if len(found) == 0 {
		return nil, errNoSuchGate(id.gate)
	}
	for _, c := range found {
		if c.id.name() == id.client {
			return c, nil
		}
	}
	if rosterOf(id.gate).has(id.client) {
		return nil, adminError(http.StatusNotFound, fmt.Errorf("gate %s: %s is a shared client; use \"caddy responses-proxy client rotate\", \"client disable\" or \"client remove\"", id.gate, id.client))
	}
	return nil, adminError(http.StatusNotFound, fmt.Errorf("gate %s has no client %q in the running config; those it has are listed at %s", id.gate, id.client, adminapi.GatesPath))
}

func errNoSuchGate(gate string) error {
	return adminError(http.StatusNotFound, fmt.Errorf("there is no gate %q in the running config; those that run are listed at %s", gate, adminapi.GatesPath))
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
