package responsesproxygate

import (
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// The oracle for the Content-Type decision is the WHATWG's own algorithms,
// step by step: MIME Sniffing §4.4 and Fetch §2.2.2. It shares nothing with
// the code under test, which reads RFC 9110.

// mimeType is what "parse a MIME type" returns.
type mimeType struct {
	essence    string
	parameters [][2]string
}

const (
	httpTokens     = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
	httpWhitespace = "\n\r\t "
)

func isFetchToken(s string) bool { return s != "" && strings.Trim(s, httpTokens) == "" }

// isFetchQuotable reports whether s solely contains HTTP quoted-string token code points.
func isFetchQuotable(s string) bool {
	for _, c := range []byte(s) { // bytes: the input is an isomorphic decoding
		if c != '\t' && (c < ' ' || c == 0x7f) {
			return false
		}
	}
	return true
}

func lowerASCII(s string) string {
	lower := []byte(s)
	for i, c := range lower {
		if 'A' <= c && c <= 'Z' {
			lower[i] = c + 'a' - 'A'
		}
	}
	return string(lower)
}

// until is "collect a sequence of code points that are not" one of stops.
func until(input string, position int, stops string) (collected string, next int) {
	next = position
	for next < len(input) && strings.IndexByte(stops, input[next]) < 0 {
		next++
	}
	return input[position:next], next
}

// fetchQuotedString is "collect an HTTP quoted string": its value, or with raw
// the text as it stands.
func fetchQuotedString(input string, position int) (value, raw string, next int) {
	start := position
	position++ // the opening quote
	for {
		part, at := until(input, position, `"\`)
		value, position = value+part, at
		if position >= len(input) {
			break
		}
		escape := input[position] == '\\'
		position++
		if !escape {
			break
		}
		if position >= len(input) {
			value += `\`
			break
		}
		value += input[position : position+1]
		position++
	}
	return value, input[start:position], position
}

// parseMIMEType is "parse a MIME type" of MIME Sniffing §4.4.
func parseMIMEType(input string) (parsed mimeType, ok bool) {
	input = strings.Trim(input, httpWhitespace)
	kind, position := until(input, 0, "/")
	if !isFetchToken(kind) || position >= len(input) {
		return mimeType{}, false
	}
	subtype, position := until(input, position+1, ";")
	subtype = strings.TrimRight(subtype, httpWhitespace)
	if !isFetchToken(subtype) {
		return mimeType{}, false
	}
	parsed.essence = lowerASCII(kind) + "/" + lowerASCII(subtype)
	for position < len(input) {
		position++ // the semicolon
		for position < len(input) && strings.IndexByte(httpWhitespace, input[position]) >= 0 {
			position++
		}
		var name, value string
		name, position = until(input, position, ";=")
		name = lowerASCII(name)
		if position < len(input) {
			if input[position] == ';' {
				continue
			}
			position++ // the equals sign
		}
		if position >= len(input) {
			break
		}
		if input[position] == '"' {
			value, _, position = fetchQuotedString(input, position)
			_, position = until(input, position, ";")
		} else {
			value, position = until(input, position, ";")
			if value = strings.TrimRight(value, httpWhitespace); value == "" {
				continue
			}
		}
		known := slices.ContainsFunc(parsed.parameters, func(p [2]string) bool { return p[0] == name })
		if isFetchToken(name) && isFetchQuotable(value) && !known {
			parsed.parameters = append(parsed.parameters, [2]string{name, value})
		}
	}
	return parsed, true
}

// getDecodeAndSplit is "get, decode, and split" of Fetch §2.2.2.
func getDecodeAndSplit(values []string) (parts []string) {
	input, position := strings.Join(values, ", "), 0
	for {
		part := ""
		for {
			var text string
			text, position = until(input, position, `",`)
			part += text
			if position >= len(input) || input[position] == ',' {
				break
			}
			_, text, position = fetchQuotedString(input, position)
			part += text
		}
		parts = append(parts, strings.Trim(part, "\t "))
		if position >= len(input) {
			return parts
		}
		position++ // the comma
	}
}

// extractMIMEType is "extract a MIME type" of Fetch §2.2.2, without what it
// does about charsets.
func extractMIMEType(values []string) (extracted mimeType, ok bool) {
	for _, value := range getDecodeAndSplit(values) {
		if parsed, valid := parseMIMEType(value); valid && parsed.essence != "*/*" {
			extracted, ok = parsed, true
		}
	}
	return extracted, ok
}

var safelistedTypes = []string{"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"}

// isCORSSafelisted reports whether a page may send this Content-Type without a
// preflight: Fetch §2.2.2, "CORS-safelisted request-header".
func isCORSSafelisted(value string) bool {
	for _, c := range []byte(value) { // "CORS-unsafe request-header byte"
		if c < 0x20 && c != '\t' || strings.IndexByte("\"():<>?@[\\]{}\x7f", c) >= 0 {
			return false
		}
	}
	parsed, ok := parseMIMEType(value)
	return ok && slices.Contains(safelistedTypes, parsed.essence) && len(value) <= 128
}

// wrongToAccept says why these Content-Type headers must not pass, or "".
func wrongToAccept(values []string) string {
	combined := strings.Join(values, ", ")
	for _, value := range append([]string{combined}, values...) {
		if isCORSSafelisted(value) {
			return "a page can send it without a preflight"
		}
		if parsed, _ := parseMIMEType(value); parsed.essence != "application/json" {
			return "to the MIME Sniffing standard its essence is " + parsed.essence
		}
	}
	if extracted, _ := extractMIMEType(values); extracted.essence != "application/json" {
		return "to the Fetch standard it is " + extracted.essence
	}
	// However else a parser splits lists, none of it is a safelisted type, of
	// whatever length and with whatever bytes in its parameters.
	for _, part := range slices.Concat(getDecodeAndSplit(values), strings.Split(combined, ",")) {
		if parsed, _ := parseMIMEType(part); slices.Contains(safelistedTypes, parsed.essence) {
			return "a part of it is " + parsed.essence
		}
	}
	return ""
}

// plainJSON is what no gate may refuse: parameters as clients write them.
var plainJSON = regexp.MustCompile(`^[ \t]*[Aa][Pp][Pp][Ll][Ii][Cc][Aa][Tt][Ii][Oo][Nn]/[Jj][Ss][Oo][Nn][ \t]*(;[ \t]*(charset|profile|version|q)=([A-Za-z0-9._-]+|"[A-Za-z0-9 ;:/=._-]*"))?$`)

// The oracle itself is checked against examples of the standards.
func TestTheContentTypeOracleFollowsTheStandards(t *testing.T) {
	for value, want := range map[string]bool{
		"text/plain": true, "TEXT/Plain;charset=utf-8": true, "multipart/form-data; boundary=x": true, "\ttext/plain\r\n": false,
		"application/x-www-form-urlencoded;": true, "text/plain;application/json": true, "application/json": false, "text/plain, application/json": false,
		`text/plain;a="b"`: false, "text/plain;a=(b)": false, "text/plain;a=b:c": false, "text/plain;a=\x7f": false, "text/plain;a=\xff": true,
		"text/plain;a=" + strings.Repeat("b", 128-13): true, "text/plain;a=" + strings.Repeat("b", 129-13): false, "text/html": false, "": false, "text/": false,
	} {
		if got := isCORSSafelisted(value); got != want {
			t.Errorf("%q is safelisted: %t, want %t", value, got, want)
		}
	}
	// Fetch's own table of examples (§2.2.2, "extract a MIME type").
	for _, c := range []struct {
		values []string
		want   string
	}{
		{[]string{"text/plain;charset=gbk, text/html"}, "text/html"},
		{[]string{"text/html;charset=gbk;a=b, text/html;x=y"}, "text/html"},
		{[]string{"text/html;charset=gbk;a=b", "text/html;x=y"}, "text/html"},
		{[]string{"text/html;charset=gbk", "x/x", "text/html;x=y"}, "text/html"},
		{[]string{"text/html", "cannot-parse"}, "text/html"},
		{[]string{"text/html", "*/*"}, "text/html"},
		{[]string{"text/html", ""}, "text/html"},
		{[]string{`text/html;" \" application/json, text/plain`}, "text/html"}, // the quote is never closed
		{[]string{`application/json;a="b,text/plain;c="`}, "application/json"},
		{[]string{"cannot-parse"}, ""},
	} {
		if got, _ := extractMIMEType(c.values); got.essence != c.want {
			t.Errorf("%q is %q, want %q", c.values, got.essence, c.want)
		}
	}
	parsed, _ := parseMIMEType(`text/html;charset="shift_jis\"iso-2022-jp";a=;b=1;B=2; c = d;e`)
	want := [][2]string{{"charset", `shift_jis"iso-2022-jp`}, {"b", "1"}}
	if !slices.Equal(parsed.parameters, want) {
		t.Errorf("parameters %q, want %q", parsed.parameters, want)
	}
}

func FuzzContentTypeIsNeverSafelisted(f *testing.F) {
	f.Add("application/json", "text/plain", uint8(1))
	f.Fuzz(func(t *testing.T, first, second string, count uint8) {
		values := []string{first, second}[:count%3]
		r := goodRequest()
		r.Header["Content-Type"] = values
		passes := check(testPolicy(), r) == nil
		if why := wrongToAccept(values); passes && why != "" {
			t.Errorf("Content-Type %q passes, but %s", values, why)
		}
		if !passes && len(values) == 1 && plainJSON.MatchString(first) {
			t.Errorf("Content-Type %q is refused", first)
		}
	})
}

// FuzzABodyNeverPassesWithoutJSON has net/http read a message, as the server
// does, and looks at what the gate would let the upstream see of its body.
func FuzzABodyNeverPassesWithoutJSON(f *testing.F) {
	f.Add("POST", "Content-Length: 2\r\n", "{}")
	f.Fuzz(func(t *testing.T, method, fields, body string) {
		r := readRequest(method + " /v1/responses HTTP/1.1\r\nHost: localhost\r\n" + fields + "\r\n" + body)
		if r == nil || checkContentType(r) != nil {
			return
		}
		if wrongToAccept(r.Header["Content-Type"]) == "" {
			return
		}
		if n, _ := r.Body.Read(make([]byte, 1)); n > 0 {
			t.Errorf("a body passes with Content-Type %q: %s %q", r.Header["Content-Type"], method, fields)
		}
		if isWebSocketUpgrade(r) && r.Method != http.MethodGet {
			t.Errorf("%s is taken for an upgrade", r.Method)
		}
	})
}
