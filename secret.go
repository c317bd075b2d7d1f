package responsesproxygate

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// redacted stands wherever a secret would have been printed.
const redacted = "REDACTED"

// secret is a token or a key that cannot be printed by accident: fmt, zap and
// encoding/json all show "REDACTED". The text is behind a pointer because fmt
// prints the fields of unexported fields without asking their methods.
type secret struct {
	text *string
}

func newSecret(text string) secret { return secret{text: &text} }

// sharedSecret is a secret that is replaced while others look at it.
type sharedSecret struct {
	text atomic.Pointer[string]
}

func (s *sharedSecret) now() secret        { return secret{text: s.text.Load()} }
func (s *sharedSecret) become(next secret) { s.text.Store(next.text) }

// reveal gives the secret away. Every use of it is a place to review.
func (s secret) reveal() string {
	if s.text == nil {
		return ""
	}
	return *s.text
}

// String implements fmt.Stringer.
func (s secret) String() string { return redacted }

// GoString implements fmt.GoStringer.
func (s secret) GoString() string { return redacted }

// Format implements fmt.Formatter, for every verb.
func (s secret) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(redacted)) }

// MarshalText implements encoding.TextMarshaler, for encoding/json and zap.
func (s secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// maxSecretLength is the greatest length of a key or a token, in bytes.
const maxSecretLength = 8 << 10

// parseSecret validates a key or a token as it was read from its source: one
// trailing newline is trimmed (editors and echo add it), the rest must be
// visible ASCII, because it goes into a header. The error never quotes it.
func parseSecret(raw string) (secret, error) {
	text := trimNewline(raw)
	switch {
	case text == "":
		return secret{}, errors.New("it is empty")
	case len(text) > maxSecretLength:
		return secret{}, fmt.Errorf("it is longer than %d bytes", maxSecretLength)
	case !isVisible(text, ""):
		return secret{}, errors.New("it has a space, a newline or another character that no key has; store the bare key, on one line")
	}
	return newSecret(text), nil
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
