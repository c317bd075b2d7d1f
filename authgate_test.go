package responsesproxygate

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

const testToken = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG"

// testPolicy is the policy of a gate with defaults and one fixed token.
func testPolicy() *policy {
	return &policy{
		routes: []Route{{Method: http.MethodPost, Path: "/v1/responses"}},
		tokens: tokensOf("default", testToken),

		unixIsReal: true,
	}
}

// goodRequest is a request that a gate with defaults lets pass.
func goodRequest() *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/v1/responses", strings.NewReader("{}"))
	r.Host = "127.0.0.1:18080"
	r.Header = http.Header{
		"Content-Type":  {"application/json"},
		"Authorization": {"Bearer " + testToken},
	}
	return r
}

// codeOf is the code of a refusal, or "passes".
func codeOf(refused *refusal) string {
	if refused == nil {
		return "passes"
	}
	return refused.Code
}

// check puts a request through both halves of the gate, as ServeHTTP does.
func check(p *policy, r *http.Request) *refusal {
	if refused := p.checkBrowser(r); refused != nil {
		return refused
	}
	_, _, refused := p.checkCaller(r)
	return refused
}

func TestAWebPageCannotSpendTheKeyThroughABrowser(t *testing.T) {
	const app = "https://app.example"
	for name, c := range map[string]struct {
		origin, site []string // nil: the header is absent
		want         string
	}{
		"no browser header at all":                                {nil, nil, "passes"},
		"a page's origin":                                         {[]string{"https://attacker.example"}, nil, "origin_not_allowed"},
		"an empty origin":                                         {[]string{""}, nil, "origin_not_allowed"},
		"an Origin header without a value":                        {[]string{}, nil, "origin_not_allowed"},
		"the origin null of a sandboxed frame":                    {[]string{"null"}, nil, "origin_not_allowed"},
		"the allowed origin":                                      {[]string{app}, nil, "passes"},
		"the allowed origin twice":                                {[]string{app, app}, nil, "origin_not_allowed"},
		"the allowed origin before a foreign one":                 {[]string{app, "https://attacker.example"}, nil, "origin_not_allowed"},
		"the allowed origin after a foreign one":                  {[]string{"https://attacker.example", app}, nil, "origin_not_allowed"},
		"the allowed origin in one value with another":            {[]string{app + ", https://attacker.example"}, nil, "origin_not_allowed"},
		"the allowed origin and another after a space":            {[]string{app + " https://attacker.example"}, nil, "origin_not_allowed"},
		"the allowed origin in another case":                      {[]string{"https://APP.example"}, nil, "origin_not_allowed"},
		"the allowed origin with its scheme in capitals":          {[]string{"HTTPS://app.example"}, nil, "origin_not_allowed"},
		"the allowed origin with a trailing slash":                {[]string{app + "/"}, nil, "origin_not_allowed"},
		"the allowed origin with a trailing dot":                  {[]string{app + "."}, nil, "origin_not_allowed"},
		"the allowed origin with its default port":                {[]string{app + ":443"}, nil, "origin_not_allowed"},
		"the allowed origin with another port":                    {[]string{app + ":8443"}, nil, "origin_not_allowed"},
		"the allowed origin over plain http":                      {[]string{"http://app.example"}, nil, "origin_not_allowed"},
		"a prefix of the allowed origin":                          {[]string{"https://app.exampl"}, nil, "origin_not_allowed"},
		"an origin that begins with the allowed one":              {[]string{app + ".attacker.example"}, nil, "origin_not_allowed"},
		"a subdomain of the allowed origin":                       {[]string{"https://evil.app.example"}, nil, "origin_not_allowed"},
		"the gate's own origin":                                   {[]string{"http://127.0.0.1:18080"}, nil, "origin_not_allowed"},
		"a wildcard":                                              {[]string{"*"}, nil, "origin_not_allowed"},
		"a program with a browser's network stack":                {nil, []string{"none"}, "passes"},
		"another site's page without Origin":                      {nil, []string{"cross-site"}, "cross_site_request"},
		"a sibling site's page without Origin":                    {nil, []string{"same-site"}, "cross_site_request"},
		"a page the gate itself seems to serve":                   {nil, []string{"same-origin"}, "cross_site_request"},
		"an empty Sec-Fetch-Site":                                 {nil, []string{""}, "cross_site_request"},
		"a Sec-Fetch-Site without a value":                        {nil, []string{}, "cross_site_request"},
		"a Sec-Fetch-Site nobody knows":                           {nil, []string{"unheard-of"}, "cross_site_request"},
		"none in capitals":                                        {nil, []string{"NONE"}, "cross_site_request"},
		"none in odd case":                                        {nil, []string{"None"}, "cross_site_request"},
		"none twice":                                              {nil, []string{"none", "none"}, "cross_site_request"},
		"none before cross-site":                                  {nil, []string{"none", "cross-site"}, "cross_site_request"},
		"none and cross-site in one value":                        {nil, []string{"none, cross-site"}, "cross_site_request"},
		"a structured parameter after none":                       {nil, []string{"none;a=b"}, "cross_site_request"},
		"the allowed origin from another site":                    {[]string{app}, []string{"cross-site"}, "passes"},
		"the allowed origin from a sibling site":                  {[]string{app}, []string{"same-site"}, "passes"},
		"the allowed origin and several Sec-Fetch-Site":           {[]string{app}, []string{"none", "cross-site"}, "passes"},
		"a foreign origin that says it comes from no site":        {[]string{"https://attacker.example"}, []string{"none"}, "origin_not_allowed"},
		"a foreign origin is named before its Sec-Fetch-Site is":  {[]string{"https://attacker.example"}, []string{"cross-site"}, "origin_not_allowed"},
		"an allowed origin twice does not excuse Sec-Fetch-Site":  {[]string{app, app}, []string{"cross-site"}, "origin_not_allowed"},
		"the second allowed origin":                               {[]string{"http://localhost:3000"}, []string{"same-site"}, "passes"},
		"the second allowed origin with the port of no allowance": {[]string{"http://localhost:3001"}, nil, "origin_not_allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPolicy()
			p.origins = []string{app, "http://localhost:3000"}
			r := goodRequest()
			if c.origin != nil {
				r.Header["Origin"] = c.origin
			}
			if c.site != nil {
				r.Header["Sec-Fetch-Site"] = c.site
			}
			if got := codeOf(check(p, r)); got != c.want {
				t.Errorf("Origin %q, Sec-Fetch-Site %q: got %s, want %s", c.origin, c.site, got, c.want)
			}
		})
	}
}

// Neither a redirect from an address that a person opened nor a prefetch by
// speculation rules has an Origin, and Chromium calls the site of both "none".
func TestAPageCannotPassForAPersonAtTheAddressBar(t *testing.T) {
	for mode, want := range map[string]string{
		"navigate": "cross_site_request", "cors": "passes", "no-cors": "passes",
	} {
		r := goodRequest()
		r.Header["Sec-Fetch-Site"], r.Header["Sec-Fetch-Mode"] = []string{"none"}, []string{mode}
		if got := codeOf(check(testPolicy(), r)); got != want {
			t.Errorf("Sec-Fetch-Site none, Sec-Fetch-Mode %s: got %s, want %s", mode, got, want)
		}
	}
}

func TestNodesFetchIsNoBrowser(t *testing.T) {
	r := goodRequest()
	r.Header["Sec-Fetch-Mode"] = []string{"cors"}
	if refused := check(testPolicy(), r); refused != nil {
		t.Errorf("Sec-Fetch-Mode alone: got %s", refused.Code)
	}
}

func TestNoOriginIsAllowedByDefault(t *testing.T) {
	for _, origin := range []string{"", "null", "*", "http://localhost", "http://127.0.0.1:18080"} {
		r := goodRequest()
		r.Header["Origin"] = []string{origin}
		if got := codeOf(check(testPolicy(), r)); got != "origin_not_allowed" {
			t.Errorf("Origin %q: got %s", origin, got)
		}
	}
}

func TestAReboundDNSNameIsRefused(t *testing.T) {
	const no, yes = "host_not_allowed", "passes"
	for name, c := range map[string]struct {
		host  string
		names []string
		want  string
	}{
		"localhost":                                  {"localhost", nil, yes},
		"localhost in capitals":                      {"LOCALHOST", nil, yes},
		"localhost with a port":                      {"localhost:18080", nil, yes},
		"localhost with another port":                {"LocalHost:1", nil, yes},
		"localhost with a trailing dot":              {"localhost.", nil, no},
		"localhost with a long s":                    {"localho\u017ft", nil, no},
		"the usual loopback address":                 {"127.0.0.1", nil, yes},
		"the usual loopback address with a port":     {"127.0.0.1:65535", nil, yes},
		"the last loopback address":                  {"127.255.255.254", nil, yes},
		"an address before the loopback net":         {"126.255.255.255", nil, no},
		"an address after the loopback net":          {"128.0.0.1", nil, no},
		"a short loopback address":                   {"127.1", nil, no},
		"an octal-looking loopback address":          {"0127.0.0.1", nil, no},
		"a hexadecimal loopback address":             {"0x7f.0.0.1", nil, no},
		"a decimal loopback address":                 {"2130706433", nil, no},
		"a loopback address with a trailing dot":     {"127.0.0.1.", nil, no},
		"IPv6 loopback":                              {"[::1]", nil, yes},
		"IPv6 loopback with a port":                  {"[::1]:80", nil, yes},
		"IPv6 loopback in its long form":             {"[0:0:0:0:0:0:0:1]:80", nil, yes},
		"IPv6 loopback without brackets":             {"::1", nil, no},
		"IPv6 loopback without brackets, with port":  {"::1:80", nil, no},
		"IPv6 loopback with an unclosed bracket":     {"[::1", nil, no},
		"IPv6 loopback with a bracket too many":      {"[::1]]", nil, no},
		"IPv6 loopback with a zone":                  {"[::1%25lo]", nil, no},
		"IPv6 loopback before garbage":               {"[::1]x", nil, no},
		"a mapped IPv4 loopback address":             {"[::ffff:127.0.0.1]", nil, no},
		"an IPv4 address in brackets":                {"[127.0.0.1]", nil, no},
		"a name in brackets":                         {"[localhost]", nil, no},
		"empty brackets":                             {"[]", nil, no},
		"the unspecified address":                    {"0.0.0.0", nil, no},
		"the unspecified address with a port":        {"0.0.0.0:18080", nil, no},
		"the unspecified IPv6 address":               {"[::]", nil, no},
		"zero":                                       {"0", nil, no},
		"no Host":                                    {"", nil, no},
		"only a port":                                {":80", nil, no},
		"only a colon":                               {":", nil, no},
		"a port that is a word":                      {"localhost:http", nil, no},
		"a negative port":                            {"localhost:-1", nil, no},
		"a port with a sign":                         {"localhost:+80", nil, no},
		"a port of six digits":                       {"localhost:018080", nil, no},
		"two ports":                                  {"localhost:80:80", nil, no},
		"a name in the port's place":                 {"localhost:80@attacker.example", nil, no},
		"userinfo before an attacker's name":         {"localhost@attacker.example", nil, no},
		"userinfo before localhost":                  {"attacker@localhost", nil, no},
		"a path after localhost":                     {"localhost/", nil, no},
		"a space before localhost":                   {" localhost", nil, no},
		"a space after localhost":                    {"localhost ", nil, no},
		"two hosts":                                  {"localhost,attacker.example", nil, no},
		"a NUL after localhost":                      {"localhost\x00.attacker.example", nil, no},
		"the attacker's name":                        {"attacker.example", nil, no},
		"the attacker's name with the gate's port":   {"attacker.example:18080", nil, no},
		"a name below localhost":                     {"attacker.localhost", nil, no},
		"a name that begins with localhost":          {"localhost.attacker.example", nil, no},
		"a name that begins with a loopback address": {"127.0.0.1.nip.io", nil, no},
		"an allowed name":                            {"gate.internal", []string{"gate.internal"}, yes},
		"an allowed name with a port":                {"gate.internal:8443", []string{"gate.internal"}, yes},
		"an allowed name in another case":            {"GATE.Internal", []string{"gate.internal"}, yes},
		"a name that is allowed in another case":     {"gate.internal", []string{"Gate.INTERNAL"}, yes},
		"an allowed name with a trailing dot":        {"gate.internal.", []string{"gate.internal"}, no},
		"an allowed name with a Kelvin sign":         {"\u212aey.internal", []string{"key.internal"}, no},
		"a subdomain of an allowed name":             {"x.gate.internal", []string{"gate.internal"}, no},
		"a name that begins with an allowed one":     {"gate.internal.attacker.example", []string{"gate.internal"}, no},
		"an allowed IPv6 address":                    {"[fd00::1]:80", []string{"[fd00::1]"}, yes},
		"an IPv6 address allowed without brackets":   {"[FD00::1]", []string{"fd00::1"}, yes},
		"an allowed IPv6 address without brackets":   {"fd00::1", []string{"fd00::1"}, no},
		"an allowed IPv4 address":                    {"192.0.2.7:80", []string{"192.0.2.7"}, yes},
		"localhost beside an allowed name":           {"localhost", []string{"gate.internal"}, yes},
		"the attacker's name beside an allowed one":  {"attacker.example", []string{"gate.internal"}, no},
	} {
		t.Run(name, func(t *testing.T) {
			p := testPolicy()
			p.hosts = bareHosts(c.names)
			r := goodRequest()
			r.Host = c.host
			if got := codeOf(check(p, r)); got != c.want {
				t.Errorf("Host %q, allow_host %q: got %s, want %s", c.host, c.names, got, c.want)
			}
		})
	}
}

func TestAUnixSocketHasNoHostToCheck(t *testing.T) {
	over := func(addr net.Addr, host string) string {
		r := goodRequest()
		r.Host = host
		return codeOf(check(testPolicy(), r.WithContext(context.WithValue(t.Context(), http.LocalAddrContextKey, addr))))
	}
	for _, host := range []string{"", "gate", "attacker.example", "[", "localhost:x"} {
		if got := over(&net.UnixAddr{Name: "/run/gate.sock", Net: "unix"}, host); got != "passes" {
			t.Errorf("over a unix socket, Host %q: got %s", host, got)
		}
		doubting := testPolicy()
		doubting.unixIsReal = false
		r := goodRequest()
		r.Host = host
		claimed := context.WithValue(t.Context(), http.LocalAddrContextKey, &net.UnixAddr{Name: "/run/gate.sock", Net: "unix"})
		if got := codeOf(check(doubting, r.WithContext(claimed))); got != "host_not_allowed" {
			t.Errorf("over what a PROXY header calls a unix socket, Host %q: got %s", host, got)
		}
		if got := over(&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80}, host); got != "host_not_allowed" {
			t.Errorf("over TCP, Host %q: got %s", host, got)
		}
	}
}

func TestARequestInEarlyDataIsRefused(t *testing.T) {
	for name, edit := range map[string]func(r *http.Request){
		"before the handshake is complete":            func(r *http.Request) { r.TLS = new(tls.ConnectionState) },
		"of a server in front":                        func(r *http.Request) { r.Header.Set("Early-Data", "1") },
		"of one in front that says it in other words": func(r *http.Request) { r.Header["Early-Data"] = []string{"", "0"} }, // RFC 8470 §5.1
	} {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			edit(r)
			if got := codeOf(check(testPolicy(), r)); got != "too_early" {
				t.Error(got)
			}
		})
	}
	r := goodRequest()
	r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	if got := codeOf(check(testPolicy(), r)); got != "passes" {
		t.Errorf("behind a whole handshake: %s", got)
	}
}

// TestTheChecksHaveOneOrder begins with a request that is wrong in every way
// and mends one thing after another.
func TestTheChecksHaveOneOrder(t *testing.T) {
	p := testPolicy()
	r := httptest.NewRequest(http.MethodPut, "/v1/files", strings.NewReader("x"))
	r.Host, r.TLS = "attacker.example", new(tls.ConnectionState)
	r.Header = http.Header{
		"Origin": {"https://attacker.example"}, "Sec-Fetch-Site": {"cross-site"}, "Content-Type": {"text/plain"},
	}
	for _, step := range []struct {
		want string
		mend func()
	}{
		{"origin_not_allowed", func() { r.Header.Del("Origin") }},
		{"cross_site_request", func() { r.Header.Del("Sec-Fetch-Site") }},
		{"host_not_allowed", func() { r.Host = "localhost" }},
		{"too_early", func() { r.TLS.HandshakeComplete = true }},
		{"content_type_not_json", func() { r.Header.Set("Content-Type", "application/json") }},
		{"missing_token", func() { r.Header.Set("Authorization", "Bearer guess") }},
		{"invalid_token", func() { r.Header.Set("Authorization", "Bearer "+testToken) }},
		{"route_not_allowed", func() { p.routes = []Route{{Method: http.MethodPut, Path: "/v1/files"}} }},
		{"passes", func() {}},
	} {
		if got := codeOf(check(p, r)); got != step.want {
			t.Fatalf("got %s, want %s", got, step.want)
		}
		step.mend()
	}
}

func TestAPassingCheckNamesTheCaller(t *testing.T) {
	caller, _, refused := testPolicy().checkCaller(goodRequest())
	if caller == nil || caller.name != "default" || refused != nil {
		t.Errorf("got %v, %v", caller, refused)
	}
	r := goodRequest()
	r.RequestURI = "/"
	if caller, _, refused := testPolicy().checkCaller(r); caller == nil || caller.name != "default" || refused != errRouteNotAllowed {
		t.Errorf("a request that is refused for its route has the caller %v, %v", caller, refused)
	}
	r.Header["Authorization"] = []string{"Bearer guess"}
	if caller, _, refused := testPolicy().checkCaller(r); caller != nil || refused != errInvalidToken {
		t.Errorf("a request that is refused for its token has the caller %v, %v", caller, refused)
	}
}
