package secret

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

const testKey = "skOperatorKeyThatNobodyMayEverSee0123456789"

func TestASecretIsRevealedOnRequestOnly(t *testing.T) {
	if got := New(testKey).Reveal(); got != testKey {
		t.Errorf("reveal gives %q", got)
	}
	if got := (Secret{}).Reveal(); got != "" {
		t.Errorf("a zero secret reveals %q", got)
	}
	if got := fmt.Sprint(Secret{}, New("")); got != "REDACTED REDACTED" {
		t.Errorf("empty secrets print as %q", got)
	}
	if got := New(testKey).GoString() + New(testKey).String(); got != "REDACTEDREDACTED" {
		t.Errorf("asked by name, a secret says %q", got)
	}
}

func TestAKeyIsOneLineOfVisibleCharacters(t *testing.T) {
	longest := strings.Repeat("k", MaxLength)
	for name, c := range map[string]struct {
		raw, want string // want "": refused
		says      string
	}{
		"a bare key":                        {testKey, testKey, ""},
		"every visible character":           {"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", ""},
		"a newline at the end":              {testKey + "\n", testKey, ""},
		"a Windows newline at the end":      {testKey + "\r\n", testKey, ""},
		"two newlines at the end":           {testKey + "\n\n", "", "newline"},
		"a newline before it":               {"\n" + testKey, "", "newline"},
		"a newline inside":                  {testKey + "\n" + testKey, "", "newline"},
		"a carriage return at the end":      {testKey + "\r", "", "bare key"},
		"a header smuggled in":              {testKey + "\r\nX-Evil: 1", "", "bare key"},
		"a space inside":                    {"Bearer " + testKey, "", "bare key"},
		"a space at the end":                {testKey + " ", "", "space"},
		"a space before it":                 {" " + testKey, "", "space"},
		"a tab":                             {testKey + "\t", "", "bare key"},
		"a NUL":                             {testKey + "\x00", "", "bare key"},
		"a DEL":                             {testKey + "\x7f", "", "bare key"},
		"a byte order mark":                 {"\ufeff" + testKey, "", "bare key"},
		"a non-breaking space":              {testKey + "\u00a0", "", "bare key"},
		"a letter beyond ASCII":             {testKey + "\u00e9", "", "bare key"},
		"a byte that is no text":            {testKey + "\xff", "", "bare key"},
		"nothing":                           {"", "", "empty"},
		"a newline alone":                   {"\n", "", "empty"},
		"a Windows newline alone":           {"\r\n", "", "empty"},
		"the longest key":                   {longest, longest, ""},
		"the longest key and a newline":     {longest + "\r\n", longest, ""},
		"a key that is one byte too long":   {longest + "k", "", "longer than 8192 bytes"},
		"a key that is much too long":       {longest + longest, "", "longer than 8192 bytes"},
		"an overlong key, and not a secret": {testKey + longest, "", "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := Parse(c.raw)
			if c.want != "" {
				if err != nil || got.Reveal() != c.want {
					t.Errorf("got %q, %v", got.Reveal(), err)
				}
				return
			}
			if err == nil {
				t.Fatalf("accepted as %q", got.Reveal())
			}
			if strings.Contains(err.Error(), testKey) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("the error says %q; it should say %q and not the key", err, c.says)
			}
			if got != (Secret{}) {
				t.Error("a refused key is handed on")
			}
			if errors.Unwrap(err) != nil {
				t.Errorf("the error wraps %v", errors.Unwrap(err))
			}
		})
	}
}
