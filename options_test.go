package responsesproxygate

import (
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
)

// refusedWith checks an option's verdict: accepted if says is "", else refused
// with an error that says so.
func refusedWith(t *testing.T, err error, says string) {
	t.Helper()
	switch {
	case says == "" && err != nil:
		t.Errorf("refused: %v", err)
	case says != "" && err == nil:
		t.Errorf("accepted; it should be refused with %q", says)
	case says != "" && !strings.Contains(err.Error(), says):
		t.Errorf("the error says %q; it should say %q", err, says)
	}
}

func TestAnOriginIsWrittenAsBrowsersSendIt(t *testing.T) {
	const shape, xn = "write an origin, such as https://app.example", "xn-- form"
	for name, c := range map[string]struct {
		origins []string
		says    string
	}{
		"none":                                 {nil, ""},
		"an origin":                            {[]string{"https://app.example"}, ""},
		"an origin with a port":                {[]string{"http://localhost:3000"}, ""},
		"an address":                           {[]string{"http://127.0.0.1:3000", "http://[::1]:3000"}, ""},
		"a browser extension":                  {[]string{"chrome-extension://abcdefghijklmnop"}, ""},
		"an international name as xn--":        {[]string{"https://xn--bcher-kva.example"}, ""},
		"an international name":                {[]string{"https://b\u00fccher.example"}, xn},
		"a wildcard":                           {[]string{"*"}, "name the origins"},
		"a wildcard host":                      {[]string{"https://*.app.example"}, shape},
		"null":                                 {[]string{"null"}, "name a real origin"},
		"nothing":                              {[]string{""}, shape},
		"a space":                              {[]string{"https://app.example "}, shape},
		"a bare name":                          {[]string{"app.example"}, shape},
		"a bare name with a port":              {[]string{"app.example:443"}, shape},
		"a name without a scheme":              {[]string{"//app.example"}, shape},
		"a scheme without a name":              {[]string{"https://"}, shape},
		"a file":                               {[]string{"file:///etc/passwd"}, shape},
		"userinfo":                             {[]string{"https://user@app.example"}, shape},
		"a trailing slash":                     {[]string{"https://app.example/"}, "write it so"},
		"a path":                               {[]string{"https://app.example/chat"}, "browsers write it https://app.example"},
		"a query":                              {[]string{"https://app.example?a"}, "browsers write it https://app.example"},
		"a fragment":                           {[]string{"https://app.example#a"}, "browsers write it https://app.example"},
		"capitals":                             {[]string{"https://App.Example"}, "browsers write it https://app.example"},
		"a scheme in capitals":                 {[]string{"HTTPS://app.example"}, "browsers write it https://app.example"},
		"https with its default port":          {[]string{"https://app.example:443"}, "browsers write it https://app.example"},
		"http with its default port":           {[]string{"http://app.example:80"}, "browsers write it http://app.example"},
		"http with the default port of https":  {[]string{"http://app.example:443"}, ""},
		"a colon without a port":               {[]string{"https://app.example:"}, "https://app.example"},
		"a port with leading zeros":            {[]string{"https://app.example:08443"}, "browsers write it https://app.example:8443"},
		"a default port with leading zeros":    {[]string{"https://app.example:0443"}, "browsers write it https://app.example;"},
		"a port above 65535":                   {[]string{"https://app.example:65536"}, "its port is none"},
		"a bracket within a name":              {[]string{"https://app.exa8]3mple"}, shape},
		"an angle within a name":               {[]string{"https://app<.example"}, shape},
		"an encoded character":                 {[]string{"https://app%41.example"}, shape},
		"an address cut short":                 {[]string{"http://127.1"}, "write the address in full"},
		"an address in hexadecimal":            {[]string{"http://0x7f.0.0.0x1"}, "write the address in full"},
		"an address written long":              {[]string{"http://[0:0:0:0:0:0:0:1]"}, "browsers write it http://[::1]"},
		"IPv4 in IPv6":                         {[]string{"http://[::ffff:127.0.0.1]"}, "browsers write it http://[::ffff:7f00:1]"},
		"IPv4 in IPv6 as browsers write it":    {[]string{"http://[::ffff:7f00:1]"}, ""},
		"a zone":                               {[]string{"http://[fe80::1%25eth0]"}, "write the address without"},
		"a port without a name":                {[]string{"https://:8443"}, shape},
		"a port that is none":                  {[]string{"https://app.example:http"}, shape},
		"two origins in one":                   {[]string{"https://a.example https://b.example"}, shape},
		"the same origin twice":                {[]string{"https://a.example", "https://b.example", "https://a.example"}, "named twice"},
		"a good origin and a bad one":          {[]string{"https://a.example", "*"}, `allow_origin "*"`},
		"a bad origin is named in the message": {[]string{"app.example"}, `allow_origin "app.example"`},
	} {
		t.Run(name, func(t *testing.T) { refusedWith(t, validateOrigins(c.origins), c.says) })
	}
}

func TestAHostIsABareName(t *testing.T) {
	const bare = "write a bare host name or address"
	for name, c := range map[string]struct {
		hosts []string
		says  string
	}{
		"none":                   {nil, ""},
		"a name":                 {[]string{"gate.internal"}, ""},
		"a single word":          {[]string{"gate"}, ""},
		"capitals":               {[]string{"Gate.Internal"}, ""},
		"an underscore":          {[]string{"my_gate"}, ""},
		"an IPv4 address":        {[]string{"192.0.2.7"}, ""},
		"an IPv6 address":        {[]string{"fd00::1"}, ""},
		"an IPv6 with brackets":  {[]string{"[fd00::1]"}, ""},
		"a wildcard":             {[]string{"*"}, "wildcards are not supported"},
		"a wildcard in a name":   {[]string{"*.internal"}, "name the hosts"},
		"nothing":                {[]string{""}, bare},
		"a scheme":               {[]string{"http://gate"}, bare},
		"a port":                 {[]string{"gate:80"}, bare},
		"an IPv4 with a port":    {[]string{"192.0.2.7:80"}, bare},
		"an IPv6 with a port":    {[]string{"[fd00::1]:80"}, bare},
		"a path":                 {[]string{"gate/x"}, bare},
		"userinfo":               {[]string{"user@gate"}, bare},
		"a space":                {[]string{"gate internal"}, bare},
		"a name beyond ASCII":    {[]string{"g\u00e4te"}, bare},
		"a name in brackets":     {[]string{"[gate]"}, bare},
		"a placeholder":          {[]string{"{env.HOST}"}, bare},
		"the same host twice":    {[]string{"gate", "gate"}, "named twice"},
		"a good and a bad one":   {[]string{"gate", "http://x"}, `allow_host "http://x"`},
		"a bad one is not taken": {[]string{"a,b/"}, bare},
	} {
		t.Run(name, func(t *testing.T) { refusedWith(t, validateHosts(c.hosts), c.says) })
	}
}

func TestARouteHasOneSpelling(t *testing.T) {
	const method, segment, char = "the method is one of GET, HEAD, POST, PUT, PATCH, DELETE, in capitals", "dot segment", "cannot stand in it"
	for name, c := range map[string]struct {
		method, path string
		says         string
	}{
		"the default":              {"POST", "/v1/responses", ""},
		"the root":                 {"GET", "/", ""},
		"a file":                   {"GET", "/v1/files/a-b_c.d~e", ""},
		"an action":                {"POST", "/v1/models/m:generate", ""},
		"a method in lower case":   {"post", "/v1/responses", method},
		"no method":                {"", "/v1/responses", method},
		"a wildcard method":        {"*", "/v1/responses", method},
		"CONNECT":                  {"CONNECT", "/v1/responses", method},
		"TRACE":                    {"TRACE", "/v1/responses", method},
		"OPTIONS":                  {"OPTIONS", "/v1/responses", method},
		"no path":                  {"POST", "", "begins with /"},
		"a relative path":          {"POST", "v1/responses", "begins with /"},
		"a URL":                    {"POST", "https://api.openai.com/v1", "begins with /"},
		"half a wildcard segment":  {"POST", "/v1/a*", "one * can stand in it"},
		"a template":               {"GET", "/v1/files/{id}", char},
		"an escape":                {"POST", "/v1%2Fresponses", char},
		"a query":                  {"GET", "/v1/models?a", "any_query"},
		"a fragment":               {"GET", "/v1/models#a", char},
		"a backslash":              {"GET", `/v1\models`, char},
		"a space":                  {"GET", "/v1/ models", char},
		"a letter beyond ASCII":    {"GET", "/v1/m\u00f6dels", char},
		"a trailing slash":         {"GET", "/v1/models/", segment},
		"two slashes":              {"GET", "/v1//models", segment},
		"two slashes in front":     {"GET", "//v1/models", segment},
		"a dot segment":            {"GET", "/v1/./models", segment},
		"a dot segment that leads": {"GET", "/../models", segment},
		"a dot segment at the end": {"GET", "/v1/..", segment},
		"three dots":               {"GET", "/v1/...", ""},
	} {
		t.Run(name, func(t *testing.T) {
			err := validateRoutes([]Route{{Method: c.method, Path: c.path}}, "")
			refusedWith(t, err, c.says)
			if err != nil && !strings.Contains(err.Error(), "allow_route "+c.method+" "+c.path) {
				t.Errorf("the error does not say which route: %v", err)
			}
		})
	}
}

func TestRoutesDoNotContradictEachOther(t *testing.T) {
	post := Route{Method: "POST", Path: "/v1/responses"}
	for name, c := range map[string]struct {
		routes   []Route
		shutdown string
		says     string
	}{
		"two methods of one path":              {[]Route{post, {Method: "GET", Path: post.Path}}, "", ""},
		"one method of two paths":              {[]Route{post, {Method: "POST", Path: "/v1/x"}}, "/shutdown", ""},
		"the same twice":                       {[]Route{post, post}, "", "named twice"},
		"the same with and without any_query":  {[]Route{post, {Method: "POST", Path: post.Path, AnyQuery: true}}, "", "named twice"},
		"the shutdown endpoint":                {[]Route{post}, post.Path, "give that another path"},
		"a shutdown endpoint of two spellings": {[]Route{post}, "/shut//down", "shutdown_endpoint /shut//down: "},
		"a relative shutdown endpoint":         {[]Route{post}, "shutdown", "begins with /"},
		"a shutdown endpoint at the root":      {[]Route{post}, "/", ""},
	} {
		t.Run(name, func(t *testing.T) { refusedWith(t, validateRoutes(c.routes, c.shutdown), c.says) })
	}
}

func TestAKeyTravelsInAHeaderThatArrives(t *testing.T) {
	for _, name := range []string{"Authorization", "authorization", "api-key", "X-Api-Key", "X-Goog-Api-Key", "Cookie"} {
		refusedWith(t, validateUpstreamHeader(name), "")
	}
	for _, name := range []string{
		"Connection", "content-length", "Content-Type", "HOST", "Transfer-Encoding", "te", "Trailer", "Upgrade", "Expect", "Keep-Alive",
		"Proxy-Authorization", "Proxy-Authenticate", "Proxy-Connection", "Sec-WebSocket-Protocol", "Accept-Encoding", "Content-Encoding",
	} {
		refusedWith(t, validateUpstreamHeader(name), "cannot carry a key; use Authorization")
	}
	for _, name := range []string{"", "api key", "api-key:", "api\nkey", "\u00e4pi-key", "(key)"} {
		refusedWith(t, validateUpstreamHeader(name), "not a header name")
	}
}

func TestAGatesNameStandsAnywhereAsItIs(t *testing.T) {
	for _, name := range []string{"default", "A.b_c-9", "0", strings.Repeat("n", 64)} {
		if !adminapi.IsName(name) {
			t.Errorf("%q is refused", name)
		}
	}
	for _, name := range []string{"", "a b", "a/b", "a\n", "a\"b", "{env.NAME}", "\u00e4", "a:b", strings.Repeat("n", 65)} {
		if adminapi.IsName(name) {
			t.Errorf("%q is accepted", name)
		}
	}
}

func TestAPathMayHavePlaceholders(t *testing.T) {
	t.Setenv("GATE_TEST_DIR", "/run/gate")
	t.Setenv("GATE_TEST_EMPTY", "")
	for path, want := range map[string]string{
		"/run/key": "/run/key", "{env.GATE_TEST_DIR}/key": "/run/gate/key", "": "", "{env.GATE_TEST_EMPTY}": "", "{env.GATE_TEST_NOT_SET}/key": "",
		"{unknown}/key": "",
	} {
		got, err := resolvePath("server_info", path)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s becomes %q, %v", path, got, err)
		}
		if err != nil && !strings.HasPrefix(err.Error(), "server_info: ") {
			t.Errorf("the error does not name the option: %v", err)
		}
	}
}

func TestAnAllowedHeaderIsOneThatChooses(t *testing.T) {
	const which = "the headers that can be named are Openai-Organization, Openai-Project, Chatgpt-Account-Id"
	for name, c := range map[string]struct {
		headers []string
		says    string
	}{
		"none":                         {nil, ""},
		"both":                         {[]string{"OpenAI-Organization", "OpenAI-Project"}, ""},
		"any case":                     {[]string{"openai-project", "CHATGPT-ACCOUNT-ID"}, ""},
		"one twice":                    {[]string{"OpenAI-Project", "openai-project"}, "named twice"},
		"an underscore":                {[]string{"OpenAI_Project"}, which},
		"a credential":                 {[]string{"Cookie"}, which},
		"the gate's token":             {[]string{"X-Proxy-Token"}, which},
		"one that goes upstream":       {[]string{"OpenAI-Beta"}, which},
		"a wildcard":                   {[]string{"OpenAI-*"}, which},
		"nothing":                      {[]string{""}, which},
		"a key, which it does not say": {[]string{testKey}, which},
	} {
		t.Run(name, func(t *testing.T) {
			err := validateHeaders(c.headers)
			refusedWith(t, err, c.says)
			if err != nil && leaks(err.Error()) {
				t.Errorf("the error gives the key away: %v", err)
			}
		})
	}
}
