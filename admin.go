package responsesproxygate

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
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
// gate. The gate's own audit would come too late: Caddy opens the admin
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
		if err := surroundings.AuditAdmin(config, infofile.CheckSocket); err != nil {
			return fmt.Errorf("a responses_proxy_gate is running: %w. To leave the gate for such an endpoint, restart Caddy", err)
		}
		return nil
	}
	if config.HasGateWithout(riskTCPAdmin) {
		process.DropOthersWriteRights()
		return surroundings.AuditAdmin(config, infofile.CheckSocket)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)

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
