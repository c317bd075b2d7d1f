package dump

import (
	"bytes"
	"cmp"
	"net/http"
	"slices"
	"strings"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// headerLine is one header line in a dump.
type headerLine struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// headerLines copies the headers, sorted by name, without their secrets.
func headerLines(header http.Header, secrets []string, isSecret func(name string) bool) []headerLine {
	dumped := make([]headerLine, 0, len(header)) // (null is not a list)
	for name, values := range header {
		for _, value := range values {
			switch {
			case isSecret(strings.ToLower(name)) || containsAny(value, secrets):
				value = redacted
			case name == "Sec-Websocket-Protocol":
				value = secret.HideKeySubprotocols(value)
			}
			dumped = append(dumped, headerLine{Name: name, Value: value})
		}
	}
	slices.SortStableFunc(dumped, compareHeaders)
	return dumped
}

func compareHeaders(a, b headerLine) int { return cmp.Compare(a.Name, b.Name) }

// secretWords are in the names of headers that carry credentials. Some that
// carry none have them too (Idempotency-Key); a dump can do without those.
var secretWords = []string{"authorization", "cookie", "token", "secret", "key", "passw", "credential", "session"}

// isSecretHeader tells by its lower-case name whether a header's value is to
// be hidden.
func isSecretHeader(name string) bool { return containsAny(name, secretWords) }

// isSecretResponseHeader is isSecretHeader, except that the number of tokens
// that are left (x-ratelimit-remaining-tokens) is what one looks for in a dump.
func isSecretResponseHeader(name string) bool {
	return isSecretHeader(name) && !strings.HasPrefix(name, "x-ratelimit-")
}

// containsAny tells whether s contains one of parts. An empty part is in nothing.
func containsAny(s string, parts []string) bool {
	return slices.ContainsFunc(parts, func(part string) bool { return part != "" && strings.Contains(s, part) })
}

// secretForms are the ways in which secrets are written in a body: as they
// are, and as JSON encoders write them if they have quotes, slashes or angle
// brackets.
func secretForms(secrets []string) []string {
	var forms []string
	add := func(form string) {
		if !slices.Contains(forms, form) {
			forms = append(forms, form)
		}
	}
	for _, text := range secrets {
		if len(text) < minBodySecret {
			continue
		}
		quoted := strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(text)
		add(text)
		add(quoted)
		add(strings.ReplaceAll(quoted, "/", `\/`))
		add(strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`).Replace(quoted))
	}
	return forms
}

// hideSecrets is text[:end] without its secrets. A secret that begins before
// end is hidden as a whole, wherever it ends. So is the beginning of one at
// the very end of text, where a stream was broken off.
func hideSecrets(text []byte, end int, forms []string) []byte {
	type span struct{ from, to int }
	var found []span
	for _, form := range forms {
		for at := 0; at < end; {
			i := bytes.Index(text[at:], []byte(form))
			if i < 0 {
				break
			}
			found = append(found, span{at + i, at + i + len(form)})
			at += i + 1 // they may overlap
		}
		for n := min(len(form)-1, len(text)); n >= minBodySecret/2; n-- {
			if bytes.HasSuffix(text, []byte(form[:n])) {
				found = append(found, span{len(text) - n, len(text)})
				break
			}
		}
	}
	if len(found) == 0 {
		return text[:end]
	}
	slices.SortFunc(found, func(a, b span) int { return cmp.Compare(a.from, b.from) })
	hidden, done := make([]byte, 0, end), 0 // text[:done] is dealt with
	for _, s := range found {
		if s.from >= end {
			break
		}
		if s.from >= done {
			hidden = append(append(hidden, text[done:s.from]...), redacted...)
		}
		done = max(done, s.to)
	}
	return append(hidden, text[min(done, end):end]...)
}
