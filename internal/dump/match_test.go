//go:build !windows

package dump

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
)

// othersToken is of a caller other than the one who asks.
const othersToken = "oT3rs_token-0123456789-0123456789-abcdefghi"

// everyByteAs writes each byte of a text in a form of its own.
func everyByteAs(form, text string) string {
	var out strings.Builder
	for _, c := range []byte(text) {
		fmt.Fprintf(&out, form, c)
	}
	return out.String()
}

// secretWays are ways to write a secret.
func secretWays(text string) map[string]string {
	basic := func(user string) string { return base64.StdEncoding.EncodeToString([]byte(user + ":" + text)) }
	return map[string]string{
		"as it is":                         text,
		"percent-encoded":                  everyByteAs("%%%02X", text),
		"percent-encoded, in small":        everyByteAs("%%%02x", text),
		"half percent-encoded":             text[:9] + everyByteAs("%%%02X", text[9:]),
		"percent-encoded twice":            everyByteAs("%%25%02X", text),
		"in JSON's escapes":                everyByteAs(`\u%04x`, text),
		"one letter in JSON's escapes":     `\u00` + fmt.Sprintf("%02X", text[0]) + text[1:],
		"in escapes of JSON in JSON":       everyByteAs(`\\u%04X`, text),
		"percent-encoded in JSON's escape": everyByteAs(`\u0025%02x`, text),
		"with Basic":                       basic("u"),
		"with Basic, another user":         basic("me"),
		"with Basic, a third":              basic("you"),
		"in base64url":                     base64.RawURLEncoding.EncodeToString([]byte(`{"k":"` + text + `"}`)),
		"in base64, percent-encoded":       url.QueryEscape(basic("x")),
	}
}

// left is the longest part of a secret's way that is in a dump, if it is long
// enough to matter.
func left(dump, way string) string {
	for i := 0; i+24 <= len(way); i++ {
		if strings.Contains(dump, way[i:i+24]) {
			return way[i : i+24]
		}
	}
	return ""
}

func TestASecretIsFoundWhateverWayItIsWritten(t *testing.T) {
	// With characters that encodings have forms of their own for.
	const odd = "sk-+/?&<0123456789abcdef~0123456789+abcdef/"
	for _, text := range []string{odd, testKey, othersToken} {
		for name, way := range secretWays(text) {
			quoted, _ := json.Marshal(way)
			for place, put := range map[string]struct{ url, header, body string }{
				"in the URL":   {url: "/v1/responses?a=" + way + "&b=1"},
				"in a header":  {header: "x" + way + "y"},
				"in a body":    {body: `x"` + way + `"y`},
				"in JSON":      {body: `{"a":"` + way + `"}`},
				"quoted again": {body: `{"a":` + string(quoted) + `}`},
			} {
				dir := filepath.Join(t.TempDir(), "dumps")
				d, err := Open(dir, Secrets{Texts: func() []string { return []string{othersToken, odd} }}, zap.NewNop())
				if err != nil {
					t.Fatal(err)
				}
				r := newRequest(put.body)
				r.RequestURI = put.url
				r.Header.Set("X-Harmless", put.header)
				e := d.Begin(r, false, testKey)
				w := e.Record(httptest.NewRecorder())
				w.Header().Set("X-Harmless", put.header)
				_, _ = io.Copy(w, r.Body)
				e.Finish()
				d.Close()
				for _, dump := range readDumps(t, dir) {
					if rest := left(dump, way); rest != "" {
						t.Errorf("%s, %s: %q is left in\n%s", name, place, rest, dump)
					}
				}
				if dumps := strings.Join(readDumps(t, dir), ""); !strings.Contains(dumps, redacted) || strings.Count(dumps, `"method"`) != 1 {
					t.Errorf("%s, %s: dumped:\n%s", name, place, dumps)
				}
			}
		}
	}
}

func TestATokenOfWhichOnlyTheDigestIsKnownIsHidden(t *testing.T) {
	m := newMatcher(nil, func(text string) bool { return text == othersToken })
	for text, want := range map[string]string{
		othersToken:                                    redacted,
		`{"a":"` + othersToken + `"}`:                  `{"a":"` + redacted + `"}`,
		"xx" + othersToken + "yy":                      "xx" + redacted + "yy",
		everyByteAs("%%%02X", othersToken):             redacted,
		everyByteAs(`\u%04X`, othersToken):             redacted,
		othersToken[1:]:                                othersToken[1:],
		strings.Repeat("a", 5000):                      strings.Repeat("a", 5000),
		strings.Repeat("a", 10000) + " " + othersToken: strings.Repeat("a", 10000) + " " + redacted,
	} {
		if got := string(m.hide([]byte(text), len(text))); got != want {
			t.Errorf("%.100q is shown as %.100q, want %.100q", text, got, want)
		}
	}
}

func TestWhatIsNotSecretIsShownAsItWas(t *testing.T) {
	m := newMatcher([]string{testKey, testToken}, func(string) bool { return false })
	for _, text := range []string{"", "%", `\`, `\u`, "%4", `100% of \u00e9 and \u1F600`, `\\\\`, "%zz%41", strings.Repeat(`\"%25`, 1000), "\xff\x00"} {
		if got := string(m.hide([]byte(text), len(text))); got != text {
			t.Errorf("%q is shown as %q", text, got)
		}
	}
}

func FuzzHiddenSecretsLeaveNoPart(f *testing.F) {
	f.Add("a", "b", byte(0))
	f.Add(`\`, `%4`, byte(7))
	f.Add(`{"a":"\u00`, `"}`, byte(3))
	ways := secretWays(testKey)
	var names []string
	for name := range ways {
		names = append(names, name)
	}
	m := newMatcher([]string{testKey}, nil)
	f.Fuzz(func(t *testing.T, before, after string, which byte) {
		way := ways[names[int(which)%len(names)]]
		text := before + "," + way + "," + after
		if rest := left(string(m.hide([]byte(text), len(text))), way); rest != "" && left(before+after, way) == "" {
			t.Errorf("%q of %q is left", rest, text)
		}
	})
}
