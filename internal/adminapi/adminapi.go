// Package adminapi is what terminal and gate say to each other: the paths and
// the wire types of the routes on Caddy's admin endpoint, and their client.
package adminapi

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

const (
	// ModuleID is the Caddy module that has the routes.
	ModuleID = "admin.api.responses_proxy_gate"

	// Prefix is where they are.
	Prefix = "/responses_proxy_gate/"

	// GatesPath lists the gates.
	GatesPath = Prefix + "gates"

	// BudgetsPath lists the budgets.
	BudgetsPath = Prefix + "budgets"
)

// ClientPath is where a client is.
func ClientPath(gate, client string) string {
	return GatesPath + "/" + url.PathEscape(gate) + "/clients/" + url.PathEscape(client)
}

// SharedPath is where a shared client is.
func SharedPath(gate, client string) string {
	return GatesPath + "/" + url.PathEscape(gate) + "/shared/" + url.PathEscape(client)
}

// RefusalsPath is where a gate's last refusals are.
func RefusalsPath(gate string) string {
	return GatesPath + "/" + url.PathEscape(gate) + "/refusals"
}

// ExitCodeNotRunning says that there is no gate to ask (the code that
// "systemctl status" and LSB scripts use).
const ExitCodeNotRunning = 3

// Gates is what the admin endpoint tells of the gates that run. There is
// no token in it, and nothing that was made of one.
type Gates struct {
	Gates []Gate `json:"gates"`
}

type Gate struct {
	Name    string   `json:"name"`
	Clients []Client `json:"clients"`

	// Where the shared clients are; absent in a gate that has none.
	Storage *Storage `json:"storage,omitempty"`

	// What the gate's own identity is exchanged for; absent in a gate that has a key.
	Identity *Identity `json:"identity,omitempty"`

	// Why clients were left out of a rotation of all: their server-info files
	// are as their owners have left them.
	NotRotated []string `json:"not_rotated,omitempty"`
}

// The kinds of tokens, and the states of a client's access.
const (
	KindGenerated = "generated"
	KindFixed     = "fixed"
	KindShared    = "shared"

	StateActive   = "active"
	StateDisabled = "disabled"
	StateRevoked  = "revoked"
	StateExpired  = "expired"
)

// Client is what the admin endpoint tells of one caller.
type Client struct {
	Name string `json:"name"`

	// Where the token comes from: "generated" at the launch, "fixed" in the
	// config, or "shared" through Caddy's storage.
	Kind string `json:"kind"`

	// "active", "disabled", "revoked" or "expired".
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

// Storage is what the admin endpoint tells of what a gate knows of the
// storage.
type Storage struct {
	// When the shared clients were last found to be as they are known, or
	// changed here. Never: nothing is known, and all are refused.
	LastRead *time.Time `json:"last_read,omitempty"`

	// Why the storage cannot be read as it should.
	Error string `json:"error,omitempty"`
}

// Identity is what the admin endpoint tells of the token for which the gate's
// identity was exchanged.
type Identity struct {
	// Until the token's end; below zero after it.
	SecondsLeft int64 `json:"seconds_left"`

	// Why the last exchange failed.
	Error string `json:"error,omitempty"`
}

// RotateOptions is the body of a rotation.
type RotateOptions struct {
	// How long former tokens are still accepted, such as "5m"; "0s" for one
	// that has leaked. A number without a unit is refused. Default: the grace
	// of rotate_every, or else 5 minutes.
	Grace *string `json:"grace"`
}

// AddOptions is the body of PUT: a further shared client.
type AddOptions struct {
	// The SHA-256 digest of the client's token, in hexadecimal. The gate
	// cannot see whether the token is a good one: make it of 256 random bits.
	SHA256 string `json:"sha256"`

	// When the client's access ends, from now, such as "30d". Default: never.
	Expires string `json:"expires,omitempty"`
}

// RotateSharedOptions is the body of a shared client's rotation.
type RotateSharedOptions struct {
	// The SHA-256 digest of the client's next token, in hexadecimal.
	SHA256 string `json:"sha256"`

	// How long former tokens are still accepted; "0s" for one that has leaked.
	// Default: 5 minutes.
	Grace *string `json:"grace,omitempty"`
}

// EndOptions is the body of a change of a shared client's end.
type EndOptions struct {
	// When the client's access ends, from now, such as "30d", or "never".
	Expires string `json:"expires"`
}

// Refusals are the last ones of a gate: of each code a few, the oldest first.
type Refusals struct {
	Refusals []Refusal `json:"refusals"`
}

// Refusal is a line of the audit trail: nothing in it is of a query, a header or
// a body, and what may be a secret in the path is left out.
type Refusal struct {
	Time time.Time `json:"time"`

	// Whose token the request had; "" if it was not known to be anybody's.
	Client string `json:"client"`

	// Where the connection came from, and the client's address if a trusted
	// proxy names another.
	RemoteAddr string `json:"remote_addr"`
	ClientIP   string `json:"client_ip,omitempty"`

	Method string `json:"method"`
	Path   string `json:"path"`
	Code   string `json:"code"`
	Status int    `json:"status"`
}

// ParseGrace reads how long former tokens are still accepted.
func ParseGrace(text string) (time.Duration, error) {
	grace, err := caddy.ParseDuration(text)
	if err != nil || grace < 0 {
		return 0, fmt.Errorf("grace %q: write a duration such as 5m, or 0s to end former tokens at once", text)
	}
	return grace, nil
}

// ParseExpires reads how long a client's access lasts; "" is for ever.
func ParseExpires(text string) (time.Duration, error) {
	if text == "" {
		return 0, nil
	}
	expires, err := caddy.ParseDuration(text)
	if err != nil || expires <= 0 {
		return 0, fmt.Errorf("expires %q: write a duration above zero, such as 12h or 30d", text)
	}
	return expires, nil
}

// ParseEnd is ParseExpires for a change: "for ever" has to be said.
func ParseEnd(text string) (time.Duration, error) {
	switch text {
	case "never":
		return 0, nil
	case "":
		return 0, errors.New("expires: write a duration, such as 12h or 30d, or: never")
	}
	return ParseExpires(text)
}

// IsName reports whether a gate's name can stand in logs, metrics and URLs as it is.
func IsName(name string) bool {
	for i := range len(name) {
		c := name[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("._-", c) >= 0) {
			return false
		}
	}
	return name != "" && len(name) <= 64
}

// ErrClientName says what a client may be called.
var ErrClientName = errors.New("a client's name has letters, digits, '.', '_' and '-', 64 at most")
