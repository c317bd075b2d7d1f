package dump

import (
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/callerheader"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// headerLine is one header line in a dump.
type headerLine struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// headerLines are the headers, sorted by name, without their secrets.
func (m *matcher) headerLines(header http.Header, isSecret func(name string) bool) []headerLine {
	lines := make([]headerLine, 0, len(header)) // (null is not a list)
	for name, values := range header {
		for _, value := range values {
			switch {
			case isSecret(name) || m.isIn(value):
				value = redacted
			case callerheader.Plain(name) == "Sec-Websocket-Protocol":
				value = strings.ReplaceAll(secret.HideKeySubprotocols(value), secret.Redacted, redacted)
			}
			lines = append(lines, headerLine{Name: name, Value: value})
		}
	}
	slices.SortStableFunc(lines, func(a, b headerLine) int { return cmp.Compare(a.Name, b.Name) })
	return lines
}

// secretWords are in the names of headers that carry credentials, beside those
// that the gate knows. Some that carry none have them too (Idempotency-Key); a
// dump can do without those.
var secretWords = []string{"cookie", "token", "secret", "key", "passw", "credential", "session"}

// isSecretHeader tells by its name whether a header's value is to be hidden.
func isSecretHeader(name string) bool {
	name = strings.ToLower(name)
	return callerheader.IsCredential(name) && name != "www-authenticate" && name != "proxy-authenticate" ||
		containsAny(name, secretWords)
}

// isSecretResponseHeader is isSecretHeader, except that the number of tokens
// that are left (x-ratelimit-remaining-tokens) is what one looks for in a dump.
func isSecretResponseHeader(name string) bool {
	return isSecretHeader(name) && !strings.HasPrefix(strings.ToLower(name), "x-ratelimit-")
}

// containsAny reports whether s contains one of parts. An empty part is in nothing.
func containsAny(s string, parts []string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return part != "" && strings.Contains(s, part) })
}
