package responsesproxygate

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// Expiry is when a client's access ends. In JSON it is a duration, in
// nanoseconds or as `"12h"`, or a moment as in RFC 3339, `"2027-03-31T18:00:00Z"`.
type Expiry struct {
	after time.Duration // after the caller's launch; 0 without one
	at    time.Time     // zero without one
}

// maxExpiry is the longest duration that is taken. A restart begins it again,
// and in a longer time there is one.
const maxExpiry = 24 * time.Hour

var errExpiry = errors.New("it is no duration, such as 90s or 12h, and no moment, such as 2027-03-31T18:00:00Z")

// parseExpiry reads a duration or a moment. Its error does not quote what is
// neither: it may be a secret in the wrong place.
func parseExpiry(text string) (Expiry, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return Expiry{at: at}, nil
	}
	after, err := caddy.ParseDuration(text)
	switch {
	case err != nil:
		return Expiry{}, errExpiry
	case after <= 0:
		return Expiry{}, errors.New("it is not above zero")
	}
	return Expiry{after: after}, nil
}

// UnmarshalJSON implements json.Unmarshaler.
func (e *Expiry) UnmarshalJSON(data []byte) (err error) {
	var text string
	if json.Unmarshal(data, &text) == nil && text != "" {
		if *e, err = parseExpiry(text); err != nil {
			return fmt.Errorf("expires: %w", err)
		}
		return nil
	}
	e.at = time.Time{}
	if json.Unmarshal(data, &e.after) != nil {
		return fmt.Errorf("expires: %w", errExpiry)
	}
	return nil
}

// MarshalJSON implements json.Marshaler.
func (e Expiry) MarshalJSON() ([]byte, error) {
	if !e.at.IsZero() {
		return json.Marshal(e.at.Format(time.RFC3339))
	}
	return json.Marshal(e.after)
}

// validate refuses what would not hold across restarts.
func (e Expiry) validate(fixedToken bool) error {
	const remedy = "every restart begins it again; write the moment instead, such as: expires "
	switch {
	case e.after < 0:
		return errors.New("expires is negative")
	case e.after > 0 && fixedToken:
		return errors.New("expires counts from the launch, and the fixed token outlives that: " + remedy + e.example())
	case e.after > maxExpiry:
		return fmt.Errorf("expires is a duration above %v, which counts from the launch: %s%s", maxExpiry, remedy, e.example())
	}
	return nil
}

func (e Expiry) example() string { return time.Now().Add(e.after).UTC().Format(time.RFC3339) }

// ends is the moment for a caller that began at a time; zero is never. After a
// duration, it follows the monotonic clock; a moment that is written follows
// the wall clock.
func (e Expiry) ends(began time.Time) time.Time {
	if e.after > 0 {
		return began.Add(e.after)
	}
	return e.at
}

// Interface guards
var (
	_ json.Marshaler   = Expiry{}
	_ json.Unmarshaler = (*Expiry)(nil)
)
