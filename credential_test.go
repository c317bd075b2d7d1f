package responsesproxygate

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// keyFile writes a file with a key, and gives its path.
func keyFile(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil { // the umask applies to WriteFile
		t.Fatal(err)
	}
	return path
}

func TestAKeyComesFromItsPlaceholderOnly(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"KEY": testKey, "KEY_NEWLINE": testKey + "\n", "KEY_CRLF": testKey + "\r\n", "KEY_EMPTY": "", "KEY_SPACE": "Bearer " + testKey,
		"KEY_TWO_LINES": testKey + "\n" + testKey, "KEY_LONG": testKey + strings.Repeat("k", 8<<10), "KEY_BRACES": "{env.KEY}",
	} {
		t.Setenv("GATE_TEST_"+name, content)
	}
	const refuse = ""       // as want
	missing := "missing}: " // and the system's own words, which differ
	for name, c := range map[string]struct {
		value   string
		literal bool // insecure_allow literal_secret
		want    string
		says    string
	}{
		"an environment variable":                       {"{env.GATE_TEST_KEY}", false, testKey, ""},
		"a variable with a newline at the end":          {"{env.GATE_TEST_KEY_NEWLINE}", false, testKey, ""},
		"a variable with a Windows newline at the end":  {"{env.GATE_TEST_KEY_CRLF}", false, testKey, ""},
		"a variable that looks like a placeholder":      {"{env.GATE_TEST_KEY_BRACES}", false, "{env.KEY}", ""},
		"a variable that is not set":                    {"{env.GATE_TEST_NOT_SET}", false, refuse, "{env.GATE_TEST_NOT_SET} is not set"},
		"a variable that is empty":                      {"{env.GATE_TEST_KEY_EMPTY}", false, refuse, "{env.GATE_TEST_KEY_EMPTY} is not set, empty or unknown; is GATE_TEST_KEY_EMPTY exported"},
		"a variable with a space":                       {"{env.GATE_TEST_KEY_SPACE}", false, refuse, "bare key"},
		"a variable with two lines":                     {"{env.GATE_TEST_KEY_TWO_LINES}", false, refuse, "bare key"},
		"a variable that is too long":                   {"{env.GATE_TEST_KEY_LONG}", false, refuse, "longer than"},
		"a file":                                        {"{file." + keyFile(t, testKey, 0o600) + "}", false, testKey, ""},
		"a file with a newline at the end":              {"{file." + keyFile(t, testKey+"\n", 0o400) + "}", false, testKey, ""},
		"a file that is empty":                          {"{file." + keyFile(t, "", 0o600) + "}", false, refuse, "empty"},
		"a file with a space":                           {"{file." + keyFile(t, testKey+" "+testKey, 0o600) + "}", false, refuse, "bare key"},
		"a file that is too long":                       {"{file." + keyFile(t, strings.Repeat("k", 2<<20), 0o600) + "}", false, refuse, "longer than"},
		"a file that is not there":                      {"{file." + filepath.Join(dir, "missing") + "}", false, refuse, missing},
		"a directory":                                   {"{file." + dir + "}", false, refuse, "not a regular file"},
		"a file without a name":                         {"{file.}", false, refuse, "{env.NAME}"},
		"a literal":                                     {testKey, false, refuse, "{env.NAME}"},
		"a literal, allowed":                            {testKey, true, testKey, ""},
		"a literal with a space, allowed":               {testKey + " x", true, refuse, "bare key"},
		"a literal around a placeholder":                {testKey + "{env.GATE_TEST_KEY}", false, refuse, "{env.NAME}"},
		"a literal behind a placeholder":                {"{env.GATE_TEST_KEY}" + testKey, false, refuse, "literal_secret"},
		"a literal with an unknown placeholder":         {testKey + "{env.GATE_TEST_NOT_SET}", true, refuse, "not set"},
		"a literal with an unclosed placeholder":        {testKey + "{env.", false, refuse, "literal_secret"},
		"a placeholder with its scheme":                 {"Bearer {env.GATE_TEST_KEY}", false, refuse, "alone"},
		"a placeholder with a space behind it":          {"{env.GATE_TEST_KEY} ", false, refuse, "alone"},
		"a placeholder with a newline behind it":        {"{env.GATE_TEST_KEY}\n", false, refuse, "alone"},
		"two placeholders":                              {"{env.GATE_TEST_KEY}{env.GATE_TEST_KEY}", false, refuse, "alone"},
		"a placeholder of another kind":                 {"{http.request.header.X}", false, refuse, "{env.NAME}"},
		"a placeholder of another kind, literal":        {"{http.request.header.X}", true, refuse, "not set"},
		"a placeholder of the system's":                 {"{system.hostname}", false, refuse, "{env.NAME}"},
		"a variable without a name":                     {"{env.}", false, refuse, "{env.NAME}"},
		"a variable in the shell's style":               {"$GATE_TEST_KEY", false, refuse, "{env.NAME}"},
		"a variable that the Caddyfile parser replaces": {"{$GATE_TEST_KEY}", false, refuse, "{env.NAME}"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolveSecret("upstream_bearer", c.value, c.literal)
			if c.want != refuse {
				if err != nil || got.Reveal() != c.want {
					t.Errorf("got %q, %v", got.Reveal(), err)
				}
				return
			}
			if err == nil {
				t.Fatalf("accepted as %q", got.Reveal())
			}
			if leaks(err.Error()) {
				t.Errorf("the error gives the key away: %v", err)
			}
			if !strings.Contains(err.Error(), c.says) || !strings.HasPrefix(err.Error(), "upstream_bearer: ") {
				t.Errorf("the error says %q; it should say %q", err, c.says)
			}
		})
	}
}

// asSent is r as the Transport sends it.
func asSent(c *credential, r *http.Request) *http.Request {
	held := &heldKey{header: c.headerName, value: c.current().header}
	return held.addTo(r)
}

func TestTheOperatorsKeyReplacesTheCallers(t *testing.T) {
	for name, c := range map[string]struct {
		upstreamHeader string
		want           http.Header
	}{
		"as a bearer":           {"Authorization", http.Header{"Authorization": {"Bearer " + testKey}}},
		"as a bearer, any case": {"authorization", http.Header{"Authorization": {"Bearer " + testKey}}},
		"as an Azure key":       {"api-key", http.Header{"Api-Key": {testKey}}},
		"as a key of its own":   {"X-Custom-Key", http.Header{"X-Custom-Key": {testKey}}},
		"in the gate's header":  {"X-Proxy-Token", http.Header{"X-Proxy-Token": {testKey}}},
	} {
		t.Run(name, func(t *testing.T) {
			c.want["Content-Type"] = []string{"application/json"}
			cred := newCredential(c.upstreamHeader, 1)
			cred.use(secret.New(testKey))
			r := goodRequest()
			for _, credential := range []string{"Authorization", "X-Proxy-Token", "Proxy-Authorization", "Cookie", "Api-Key", "X-Api-Key", "X-Custom-Key"} {
				if credential != "X-Custom-Key" || c.upstreamHeader == credential {
					r.Header[credential] = []string{"caller's", "twice"}
				}
			}
			cred.dropCallerCredentials(r)
			if sent := asSent(cred, r); !reflect.DeepEqual(sent.Header, c.want) {
				t.Errorf("upstream gets %v, want %v", sent.Header, c.want)
			}
			if leaks(fmt.Sprint(r.Header)) {
				t.Errorf("the handlers' request has the key: %v", r.Header)
			}
		})
	}
}

func TestACallerCannotStripOrTunnelAroundTheCredential(t *testing.T) {
	for name, c := range map[string]struct {
		upstreamHeader string
		header         http.Header
		want           http.Header
	}{
		"Connection that names the credential":             {"Authorization", http.Header{"Connection": {"authorization"}}, http.Header{}},
		"Connection that names it in odd case":             {"Authorization", http.Header{"Connection": {"keep-alive,\tAuThOrIzAtIoN , x"}}, http.Header{}},
		"Connection that names it twice":                   {"Authorization", http.Header{"Connection": {"authorization, close, Authorization"}}, http.Header{}},
		"Connection that names it in a second header":      {"Authorization", http.Header{"Connection": {"close", "authorization"}}, http.Header{}},
		"Connection that names an Azure key":               {"api-key", http.Header{"Connection": {"Api-Key, close"}}, http.Header{}},
		"Connection that names a header of the operator's": {"api-key", http.Header{"Connection": {"authorization, close"}}, http.Header{}},
		"Connection that names something like it":          {"Authorization", http.Header{"Connection": {"authorization2"}}, http.Header{}},
		"an upgrade to h2c":                                {"Authorization", http.Header{"Connection": {"Upgrade, HTTP2-Settings"}, "Upgrade": {"h2c"}, "Http2-Settings": {"AAMAAABk"}}, http.Header{}},
		"an upgrade to TLS":                                {"Authorization", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"TLS/1.2"}}, http.Header{}},
		"an upgrade to WebSocket":                          {"Authorization", http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}},
		"an upgrade to WebSocket that strips the key":      {"Authorization", http.Header{"Connection": {"Upgrade, authorization"}, "Upgrade": {"websocket"}}, http.Header{"Connection": {"Upgrade"}, "Upgrade": {"websocket"}}},
		"trailers":                              {"Authorization", http.Header{"Trailer": {"Authorization"}}, http.Header{}},
		"a key as subprotocol":                  {"Authorization", http.Header{"Sec-Websocket-Protocol": {"openai-insecure-api-key.sk-caller"}}, http.Header{}},
		"a key among subprotocols":              {"Authorization", http.Header{"Sec-Websocket-Protocol": {"realtime, openai-insecure-api-key.sk-caller, openai-beta.x"}}, http.Header{"Sec-Websocket-Protocol": {"realtime, openai-beta.x"}}},
		"a key among subprotocols in odd case":  {"Authorization", http.Header{"Sec-Websocket-Protocol": {"realtime,OpenAI-Insecure-API-Key.sk-caller"}}, http.Header{"Sec-Websocket-Protocol": {"realtime"}}},
		"a key in a second subprotocol header":  {"Authorization", http.Header{"Sec-Websocket-Protocol": {"realtime", "openai-insecure-api-key.a", "x"}}, http.Header{"Sec-Websocket-Protocol": {"realtime, x"}}},
		"subprotocols without a key":            {"Authorization", http.Header{"Sec-Websocket-Protocol": {"realtime", "openai-beta.x"}}, http.Header{"Sec-Websocket-Protocol": {"realtime", "openai-beta.x"}}},
		"a key in a subprotocol with quotes":    {"Authorization", http.Header{"Sec-Websocket-Protocol": {`realtime, "openai-insecure-api-key.a"`}}, http.Header{"Sec-Websocket-Protocol": {"realtime"}}},
		"a key in a subprotocol behind a space": {"Authorization", http.Header{"Sec-Websocket-Protocol": {"realtime, x openai-insecure-api-key.a"}}, http.Header{"Sec-Websocket-Protocol": {"realtime"}}},
		// Caddy drops a caller's names with _ before any handler. These are a
		// handler's before the gate.
		"underscores in the gate's token":               {"Authorization", http.Header{"X_proxy_token": {"guess"}, "X-Proxy_token": {"guess"}}, http.Header{}},
		"underscores in an Azure key":                   {"api-key", http.Header{"Api_key": {"sk-caller"}, "X_api_key": {"sk-caller"}}, http.Header{}},
		"underscores in the operator's header":          {"x-goog-api-key", http.Header{"X_goog_api_key": {"sk-caller"}}, http.Header{}},
		"dashes in the operator's header":               {"X_Goog_Api_Key", http.Header{"X-Goog-Api-Key": {"sk-caller"}}, http.Header{}},
		"a header that is nobody's credential":          {"Authorization", http.Header{"Openai-Beta": {"responses"}}, http.Header{"Openai-Beta": {"responses"}}},
		"an upgrade that Connection does not ask for":   {"Authorization", http.Header{"Upgrade": {"websocket"}}, http.Header{}},
		"Http2-Settings on a request that is no switch": {"Authorization", http.Header{"Http2-Settings": {"AAMAAABk"}}, http.Header{}},
	} {
		t.Run(name, func(t *testing.T) {
			cred := newCredential(c.upstreamHeader, 1)
			r := httptest.NewRequest(http.MethodGet, "/v1/responses", nil)
			r.Header, r.Trailer = c.header, http.Header{"Authorization": nil}
			cred.dropCallerCredentials(r)
			if !reflect.DeepEqual(r.Header, c.want) {
				t.Errorf("upstream gets %q, want %q", r.Header, c.want)
			}
			if r.Trailer != nil {
				t.Errorf("upstream gets the trailers %v", r.Trailer)
			}
		})
	}
}

func TestACallerChoosesAnAccountOnlyByTheOperatorsLeave(t *testing.T) {
	choosers := http.Header{"Openai-Organization": {"org-1"}, "Openai-Project": {"proj-1"}, "Openai_project": {"proj-1"}, "Chatgpt-Account-Id": {"1"}}
	for name, c := range map[string]struct {
		allowed []string
		want    http.Header
	}{
		"none":     {nil, http.Header{}},
		"one":      {[]string{"openai-project"}, http.Header{"Openai-Project": {"proj-1"}}},
		"both":     {[]string{"OpenAI-Organization", "OpenAI-Project"}, http.Header{"Openai-Organization": {"org-1"}, "Openai-Project": {"proj-1"}}},
		"the last": {[]string{"ChatGPT-Account-ID"}, http.Header{"Chatgpt-Account-Id": {"1"}}},
	} {
		t.Run(name, func(t *testing.T) {
			cred := newCredential("Authorization", 1)
			cred.allowed = canonicalHeaders(c.allowed)
			r := httptest.NewRequest(http.MethodGet, "/v1/responses", nil)
			r.Header = choosers.Clone()
			cred.dropCallerCredentials(r)
			if !reflect.DeepEqual(r.Header, c.want) {
				t.Errorf("upstream gets %q, want %q", r.Header, c.want)
			}
		})
	}
}

// A list may offer another protocol beside WebSocket, and the upstream chooses.
func TestATunnelIsNeverOfferedBesideAWebSocket(t *testing.T) {
	for _, offered := range [][]string{{"websocket, h2c"}, {"h2c, websocket"}, {"websocket", "h2c"}, {"websocket,TLS/1.2"}} {
		r := httptest.NewRequest(http.MethodGet, "/v1/responses", nil)
		r.Header = http.Header{"Connection": {"Upgrade, HTTP2-Settings"}, "Upgrade": offered, "Http2-Settings": {"AAMAAABk"}}
		newCredential("Authorization", 1).dropCallerCredentials(r)
		if upgrade := strings.Join(r.Header["Upgrade"], ","); upgrade != "" && upgrade != "websocket" || r.Header["Http2-Settings"] != nil {
			t.Errorf("Upgrade %q goes upstream as %q, HTTP2-Settings %q", offered, upgrade, r.Header["Http2-Settings"])
		}
	}
}

func TestAnUpgradeThatIsNoGETIsDropped(t *testing.T) {
	r := goodRequest()
	r.Header["Upgrade"], r.Header["Connection"] = []string{"websocket"}, []string{"Upgrade"}
	newCredential("Authorization", 1).dropCallerCredentials(r)
	if r.Header["Upgrade"] != nil {
		t.Errorf("a POST upgrades to %q", r.Header["Upgrade"])
	}
}
