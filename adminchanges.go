package responsesproxygate

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/budget"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
	"go.uber.org/zap"
)

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

// addShared registers a client, and answers what holds now.
func (a *adminAPI) addShared(r *http.Request) (any, error) {
	var options adminapi.AddOptions
	if err := readAdminBody(r, &options); err != nil {
		return nil, err
	}
	digest, err := sharedstore.ParseDigest(options.SHA256)
	if err != nil {
		return nil, adminError(http.StatusBadRequest, fmt.Errorf("sha256: %w", err))
	}
	expires, err := adminapi.ParseExpires(options.Expires)
	if err != nil {
		return nil, adminError(http.StatusBadRequest, err)
	}
	return a.changeShared(r, "added", func(f *roster, client string) error {
		return f.add(r.Context(), client, digest, expires)
	})
}

// rotateShared gives a client another token, and answers what holds now.
func (a *adminAPI) rotateShared(r *http.Request) (any, error) {
	var options adminapi.RotateSharedOptions
	if err := readAdminBody(r, &options); err != nil {
		return nil, err
	}
	digest, err := sharedstore.ParseDigest(options.SHA256)
	if err != nil {
		return nil, adminError(http.StatusBadRequest, fmt.Errorf("sha256: %w", err))
	}
	grace := defaultGrace
	if options.Grace != nil {
		if grace, err = adminapi.ParseGrace(*options.Grace); err != nil {
			return nil, adminError(http.StatusBadRequest, err)
		}
	}
	return a.changeShared(r, "rotated", func(f *roster, client string) error {
		return f.rotate(r.Context(), client, digest, grace)
	})
}

// removeShared takes a client's access away.
func (a *adminAPI) removeShared(r *http.Request) (any, error) {
	if err := readAdminBody(r, new(struct{})); err != nil {
		return nil, err
	}
	return a.changeShared(r, "removed", func(f *roster, client string) error {
		return f.remove(r.Context(), client)
	})
}

// disableShared takes a client's access away for now, and enableShared gives
// it back, with the same tokens.
func (a *adminAPI) disableShared(r *http.Request) (any, error) {
	return a.setDisabled(r, "disabled", true)
}

func (a *adminAPI) enableShared(r *http.Request) (any, error) {
	return a.setDisabled(r, "enabled", false)
}

func (a *adminAPI) setDisabled(r *http.Request, done string, disabled bool) (any, error) {
	if err := readAdminBody(r, new(struct{})); err != nil {
		return nil, err
	}
	return a.changeShared(r, done, func(f *roster, client string) error {
		return f.setDisabled(r.Context(), client, disabled)
	})
}

// setEndOfShared has a client's access end at another time.
func (a *adminAPI) setEndOfShared(r *http.Request) (any, error) {
	var options adminapi.EndOptions
	if err := readAdminBody(r, &options); err != nil {
		return nil, err
	}
	expires, err := adminapi.ParseEnd(options.Expires)
	if err != nil {
		return nil, adminError(http.StatusBadRequest, err)
	}
	return a.changeShared(r, "given another end", func(f *roster, client string) error {
		return f.setEnd(r.Context(), client, expires)
	})
}

// changeShared changes the client that the request's path names.
func (a *adminAPI) changeShared(r *http.Request, done string, change func(f *roster, client string) error) (any, error) {
	gate, client := r.PathValue("gate"), r.PathValue("client")
	if len(callersOf(gate)) == 0 {
		return nil, errNoSuchGate(gate)
	}
	f := rosterOf(gate)
	if err := change(f, client); err != nil {
		a.logger.Warn("a shared client was not "+done, zap.String("gate", gate), zap.String("client", client), zap.Error(err))
		return nil, adminError(statusOfChange(err), fmt.Errorf("gate %s, shared client %q: %w", gate, client, err))
	}
	a.logger.Info("shared client "+done, zap.String("gate", gate), zap.String("client", client))
	for _, c := range f.clients() {
		if c.name == client {
			return c.sharedStatus(time.Now()), nil
		}
	}
	return struct{}{}, nil
}

// statusOfChange is the HTTP status for why a change was not made.
func statusOfChange(err error) int {
	var outage *sharedstore.OutageError
	switch {
	case errors.As(err, &outage), errors.Is(err, sharedstore.ErrSlow), errors.Is(err, errLockHeld):
		return http.StatusServiceUnavailable
	case errors.Is(err, errNoRoster), errors.Is(err, errNoSharedClient):
		return http.StatusNotFound
	case errors.Is(err, adminapi.ErrClientName):
		return http.StatusBadRequest
	case errors.Is(err, errManyClients), errors.Is(err, errManyTokens):
		return http.StatusTooManyRequests
	}
	return http.StatusConflict
}

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
