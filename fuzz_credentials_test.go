package responsesproxygate

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"golang.org/x/net/http/httpguts"
)

// callerSecret stands in every credential that the fuzzed caller sends.
const callerSecret = "callers-own-secret"

// carriesCredential reports whether some upstream would take a header of this
// name for a credential. CGI and its heirs (WSGI, Rack, PHP) read "_" as "-".
func carriesCredential(name, upstreamHeader string) bool {
	plain := func(name string) string { return strings.ReplaceAll(lowerASCII(name), "_", "-") }
	return slices.ContainsFunc(append([]string{
		"authorization", "x-proxy-token", "proxy-authorization", "cookie", "api-key", "x-api-key",
	}, plain(upstreamHeader)), func(credential string) bool { return credential == plain(name) })
}

func FuzzCallersCredentialsNeverGoUpstream(f *testing.F) {
	f.Add("X-Api-Key", "Authorization, close", "realtime, openai-insecure-api-key."+callerSecret, "Api-Key", uint8(0))
	f.Fuzz(func(t *testing.T, name, connection, subprotocols, upstreamHeader string, kind uint8) {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(connection) ||
			!httpguts.ValidHeaderFieldValue(subprotocols) || validateUpstreamHeader(upstreamHeader) != nil {
			return // the server, or the config, refuses it
		}
		r := goodRequest()
		for _, credential := range callerCredentials {
			r.Header[credential] = []string{"Bearer " + callerSecret, callerSecret}
		}
		r.Header.Set("Openai-Beta", "kept")
		r.Header.Set("Sec-Websocket-Protocol", subprotocols)
		r.Header.Set("Connection", connection)
		upgrade := kind%2 == 1
		if upgrade {
			r.Method = http.MethodGet
			r.Header.Set("Upgrade", "websocket")
			r.Header.Add("Connection", "Upgrade")
		}
		r.Header.Set(name, "of the caller")
		if carriesCredential(name, upstreamHeader) {
			r.Header.Set(name, callerSecret)
		}
		upgrade = upgrade && isWebSocketUpgrade(r)
		named := slices.Contains(strings.FieldsFunc(lowerASCII(strings.Join(r.Header["Connection"], ",")),
			func(r rune) bool { return strings.ContainsRune(", \t", r) }), "openai-beta")

		c := newCredential(upstreamHeader, 1)
		c.use(secret.New("operators-key"))
		c.dropCallerCredentials(r)
		r = asSent(c, r)

		if upgrade != (r.Header.Get("Upgrade") == "websocket") && !strings.EqualFold(name, "Upgrade") {
			t.Errorf("an upgrade: %t, upstream sees Upgrade: %q", upgrade, r.Header.Values("Upgrade"))
		}
		// What reverse_proxy takes out next must not be the credential.
		for _, value := range r.Header["Connection"] {
			for field := range strings.SplitSeq(value, ",") {
				r.Header.Del(strings.TrimSpace(field))
			}
		}
		credentials := 0
		for name, values := range r.Header {
			all := strings.Join(values, "\n")
			if strings.Contains(all, callerSecret) && name != "Sec-Websocket-Protocol" {
				t.Errorf("%s goes upstream with the caller's secret", name)
			}
			if strings.Contains(lowerASCII(all), "openai-insecure-api-key.") && name == "Sec-Websocket-Protocol" {
				t.Errorf("%s goes upstream with a key in it: %q", name, all)
			}
			if carriesCredential(name, upstreamHeader) {
				credentials += len(values)
			}
		}
		want := "operators-key"
		if strings.EqualFold(upstreamHeader, "Authorization") {
			want = "Bearer operators-key"
		}
		if got := r.Header.Values(upstreamHeader); len(got) != 1 || got[0] != want || credentials != 1 {
			t.Errorf("upstream sees %d credentials, %s: %q", credentials, upstreamHeader, got)
		}
		if got := r.Header.Get("Openai-Beta"); got == "" && !named && !strings.EqualFold(name, "Openai-Beta") {
			t.Error("a header without credentials is gone")
		}
	})
}

// callerCredentials are the headers in which callers send their token, and a
// key if they take the gate for an API.
var callerCredentials = []string{
	"Authorization", "X-Proxy-Token", "Proxy-Authorization", "Cookie", "Api-Key", "X-Api-Key",
}
