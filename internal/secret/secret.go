// Package secret knows what must never be printed: a type for tokens and keys
// that shows a mark in their place, and the places of a request in which
// callers put theirs.
package secret

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync/atomic"
)

// Redacted stands wherever a secret would have been printed.
const Redacted = "REDACTED"

// Secret is a token or a key that cannot be printed by accident: fmt, zap and
// encoding/json all show Redacted. The text is behind a pointer because fmt
// prints the fields of unexported fields without asking their methods.
type Secret struct {
	text *string
}

// New makes a Secret of text.
func New(text string) Secret { return Secret{text: &text} }

// Shared is a Secret that is replaced while others look at it.
type Shared struct {
	text atomic.Pointer[string]
}

// Now is the secret as it is now.
func (s *Shared) Now() Secret { return Secret{text: s.text.Load()} }

// Become replaces the secret by the next one.
func (s *Shared) Become(next Secret) { s.text.Store(next.text) }

// Reveal gives the secret away. Every use of it is a place to review.
func (s Secret) Reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// String implements fmt.Stringer.
func (s Secret) String() string { return Redacted }

// GoString implements fmt.GoStringer.
func (s Secret) GoString() string { return Redacted }

// Format implements fmt.Formatter, for every verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(Redacted)) }

// MarshalText implements encoding.TextMarshaler, for encoding/json and zap.
func (s Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }

// MaxLength is the greatest length of a key or a token, in bytes.
const MaxLength = 8 << 10

// assignment is a line of a shell or an environment file that sets a key.
var assignment = regexp.MustCompile(`^(export\s+)?[A-Z][A-Z0-9_]*(KEY|TOKEN|SECRET|BEARER)[A-Z0-9_]*\s*=`)

// Parse validates a key or a token as it was read from its source: one
// trailing newline is trimmed (editors and echo add it), the rest must be
// visible ASCII, because it goes into a header. The error never quotes it.
func Parse(raw string) (Secret, error) {
	text := trimNewline(raw)
	switch {
	case text == "":
		return Secret{}, errors.New("it is empty")
	case len(text) > MaxLength:
		return Secret{}, fmt.Errorf("it is longer than %d bytes", MaxLength)
	case strings.ContainsAny(text[:1], "\"'`"):
		return Secret{}, errors.New("it has quotes around it; write the bare key, without them")
	case text[0] == '{' && strings.Contains(text, `"`):
		return Secret{}, errors.New("it is JSON; write the bare key, on one line")
	case assignment.MatchString(text):
		return Secret{}, errors.New("it is a line such as NAME=key; write only what stands behind the =")
	case strings.ContainsFunc(text, func(r rune) bool { return r < 0x21 || r > 0x7e }):
		return Secret{}, errors.New("it has a space, a newline or another character that no key has; store the bare key, on one line")
	}
	return New(text), nil
}

// trimNewline trims one trailing newline, of either style.
func trimNewline(s string) string {
	if n := len(s); n > 0 && s[n-1] == '\n' {
		s = s[:n-1]
		if n := len(s); n > 0 && s[n-1] == '\r' {
			s = s[:n-1]
		}
	}
	return s
}
