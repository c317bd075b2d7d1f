package responsesproxygate

import (
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
	"go.uber.org/zap"
)

// adminShared is where the admin endpoint has a gate's shared clients. Tokens
// never go through it: whoever adds a client makes its token and sends the digest.
const adminShared = adminGate + "/shared/{client}"

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
