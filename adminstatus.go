package responsesproxygate

import (
	"cmp"
	"slices"
	"time"
)

// gatesStatus is what the admin endpoint tells of the gates that run. There is
// no token in it, and nothing that was made of one.
type gatesStatus struct {
	Gates []gateStatus `json:"gates"`
}

type gateStatus struct {
	Name    string         `json:"name"`
	Clients []clientStatus `json:"clients"`

	// Where the shared clients are; absent in a gate that has none.
	Storage *sharedStatus `json:"storage,omitempty"`

	// Why clients were left out of a rotation of all: their server-info files
	// are as their owners have left them.
	NotRotated []string `json:"not_rotated,omitempty"`
}

// The kinds of tokens, and the states of a client's access.
const (
	kindGenerated = "generated"
	kindFixed     = "fixed"
	kindShared    = "shared"

	stateActive  = "active"
	stateRevoked = "revoked"
	stateExpired = "expired"
)

// clientStatus is what the admin endpoint tells of one caller.
type clientStatus struct {
	Name string `json:"name"`

	// Where the token comes from: "generated" at the launch, "fixed" in the
	// config, or "shared" through Caddy's storage.
	Kind string `json:"kind"`

	// "active", "revoked" or "expired".
	State string `json:"state"`

	// Since when the config has the caller, and how long that is, in seconds.
	Began      time.Time `json:"began"`
	AgeSeconds int64     `json:"age_seconds"`

	// Since when the caller is told the present token. Fixed ones have no
	// such time.
	Rotated         *time.Time `json:"rotated,omitempty"`
	TokenAgeSeconds *int64     `json:"token_age_seconds,omitempty"`

	// When the token is due to be replaced, and when the access ends.
	NextRotation *time.Time `json:"next_rotation,omitempty"`
	Expires      *time.Time `json:"expires,omitempty"`

	// How many tokens are accepted now: one, and those in their grace period.
	AcceptedTokens int `json:"accepted_tokens"`

	// How many requests were let pass, and when the last one was.
	AcceptedRequests uint64     `json:"accepted_requests"`
	LastUsed         *time.Time `json:"last_used,omitempty"`

	OpenWebSockets int `json:"open_websockets"`

	// The path of the server-info file.
	ServerInfo string `json:"server_info,omitempty"`

	// Why the caller is not told what the config says.
	Error string `json:"error,omitempty"`
}

// statusOfGates describes every gate that runs, by name.
func statusOfGates(now time.Time) []gateStatus {
	byName := make(map[string]*gateStatus)
	callers.Range(func(id, value any) bool {
		if c := value.(*caller); c.runs() {
			name := id.(callerID).gate
			if byName[name] == nil {
				byName[name] = &gateStatus{Name: name}
			}
			byName[name].Clients = append(byName[name].Clients, c.status(now))
		}
		return true
	})
	gates := make([]gateStatus, 0, len(byName)) // (an empty list is not null)
	for _, gate := range byName {
		if f := fleetOf(gate.Name); f != nil {
			storage, shared := f.status(now)
			gate.Storage, gate.Clients = storage, append(gate.Clients, shared...)
		}
		slices.SortFunc(gate.Clients, func(a, b clientStatus) int { return cmp.Compare(a.Name, b.Name) })
		gates = append(gates, *gate)
	}
	slices.SortFunc(gates, func(a, b gateStatus) int { return cmp.Compare(a.Name, b.Name) })
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
func (c *caller) status(now time.Time) clientStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &c.current
	s := clientStatus{
		Name:             c.id.name(),
		Kind:             kindGenerated,
		State:            stateActive,
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
		s.State = stateExpired
	case c.withdrawn(p):
		s.State = stateRevoked
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
		s.Kind = kindFixed
		return s
	}
	age := int64(now.Sub(c.rotated).Seconds())
	s.Rotated, s.TokenAgeSeconds = optionalTime(c.rotated), &age
	if p.rotation != nil && s.State == stateActive {
		s.NextRotation = optionalTime(c.rotated.Add(p.rotation.interval))
	}
	return s
}

func inSeconds(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }

func optionalTime(t time.Time) *time.Time {
	t = inSeconds(t)
	return &t
}
