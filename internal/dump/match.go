package dump

import (
	"bytes"
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

// Secrets are what has to be hidden in every dump, whoever's request it is.
type Secrets struct {
	// Texts are the keys and tokens whose text is known. Nil: there are none.
	Texts func() []string
	// IsToken reports whether a text of 43 characters is a token of which only
	// the digest is known. Nil: none is.
	IsToken func(text string) bool
}

const (
	// minBodySecret is the least length of a secret that is looked for in
	// bodies. A shorter one would be found where it only looks like one.
	minBodySecret = 16

	// minPart is the least part of a secret that is hidden where a text ends
	// in the middle of one, and what the others are looked up by.
	minPart = 8

	// tokenLength is the length of a generated token.
	tokenLength = 43

	// maxRun is the longest run of a token's characters in which one of them
	// is looked for. Longer ones are images, and the like.
	maxRun = 160

	// maxDecodings is how often a text is decoded: JSON in a string of JSON,
	// escaped for a URL.
	maxDecodings = 3
)

// matcher finds secrets, whatever way they are written.
type matcher struct {
	texts   []string
	forms   map[[minPart]byte][]string // by how they begin
	begins  [256]bool                  // the first bytes of forms
	isToken func(text string) bool
}

func newMatcher(texts []string, isToken func(text string) bool) *matcher {
	m := &matcher{texts: texts, forms: make(map[[minPart]byte][]string), isToken: isToken}
	for _, text := range texts {
		if len(text) >= minBodySecret {
			m.add(text)
			m.addBase64(text)
		}
	}
	return m
}

func (m *matcher) add(form string) {
	key := [minPart]byte([]byte(form[:minPart]))
	if !slices.Contains(m.forms[key], form) {
		m.forms[key] = append(m.forms[key], form)
		m.begins[form[0]] = true
	}
}

// addBase64 adds what base64 makes of text where 0, 1 or 2 bytes more stand
// before it ("user:", say), without what depends on its neighbours.
func (m *matcher) addBase64(text string) {
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte("\x00\x00"[:before] + text))
		core := encoded[(before*8+5)/6:]
		if (before+len(text))%3 != 0 {
			core = core[:len(core)-1]
		}
		m.add(core)
		m.add(strings.NewReplacer("+", "-", "/", "_").Replace(core))
	}
}

// isIn reports whether there is a secret in value, even a short one.
func (m *matcher) isIn(value string) bool {
	return containsAny(value, m.texts) || len(m.find([]byte(value))) > 0
}

// span is a part of a text.
type span struct{ from, to int }

// find is where secrets are in text, as it stands there and decoded.
func (m *matcher) find(text []byte) (found []span) {
	v := view{text: text}
	for i := 0; ; i++ {
		m.findIn(v, &found)
		next, changed := v.decoded()
		if !changed || i == maxDecodings {
			return found
		}
		v = next
	}
}

func (m *matcher) findIn(v view, found *[]span) {
	for i := 0; i+minPart <= len(v.text); i++ {
		if !m.begins[v.text[i]] {
			continue
		}
		rest := v.text[i:]
		for _, form := range m.forms[[minPart]byte(rest[:minPart])] {
			switch {
			case len(rest) >= len(form) && string(rest[:len(form)]) == form:
				*found = append(*found, v.span(i, i+len(form)))
			case len(rest) < len(form) && form[:len(rest)] == string(rest): // where a stream was broken off
				*found = append(*found, v.span(i, len(v.text)))
			}
		}
	}
	if m.isToken == nil {
		return
	}
	for from := 0; from < len(v.text); from++ {
		to := from
		for to < len(v.text) && isTokenByte(v.text[to]) {
			to++
		}
		if to-from <= maxRun {
			for ; from+tokenLength <= to; from++ {
				if m.isToken(string(v.text[from : from+tokenLength])) {
					*found = append(*found, v.span(from, from+tokenLength))
				}
			}
		}
		from = to
	}
}

// isTokenByte reports whether c may stand in a generated token: base64url.
func isTokenByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// hide is text[:end] without its secrets. A secret that begins before end is
// hidden as a whole, wherever it ends. So is the beginning of one at the very
// end of text, where a stream was broken off.
func (m *matcher) hide(text []byte, end int) []byte {
	found := m.find(text)
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

// view is a text, decoded, and where each of its bytes was.
type view struct {
	text []byte
	at   []int // one more than bytes; nil: where they are now
}

func (v view) span(from, to int) span {
	if v.at == nil {
		return span{from, to}
	}
	return span{v.at[from], v.at[to]}
}

// decoded is v with its percent-encoding and its JSON escapes of ASCII
// characters decoded once.
func (v view) decoded() (next view, changed bool) {
	if !bytes.ContainsAny(v.text, `%\`) {
		return v, false
	}
	next = view{text: make([]byte, 0, len(v.text)), at: make([]int, 0, len(v.text)+1)}
	for i := 0; i < len(v.text); {
		c, size := decodeOne(v.text[i:])
		changed = changed || size > 1
		next.text, next.at = append(next.text, c), append(next.at, v.span(i, i).from)
		i += size
	}
	next.at = append(next.at, v.span(len(v.text), len(v.text)).from)
	return next, changed
}

// decodeOne decodes the first character of text, and says how long it was.
func decodeOne(text []byte) (c byte, size int) {
	hex := func(from, to int) (byte, bool) {
		if len(text) < to {
			return 0, false
		}
		n, err := strconv.ParseUint(string(text[from:to]), 16, 16)
		return byte(n), err == nil && n < 0x80
	}
	switch {
	case text[0] == '%':
		if c, ok := hex(1, 3); ok {
			return c, 3
		}
	case text[0] == '\\' && len(text) > 1:
		switch text[1] {
		case 'u':
			if c, ok := hex(2, 6); ok {
				return c, 6
			}
		case '"', '\\', '/':
			return text[1], 2
		}
	}
	return text[0], 1
}
