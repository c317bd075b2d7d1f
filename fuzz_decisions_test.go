package responsesproxygate

import (
	"bufio"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// Each decision of the gate is fuzzed against a specification of the same
// decision: written in another style, slow, and with nothing in common.

// readRequest reads a message as net/http's server does, or returns nil.
func readRequest(message string) *http.Request {
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(message)))
	if err != nil {
		return nil
	}
	return r
}

// chosen is the values whose bit in mask is set, and whether the header is
// there at all, by the bit after the last one's.
func chosen(mask uint8, values ...string) (header []string, present bool) {
	header = []string{}
	for i, value := range values {
		if mask>>i&1 == 1 {
			header = append(header, value)
		}
	}
	return header, len(header) > 0 || mask>>len(values)&1 == 1
}

var bearerScheme = regexp.MustCompile(`(?s)^[Bb][Ee][Aa][Rr][Ee][Rr] +([^ ].*)$`)

// specifiedToken says which token these headers present, or the code of the refusal.
func specifiedToken(header http.Header) (token, code string) {
	deciding, isProxyToken := header["X-Proxy-Token"]
	if !isProxyToken {
		deciding = header["Authorization"]
	}
	switch {
	case len(deciding) > 1 || isProxyToken && len(deciding) == 0:
		return "", "invalid_token"
	case isProxyToken && deciding[0] != "":
		return deciding[0], ""
	case !isProxyToken && len(deciding) == 1 && bearerScheme.MatchString(deciding[0]):
		return bearerScheme.FindStringSubmatch(deciding[0])[1], ""
	}
	return "", "missing_token"
}

func FuzzOnlyTheOneTokenIsTaken(f *testing.F) {
	f.Add(testToken, "guess", "Bearer "+testToken, "Basic eDp5", uint8(0b001_001))
	f.Fuzz(func(t *testing.T, proxy1, proxy2, authorization1, authorization2 string, mask uint8) {
		r := goodRequest()
		delete(r.Header, "Authorization")
		if values, present := chosen(mask, proxy1, proxy2); present {
			r.Header["X-Proxy-Token"] = values
		}
		if values, present := chosen(mask>>3, authorization1, authorization2); present {
			r.Header["Authorization"] = values
		}
		want, wantCode := specifiedToken(r.Header)
		got, refused := presentedToken(r.Header)
		if got != want || refused != nil && refused.Code != wantCode || refused == nil && wantCode != "" {
			t.Errorf("%q: token %q, %s; want %q, %s", r.Header, got, codeOf(refused), want, wantCode)
		}
		if wantCode == "" {
			if wantCode = "invalid_token"; want == testToken {
				wantCode = "passes"
			}
		}
		if got := codeOf(check(testPolicy(), r)); got != wantCode {
			t.Errorf("%q: %s, want %s", r.Header, got, wantCode)
		}
	})
}

var (
	hostForm   = regexp.MustCompile(`(?s)^(?:\[([^\]]*:[^\]]*)\]|([^:\[][^:]*))(?::[0-9]{1,5})?$`)
	loopbackV4 = regexp.MustCompile(`^127(\.(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])){3}$`)
)

// sixteenBytes is an IPv6 address in full, or nil: RFC 4291 §2.2, by hand.
func sixteenBytes(text string) []byte {
	if i := strings.LastIndexByte(text, ':'); strings.Contains(text[i+1:], ".") {
		quad := regexp.MustCompile(`^(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})\.(0|[1-9]\d{0,2})$`).FindStringSubmatch(text[i+1:])
		if quad == nil {
			return nil
		}
		var b [4]int
		for n := range b {
			if b[n], _ = strconv.Atoi(quad[n+1]); b[n] > 255 {
				return nil
			}
		}
		text = text[:i+1] + strconv.FormatInt(int64(b[0]<<8|b[1]), 16) + ":" + strconv.FormatInt(int64(b[2]<<8|b[3]), 16)
	}
	before, after, short := strings.Cut(text, "::")
	groups := func(side string) (words []string) {
		if side == "" {
			return nil
		}
		return strings.Split(side, ":")
	}
	left, right := groups(before), groups(after)
	missing := 8 - len(left) - len(right)
	if short && missing < 1 || !short && missing != 0 {
		return nil
	}
	all := slices.Concat(left, slices.Repeat([]string{"0"}, missing), right)
	var address []byte
	for _, group := range all {
		word, err := strconv.ParseUint(group, 16, 16)
		if err != nil || len(group) > 4 || strings.ContainsAny(group, "+_") {
			return nil
		}
		address = append(address, byte(word>>8), byte(word))
	}
	return address
}

// specifiedHost reports whether a Host header may pass a gate that allows one name.
func specifiedHost(host, allowed string) bool {
	form := hostForm.FindStringSubmatch(host)
	if form == nil {
		return false
	}
	if name := lowerASCII(form[2]); name != "" && (name == "localhost" || loopbackV4.MatchString(name)) {
		return true
	}
	if form[1] != "" && string(sixteenBytes(form[1])) == strings.Repeat("\x00", 15)+"\x01" {
		return true
	}
	allowed = strings.TrimSuffix(strings.TrimPrefix(allowed, "["), "]")
	return allowed != "" && lowerASCII(form[1]+form[2]) == lowerASCII(allowed)
}

func FuzzOnlyNamedHostsAreAnswered(f *testing.F) {
	f.Add("localhost:18080", "gate.internal")
	f.Fuzz(func(t *testing.T, host, allowed string) {
		p, r := testPolicy(), goodRequest()
		if validateHosts([]string{allowed}) == nil {
			p.hosts = bareHosts([]string{allowed})
		} else {
			allowed = ""
		}
		r.Host = host
		want := "host_not_allowed"
		if specifiedHost(host, allowed) {
			want = "passes"
		}
		if got := codeOf(check(p, r)); got != want {
			t.Errorf("Host %q beside allow_host %q: %s, want %s", host, allowed, got, want)
		}
	})
}

// serializedOrigin is what the HTML and URL standards make of a tuple origin:
// lower case, no path, no user, no default port.
var serializedOrigin = regexp.MustCompile(`^[a-z][a-z0-9+.-]*://([^A-Z/?#@:\[\]\\^|<>% *\x00-\x20\x7f-\x{10ffff}]+|\[[0-9a-f:]+\])(:(0|[1-9][0-9]*))?$`)

func FuzzOnlyNamedOriginsAreAnswered(f *testing.F) {
	f.Add("https://app.exa8]3mple", "https://attacker.example", "https://app.example", "cross-site", "none", uint8(0b000_001))
	f.Add("https://app.example", "https://attacker.example", "https://app.example", "cross-site", "none", uint8(0b000_001))
	f.Fuzz(func(t *testing.T, allowed, first, second, site1, site2 string, mask uint8) {
		p, r := testPolicy(), goodRequest()
		if validateOrigins([]string{allowed}) == nil {
			p.origins = []string{allowed}
			if !serializedOrigin.MatchString(allowed) || regexp.MustCompile(`^(https:.*:443|http:.*:80)$`).MatchString(allowed) {
				t.Errorf("allow_origin takes %q, which no browser sends", allowed)
			}
		}
		origins, hasOrigin := chosen(mask, first, second)
		if hasOrigin {
			r.Header["Origin"] = origins
		}
		sites, hasSite := chosen(mask>>3, site1, site2)
		if hasSite {
			r.Header["Sec-Fetch-Site"] = sites
		}
		isAllowed := slices.Equal(origins, p.origins) && hasOrigin && len(p.origins) == 1
		want := "passes"
		switch {
		case hasOrigin && !isAllowed:
			want = "origin_not_allowed"
		case !hasOrigin && hasSite && !slices.Equal(sites, []string{"none"}):
			want = "cross_site_request"
		}
		if got := codeOf(check(p, r)); got != want {
			t.Errorf("Origin %q, Sec-Fetch-Site %q beside allow_origin %q: %s, want %s", r.Header["Origin"], r.Header["Sec-Fetch-Site"], allowed, got, want)
		}
	})
}

// fuzzedRoutes are routes of every kind.
var fuzzedRoutes = []Route{
	{Method: "POST", Path: "/v1/responses"},
	{Method: "GET", Path: "/v1/models", AnyQuery: true},
	{Method: "GET", Path: "/v1/responses/ws"},
	{Method: "POST", Path: "/v1/images"},
}

// wholeQuery is visible ASCII whose escapes are whole.
var wholeQuery = regexp.MustCompile(`^([!-$&-~]|%[0-9A-Fa-f]{2})*$`)

// specifiedRoute says what becomes of a request line, by listing what is allowed.
func specifiedRoute(method, target string, upgrade, client bool) string {
	line := method + " " + target
	switch line {
	case "POST /v1/responses", "GET /v1/models", "GET /v1/responses/ws", "POST /v1/images":
		return "passes"
	case "GET /quit", "POST /quit":
		if !client {
			return "passes"
		}
	}
	if query, ok := strings.CutPrefix(line, "GET /v1/models?"); ok && wholeQuery.MatchString(query) {
		return "passes"
	}
	if upgrade && (line == "GET /v1/responses" || line == "GET /v1/images") {
		return "websocket_not_enabled"
	}
	return "route_not_allowed"
}

// FuzzOnlyTheExactRouteIsForwarded also lets a handler before the gate rewrite
// the parsed URL: what reverse_proxy would send must be what was asked for.
func FuzzOnlyTheExactRouteIsForwarded(f *testing.F) {
	f.Add("POST", "/v1/responses", "", false, false)
	f.Add("GET", "/v1/models?c\x86ient_version=%31", "", false, false)
	f.Fuzz(func(t *testing.T, method, target, rewritten string, upgrade, client bool) {
		fields := "Host: localhost\r\nX-Proxy-Token: " + testToken + "\r\n"
		if upgrade {
			fields += "Connection: Upgrade\r\nUpgrade: websocket\r\n"
		}
		r := readRequest(method + " " + target + " HTTP/1.1\r\n" + fields + "\r\n")
		if r == nil || r.Method+" "+r.RequestURI != method+" "+target {
			return // no such message, or one that breaks its lines elsewhere
		}
		r.Host = "localhost" // a target may name another, which is refused before its route is looked at
		p := &policy{routes: fuzzedRoutes, shutdownPath: "/quit", tokens: tokensOf("default", testToken)}
		if client {
			p.tokens.callers[0].id.client = "colleague"
		}
		want := specifiedRoute(method, target, upgrade, client)
		if got := codeOf(check(p, r)); got != want {
			t.Errorf("%s %s, an upgrade: %t, by a client: %t: %s, want %s", method, target, upgrade, client, got, want)
		}
		if elsewhere := readRequest("GET " + rewritten + " HTTP/1.1\r\n\r\n"); elsewhere != nil {
			r.URL = elsewhere.URL
		}
		if check(p, r) == nil && !p.isShutdown(r) &&
			strings.TrimSuffix(r.URL.RequestURI(), "?") != strings.TrimSuffix(target, "?") { // an empty query is none
			t.Errorf("%s %s passes and goes upstream as %s", method, target, r.URL.RequestURI())
		}
	})
}
