//go:build !windows

package dump

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestSecretsInHeadersDoNotReachDumps(t *testing.T) {
	for _, test := range []struct{ name, header, value, wantRequest, wantResponse string }{
		{"the caller's token", "Authorization", "Bearer x", "[REDACTED]", "[REDACTED]"},
		{"the caller's token in its own header", "X-Proxy-Token", "x", "[REDACTED]", "[REDACTED]"},
		{"a proxy's password", "Proxy-Authorization", "Basic eDp4", "[REDACTED]", "[REDACTED]"},
		{"cookies of the caller", "Cookie", "a=b", "[REDACTED]", "[REDACTED]"},
		{"cookies of the upstream", "Set-Cookie", "a=b", "[REDACTED]", "[REDACTED]"},
		{"an API key", "Api-Key", "x", "[REDACTED]", "[REDACTED]"},
		{"an API key, the other name", "X-Api-Key", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with token in it", "X-Amz-Security-Token", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with secret in it", "X-Client-Secret", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with key in it", "Ocp-Apim-Subscription-Key", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with password in it", "X-Password", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with credential in it", "X-Credential-Id", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with session in it", "Session_id", "x", "[REDACTED]", "[REDACTED]"},
		{"the operator's key anywhere", "X-Harmless", "a " + testKey + " b", "[REDACTED]", "[REDACTED]"},
		{"the gate's token anywhere", "User-Agent", "x" + testToken, "[REDACTED]", "[REDACTED]"},
		{"a key among the subprotocols", "Sec-Websocket-Protocol", "realtime,OpenAI-insecure-api-key.sk-x, v1", "realtime, [REDACTED], v1", "realtime, [REDACTED], v1"},
		{"a key in a subprotocol with quotes", "Sec-Websocket-Protocol", `realtime,"openai-insecure-api-key.sk-x"`, "realtime, [REDACTED]", "realtime, [REDACTED]"},
		{"subprotocols without a key stay", "Sec-Websocket-Protocol", "realtime,v1", "realtime,v1", "realtime,v1"},
		{"a challenge stays", "Www-Authenticate", "Bearer", "Bearer", "Bearer"},
		{"the number of tokens left stays in the answer", "X-Ratelimit-Remaining-Tokens", "7", "[REDACTED]", "7"},
		{"what is not secret stays", "Accept", "text/event-stream", "text/event-stream", "text/event-stream"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			r := newRequest(`{}`)
			r.Header[test.header] = []string{test.value}
			dumpExchange(d, r, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()[test.header] = []string{test.value}
				w.WriteHeader(http.StatusOK)
			})
			d.Close()
			request, response := onlyDump(t, dir)
			if got := headerIn(t, request, test.header); got != test.wantRequest {
				t.Errorf("request: %q, want %q", got, test.wantRequest)
			}
			if got := headerIn(t, response, strings.ToLower(test.header)); got != test.wantResponse {
				t.Errorf("response: %q, want %q", got, test.wantResponse)
			}
			if got := headerIn(t, request, "Host"); got != "127.0.0.1:1" {
				t.Errorf("Host: %q", got)
			}
		})
	}
}

func TestSecretsInBodiesDoNotReachDumps(t *testing.T) {
	odd := `k"ey\with/all<of>them`
	oddJSON, _ := json.Marshal(odd)
	for _, test := range []struct{ name, body, want string }{
		{"the operator's key in an error", `{"error":"bad key ` + testKey + `."}`, `{"error":"bad key [REDACTED]."}`},
		{"the gate's token", `{"a":"` + testToken + `"}`, `{"a":"[REDACTED]"}`},
		{"every one of several", testKey + testKey + "," + testToken, `"[REDACTED][REDACTED],[REDACTED]"`},
		{"two that overlap are one", testKey + "-tail-of-another", `"[REDACTED]"`},
		{"a secret that JSON has to escape", `{"a":` + strings.ReplaceAll(string(oddJSON), `/`, `\/`) + `}`, ``},
		{"a secret that Go's JSON escapes", `{"a":` + string(oddJSON) + `}`, `{"a":"[REDACTED]"}`},
		{"a stream that breaks off in the middle of a secret", "data: " + testKey[:30], `"data: [REDACTED]"`},
		{"the first letters alone are not secret", "data: sk-proj", `"data: sk-proj"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			r := newRequest(test.body)
			r.RequestURI = "/v1/responses?a=" + testKey
			e := d.Begin(r, false, testKey, testToken, "0123456789abcdef-tail-of-another", testKey[20:]+"-tail-of-another", testKey[5:25], odd)
			w := e.Record(httptest.NewRecorder())
			_, _ = io.Copy(w, r.Body)
			e.Finish()
			d.Close()
			for _, dump := range bothDumps(onlyDump(t, dir)) {
				for _, secret := range []string{testKey, testToken, testKey[:20], odd, string(oddJSON)} {
					if strings.Contains(dump, secret) {
						t.Errorf("%q is in the dump:\n%s", secret, dump)
					}
				}
				if got := compactBody(t, dump); test.want != "" && got != test.want {
					t.Errorf("body: %s, want %s", got, test.want)
				}
			}
		})
	}
}

func TestALongBodyIsCutAndSaysSo(t *testing.T) {
	for _, test := range []struct {
		name, body, want string
	}{
		{"a body at the bound is whole", strings.Repeat("a", maxBody), strings.Repeat("a", maxBody)},
		{
			"a body one byte longer is cut", strings.Repeat("a", maxBody+1),
			strings.Repeat("a", maxBody) + "…[cut: 4194305 bytes in all]",
		},
		{
			"JSON that is cut is text", `["` + strings.Repeat("a", maxBody*2) + `"]`,
			`["` + strings.Repeat("a", maxBody-2) + "…[cut: 8388612 bytes in all]",
		},
		{
			"no character is cut in two", "a" + strings.Repeat("é", maxBody),
			"a" + strings.Repeat("é", maxBody/2-1) + "…[cut: 8388609 bytes in all]",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			dumpExchange(d, newRequest(test.body), func(w http.ResponseWriter, r *http.Request) {
				if n, err := io.Copy(w, r.Body); err != nil || n != int64(len(test.body)) {
					t.Errorf("the body itself was cut: %d bytes, %v", n, err)
				}
			})
			d.Close()
			for _, dump := range bothDumps(onlyDump(t, dir)) {
				if got := textBody(t, dump); got != test.want {
					t.Errorf("body: %d bytes ending in %q, want %d bytes ending in %q",
						len(got), got[max(0, len(got)-40):], len(test.want), test.want[len(test.want)-40:])
				}
			}
			if held := d.dir.held.Load(); held != 0 {
				t.Errorf("%d bytes are still accounted for", held)
			}
		})
	}
}

func TestNoPartOfASecretIsLeftAtTheCut(t *testing.T) {
	for _, test := range []struct {
		name string
		free int // bytes of memory
	}{{"at the bound of one body", maxHeld}, {"at the bound of memory", 1000}} {
		t.Run(test.name, func(t *testing.T) {
			for before := -1; before <= len(testKey)+1; before++ {
				d, _ := blockedDumper(t, 1)
				d.dir.held.Store(int64(maxHeld - test.free))
				e := d.Begin(newRequest(""), false, testKey)
				cut := min(maxBody, test.free-e.overhang())
				e.wrote(bytes.Repeat([]byte("."), cut-before))
				for _, c := range []byte(testKey + strings.Repeat(".", 2000)) {
					e.wrote([]byte{c})
				}
				got := e.body(e.response, newMatcher(e.secrets, nil)).(string)
				shown, _, marked := strings.Cut(got, "…[cut: ")
				if !marked {
					t.Fatalf("%d bytes before the cut: there is no marker", before)
				}
				if hidden := strings.Contains(shown, redacted); hidden != (before > 0) {
					t.Errorf("%d bytes before the cut: hidden: %t", before, hidden)
				}
				if left := strings.Trim(strings.Replace(shown, redacted, "", 1), "."); left != "" {
					t.Errorf("%d bytes before the cut: %q is left", before, left)
				}
			}
		})
	}
}
