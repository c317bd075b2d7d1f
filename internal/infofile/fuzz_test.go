package infofile

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
)

// safeBase is every base address to which a token may go: TLS, or this host.
var safeBase = regexp.MustCompile(`^(?i:https)://[^/?#@\\]+(/[^?#]*)?#?$|` +
	`^(?i:http)://(localhost|127\.[0-9]+\.[0-9]+\.[0-9]+|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?(/[^?#]*)?#?$`)

func FuzzServerInfoLeadsNowhereElse(f *testing.F) {
	f.Add([]byte(`{"port":18080,"pid":4242,"auth_token":"` + sampleToken + `","base_url":"http://127.0.0.1:18080/v1"}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		info, err := Parse(content)
		if err != nil {
			// Any stretch of the input that is long enough to be a secret.
			for start := 0; start+16 <= len(content); start++ {
				if strings.Contains(err.Error(), string(content[start:start+16])) {
					t.Fatalf("the error quotes the file: %v", err)
				}
			}
			return
		}
		token := info.Token.Reveal()
		if !safeBase.MatchString(info.BaseURL) {
			t.Errorf("base_url %q is believed", info.BaseURL)
		}
		if (info.Port > 0 && info.Port < 1<<16) == (info.Socket != "") || info.PID < 1 || token == "" ||
			strings.Trim(token, visibleASCII) != "" {
			t.Errorf("this is believed: %v %q", info, token)
		}
		if said := fmt.Sprintf("%+v", info); strings.Contains(said, token) && len(token) >= 16 &&
			!strings.Contains(info.BaseURL+info.Socket, token) {
			t.Errorf("%s has the token", said)
		}
		line, err := info.line()
		if err != nil || strings.Count(string(line), "\n") != 1 {
			t.Fatalf("it is written as %q, %v", line, err)
		}
		if again, err := Parse(line); err != nil || told(again) != told(info) {
			t.Errorf("read again it is %v, %v; was %v", again, err, info)
		}
	})
}

var visibleASCII = func() string {
	var b strings.Builder
	for c := byte('!'); c <= '~'; c++ {
		b.WriteByte(c)
	}
	return b.String()
}()
