package responsesproxygate

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
)

// routed is a request as net/http makes it of a request line.
func routed(t *testing.T, method, target string) *http.Request {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	r.Method, r.RequestURI, r.URL = method, target, u
	return r
}

func TestACallerCannotLeaveItsRoutes(t *testing.T) {
	const no, yes = "route_not_allowed", "passes"
	routes := []Route{
		{Method: "POST", Path: "/v1/responses"},
		{Method: "GET", Path: "/v1/models", AnyQuery: true},
		{Method: "GET", Path: "/"},
	}
	for name, c := range map[string]struct{ method, target, want string }{
		"the route itself":                            {"POST", "/v1/responses", yes},
		"the root, if it is a route":                  {"GET", "/", yes},
		"a method of another route":                   {"GET", "/v1/responses", no},
		"a HEAD for a GET route":                      {"HEAD", "/", no},
		"the method in lower case":                    {"post", "/v1/responses", no},
		"the method in odd case":                      {"Post", "/v1/responses", no},
		"a method nobody knows":                       {"BREW", "/v1/responses", no},
		"an OPTIONS that is no preflight":             {"OPTIONS", "/v1/responses", no},
		"a method of no route":                        {"PUT", "/v1/responses", no},
		"another path":                                {"POST", "/v1/files", no},
		"a path below":                                {"POST", "/v1/responses/compact", no},
		"a path above":                                {"POST", "/v1", no},
		"a path that begins with the route's":         {"POST", "/v1/responses2", no},
		"the path in another case":                    {"POST", "/V1/responses", no},
		"a trailing slash":                            {"POST", "/v1/responses/", no},
		"a trailing dot":                              {"POST", "/v1/responses.", no},
		"a trailing space":                            {"POST", "/v1/responses%20", no},
		"a trailing NUL":                              {"POST", "/v1/responses%00", no},
		"two slashes in front":                        {"POST", "//v1/responses", no},
		"two slashes in the middle":                   {"POST", "/v1//responses", no},
		"an encoded slash":                            {"POST", "/v1%2Fresponses", no},
		"an encoded slash in lower case":              {"POST", "/v1%2fresponses", no},
		"an encoded letter":                           {"POST", "/v1/%72esponses", no},
		"a letter encoded twice":                      {"POST", "/v1/%2572esponses", no},
		"a backslash":                                 {"POST", "/v1\\responses", no},
		"a dot segment":                               {"POST", "/v1/./responses", no},
		"a dot segment that climbs":                   {"POST", "/v1/x/../responses", no},
		"a dot segment at the end":                    {"POST", "/v1/responses/.", no},
		"a dot segment that leaves the route":         {"POST", "/v1/responses/../files", no},
		"an encoded dot segment":                      {"POST", "/v1/%2e%2e/v1/responses", no},
		"a path parameter":                            {"POST", "/v1/responses;a=b", no},
		"a fragment":                                  {"POST", "/v1/responses#a", no},
		"an absolute URI":                             {"POST", "http://127.0.0.1/v1/responses", no},
		"an absolute URI of another host":             {"POST", "http://attacker.example/v1/responses", no},
		"an asterisk":                                 {"OPTIONS", "*", no},
		"a query":                                     {"POST", "/v1/responses?a=b", no},
		"an empty query":                              {"POST", "/v1/responses?", no},
		"a query of a question mark":                  {"POST", "/v1/responses??", no},
		"an encoded question mark":                    {"POST", "/v1/responses%3Fa=b", no},
		"a route with queries, without one":           {"GET", "/v1/models", yes},
		"a route with queries, with one":              {"GET", "/v1/models?client_version=1", yes},
		"a route with queries, with an empty one":     {"GET", "/v1/models?", yes},
		"a route with queries, with an odd one":       {"GET", "/v1/models?a=%2F..%2F&a=;?", yes},
		"a route with queries, with a second line":    {"GET", "/v1/models?a HTTP/1.1 x", no},
		"a route with queries, with bytes":            {"GET", "/v1/models?a=\xff", no},
		"a route with queries, with half an escape":   {"GET", "/v1/models?a=%4", no},
		"a route with queries, with a trailing slash": {"GET", "/v1/models/?a=b", no},
		"a route with queries, with another method":   {"POST", "/v1/models?a=b", no},
		"an empty query at the root":                  {"GET", "/?", no},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPolicy()
			p.routes = routes
			if got := codeOf(p.checkRoute(routed(t, c.method, c.target))); got != c.want {
				t.Errorf("%s %s: got %s, want %s", c.method, c.target, got, c.want)
			}
		})
	}
}

// A handler before the gate may rewrite the URL: reverse_proxy sends that on,
// so it has to be on the route as well.
func TestARewriteBeforeTheGateCannotSneakPastTheRoutes(t *testing.T) {
	for name, rewrite := range map[string]func(*url.URL){
		"to another path":             func(u *url.URL) { u.Path = "/v1/files" },
		"to an encoded path":          func(u *url.URL) { u.RawPath = "/v1%2Fmodels" },
		"to a query":                  func(u *url.URL) { u.RawQuery = "a=b" },
		"to a lone question mark":     func(u *url.URL) { u.ForceQuery = true },
		"to the same path, untouched": nil,
	} {
		for _, anyQuery := range []bool{false, true} {
			p := testPolicy()
			p.routes = []Route{{Method: "GET", Path: "/v1/models", AnyQuery: anyQuery}}
			r := routed(t, "GET", "/v1/models")
			want := "passes"
			if rewrite != nil {
				rewrite(r.URL)
				want = "route_not_allowed"
			}
			if anyQuery && r.URL.ForceQuery {
				want = "passes" // no query either way
			}
			if got := codeOf(p.checkRoute(r)); got != want {
				t.Errorf("%s, any_query %t: got %s, want %s", name, anyQuery, got, want)
			}
		}
	}
	t.Run("from a forbidden path to an allowed one", func(t *testing.T) {
		r := routed(t, "POST", "/v1/files")
		r.URL.Path = "/v1/responses"
		if testPolicy().checkRoute(r) == nil {
			t.Error("passes")
		}
	})
	t.Run("from one query to another", func(t *testing.T) {
		p := testPolicy()
		p.routes[0].AnyQuery = true
		r := routed(t, "POST", "/v1/responses?a=b")
		r.URL.RawQuery = "a=c"
		if p.checkRoute(r) == nil {
			t.Error("passes")
		}
	})
}

// Every path that allow_route accepts has to be one that a request can match.
func TestEveryPathThatMayBeARouteCanBeReached(t *testing.T) {
	for c := range 128 {
		path := fmt.Sprintf("/a%cb", c)
		if validatePath(path) != nil {
			continue
		}
		p := testPolicy()
		p.routes = []Route{{Method: "GET", Path: path}}
		if refused := p.checkRoute(routed(t, "GET", path)); refused != nil {
			t.Errorf("allow_route GET %s is accepted, but a request for it gets %s", path, refused.Code)
		}
	}
}

func TestAWebSocketIsRefusedWith426OnlyWhereHTTPIsAllowed(t *testing.T) {
	upgrade := http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}}
	extended := http.Header{":protocol": {"websocket"}}
	for name, c := range map[string]struct {
		proto  int
		method string
		target string
		header http.Header
		routes []Route
		want   string
	}{
		"on a path for POST":                       {1, "GET", "/v1/responses", upgrade, nil, "websocket_not_enabled"},
		"over HTTP/2 on a path for POST":           {2, "CONNECT", "/v1/responses", extended, nil, "websocket_not_enabled"},
		"over HTTP/3 on a path for POST":           {3, "CONNECT", "/v1/responses", nil, nil, "websocket_not_enabled"},
		"on another path":                          {1, "GET", "/v1/realtime", upgrade, nil, "route_not_allowed"},
		"over HTTP/2 on another path":              {2, "CONNECT", "/v1/realtime", extended, nil, "route_not_allowed"},
		"with a query on a path without":           {1, "GET", "/v1/responses?a=b", upgrade, nil, "route_not_allowed"},
		"on a path for GET":                        {1, "GET", "/v1/responses", upgrade, []Route{{Method: "GET", Path: "/v1/responses"}}, "passes"},
		"over HTTP/2 on a path for GET":            {2, "CONNECT", "/v1/responses", extended, []Route{{Method: "GET", Path: "/v1/responses"}}, "passes"},
		"over HTTP/3 on a path for GET":            {3, "CONNECT", "/v1/responses", nil, []Route{{Method: "GET", Path: "/v1/responses"}}, "passes"},
		"a GET that is none on a path for POST":    {1, "GET", "/v1/responses", nil, nil, "route_not_allowed"},
		"a POST that says it is one":               {1, "POST", "/v1/responses", upgrade, nil, "passes"},
		"without Connection":                       {1, "GET", "/v1/responses", http.Header{"Upgrade": {"websocket"}}, nil, "route_not_allowed"},
		"with Connection for another header":       {1, "GET", "/v1/responses", http.Header{"Upgrade": {"websocket"}, "Connection": {"keep-alive"}}, nil, "route_not_allowed"},
		"without Upgrade":                          {1, "GET", "/v1/responses", http.Header{"Connection": {"Upgrade"}}, nil, "route_not_allowed"},
		"to another protocol":                      {1, "GET", "/v1/responses", http.Header{"Upgrade": {"h2c"}, "Connection": {"Upgrade"}}, nil, "route_not_allowed"},
		"to a protocol that begins so":             {1, "GET", "/v1/responses", http.Header{"Upgrade": {"websocket2"}, "Connection": {"Upgrade"}}, nil, "route_not_allowed"},
		"in odd case":                              {1, "GET", "/v1/responses", http.Header{"Upgrade": {"WebSocket"}, "Connection": {"UPGRADE"}}, nil, "websocket_not_enabled"},
		"with Connection as Firefox sends it":      {1, "GET", "/v1/responses", http.Header{"Upgrade": {"websocket"}, "Connection": {"keep-alive, Upgrade"}}, nil, "websocket_not_enabled"},
		"with two Connection headers":              {1, "GET", "/v1/responses", http.Header{"Upgrade": {"websocket"}, "Connection": {"keep-alive", "Upgrade"}}, nil, "websocket_not_enabled"},
		"with the h1 headers over HTTP/2":          {2, "GET", "/v1/responses", upgrade, nil, "route_not_allowed"},
		"with the h2 header over HTTP/1":           {1, "CONNECT", "/v1/responses", extended, nil, "route_not_allowed"},
		"with another :protocol":                   {2, "CONNECT", "/v1/responses", http.Header{":protocol": {"connect-udp"}}, nil, "route_not_allowed"},
		"with :protocol in odd case":               {2, "CONNECT", "/v1/responses", http.Header{":protocol": {"WebSocket"}}, nil, "route_not_allowed"},
		"a tunnel over HTTP/2":                     {2, "CONNECT", "/v1/responses", nil, nil, "route_not_allowed"},
		"a tunnel is not a CONNECT route's either": {2, "CONNECT", "/v1/responses", nil, []Route{{Method: "GET", Path: "/v1/responses"}}, "route_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPolicy()
			if c.routes != nil {
				p.routes = c.routes
			}
			r := routed(t, c.method, c.target)
			r.ProtoMajor, r.Header = c.proto, c.header
			if c.proto == 3 {
				r.Proto = "websocket" // as quic-go writes the :protocol
			}
			if got := codeOf(p.checkRoute(r)); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestOnlyTheNamedPathShutsDown(t *testing.T) {
	for name, c := range map[string]struct {
		path, method, target string
		want                 bool
	}{
		"GET":                       {"/shutdown", "GET", "/shutdown", true},
		"POST":                      {"/shutdown", "POST", "/shutdown", true},
		"HEAD":                      {"/shutdown", "HEAD", "/shutdown", false},
		"PUT":                       {"/shutdown", "PUT", "/shutdown", false},
		"DELETE":                    {"/shutdown", "DELETE", "/shutdown", false},
		"OPTIONS":                   {"/shutdown", "OPTIONS", "/shutdown", false},
		"a query":                   {"/shutdown", "POST", "/shutdown?now", false},
		"a trailing slash":          {"/shutdown", "POST", "/shutdown/", false},
		"an encoded letter":         {"/shutdown", "POST", "/%73hutdown", false},
		"another name":              {"/halt", "POST", "/shutdown", false},
		"its own name":              {"/halt", "POST", "/halt", true},
		"off":                       {"", "POST", "/shutdown", false},
		"off, and a path of no use": {"", "GET", "/", false},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPolicy()
			p.shutdownPath = c.path
			r := routed(t, c.method, c.target)
			if got := p.isShutdown(r); got != c.want {
				t.Errorf("isShutdown is %t", got)
			}
			r.Host = "localhost"
			r.Header.Set("X-Proxy-Token", testToken)
			if got := codeOf(check(p, r)) == "passes"; got != c.want {
				t.Errorf("it passes: %t", got)
			}
		})
	}
}

func TestShuttingDownNeedsTheToken(t *testing.T) {
	p := testPolicy()
	p.shutdownPath = "/shutdown"
	r := routed(t, "GET", "/shutdown")
	r.Host = "localhost"
	if got := codeOf(check(p, r)); got != "missing_token" {
		t.Errorf("without a token: %s", got)
	}
	r.Header.Set("X-Proxy-Token", testToken)
	if got := codeOf(check(p, r)); got != "passes" {
		t.Errorf("with the token: %s", got)
	}
	r.Header.Set("Origin", "https://attacker.example")
	if got := codeOf(check(p, r)); got != "origin_not_allowed" {
		t.Errorf("with the token from a web page: %s", got)
	}
}

func TestAClientCannotShutTheOthersGateDown(t *testing.T) {
	p := testPolicy()
	p.shutdownPath = "/shutdown"
	p.tokens.callers[0].id.client = "colleague"
	r := routed(t, "POST", "/shutdown")
	r.Host = "localhost"
	r.Header.Set("X-Proxy-Token", testToken)
	if got := codeOf(check(p, r)); got != "route_not_allowed" {
		t.Errorf("with a client's token: %s", got)
	}
}
