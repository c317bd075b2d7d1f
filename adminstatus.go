package responsesproxygate

import (
	"cmp"
	"slices"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
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
		if f := fleetOf(gate.Name); f != nil {
			storage, shared := f.status(now)
			gate.Storage, gate.Clients = storage, append(gate.Clients, shared...)
		}
		slices.SortFunc(gate.Clients, func(a, b adminapi.Client) int { return cmp.Compare(a.Name, b.Name) })
		gates = append(gates, *gate)
	}
	slices.SortFunc(gates, func(a, b adminapi.Gate) int { return cmp.Compare(a.Name, b.Name) })
	return gates
}

// runs tells whether a config that has the caller was started.
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
	s := adminapi.Client{
		Name:             c.id.name(),
		Kind:             adminapi.KindGenerated,
		State:            adminapi.StateActive,
		Began:            inSeconds(c.began),
		AgeSeconds:       int64(now.Sub(c.began).Seconds()),
		AcceptedRequests: c.usage.accepted.Load(),
		OpenWebSockets:   c.sessions.count(),
	}
	if last := c.usage.last.Load(); last != 0 {
		s.LastUsed = optionalTime(time.Unix(0, last))
	}
	if p.file != nil {
		s.ServerInfo = p.file.Path()
	}
	if !p.ends.IsZero() {
		s.Expires = optionalTime(p.ends)
	}
	if c.failure != nil {
		s.Error = c.failure.Error()
	}
	switch {
	case p.ended(now):
		s.State = adminapi.StateExpired
	case c.withdrawn(p):
		s.State = adminapi.StateRevoked
	case p.hasFixedToken():
		s.AcceptedTokens = 1
		for _, token := range p.former {
			if token.usable(now) {
				s.AcceptedTokens++
			}
		}
	default:
		for _, token := range c.ring.tokens() {
			if token.usable(now) {
				s.AcceptedTokens++
			}
		}
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

func inSeconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func optionalTime(t time.Time) *time.Time {
	t = inSeconds(t)
	return &t
}
