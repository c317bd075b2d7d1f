package responsesproxygate

import (
	"net/http"
	"net/http/httptest"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

const testOrigin = "https://app.example"

// openGate is testGate with testOrigin allowed.
func openGate() *Handler {
	h, _ := testGate()
	h.policy.origins = []string{testOrigin, "http://localhost:3000"}
	h.policy.routes = []Route{
		{Method: "POST", Path: "/v1/responses"},
		{Method: "GET", Path: "/v1/models"},
		{Method: "POST", Path: "/v1/responses/compact"},
	}
	return h
}

func preflight(headers ...string) *http.Request {
	r := httptest.NewRequest(http.MethodOptions, "/v1/responses", nil)
	r.Host = "localhost:18080"
	r.Header = http.Header{"Origin": {testOrigin}, "Access-Control-Request-Method": {"POST"}, "Sec-Fetch-Site": {"cross-site"}}
	for i := 0; i < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

func answerTo(t *testing.T, h *Handler, r *http.Request, next caddyhttp.HandlerFunc) *httptest.ResponseRecorder {
	t.Helper()
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, r, next); err != nil {
		t.Errorf("the gate returned an error to Caddy: %v", err)
	}
	return w
}

func TestAnAllowedPagesPreflightIsAnswered(t *testing.T) {
	w := answerTo(t, openGate(), preflight("Access-Control-Request-Headers", "authorization,content-type"), unreached(t))
	want := http.Header{
		"Access-Control-Allow-Origin":   {testOrigin},
		"Access-Control-Allow-Methods":  {"POST, GET"},
		"Access-Control-Allow-Headers":  {"authorization,content-type"},
		"Access-Control-Expose-Headers": {corsExposedHeaders},
		"Access-Control-Max-Age":        {"600"},
		"Vary":                          {"Origin", "Access-Control-Request-Headers"},
		"Cache-Control":                 {"no-store"},
		"Connection":                    {"close"},
	}
	w.Header().Del("X-Content-Type-Options") // there is no content: it may be there or not
	if w.Code != http.StatusNoContent || w.Body.Len() != 0 || !reflect.DeepEqual(w.Header(), want) {
		t.Errorf("got %d %v, want 204 %v", w.Code, w.Header(), want)
	}
}

func TestAPreflightAsksForWhatItNeeds(t *testing.T) {
	for name, c := range map[string]struct {
		headers []string
		absent  string
		header  string
		want    string
	}{
		"no headers":           {nil, "Access-Control-Allow-Headers", "Access-Control-Allow-Methods", "POST, GET"},
		"several lists":        {[]string{"Access-Control-Request-Headers", "a", "Access-Control-Request-Headers", "b"}, "Access-Control-Allow-Private-Network", "Access-Control-Allow-Headers", "a, b"},
		"the private network":  {[]string{"Access-Control-Request-Private-Network", "true"}, "Access-Control-Allow-Credentials", "Access-Control-Allow-Private-Network", "true"},
		"something like it":    {[]string{"Access-Control-Request-Private-Network", "yes"}, "Access-Control-Allow-Private-Network", "Access-Control-Max-Age", "600"},
		"the other page's way": {nil, "Access-Control-Allow-Private-Network", "Access-Control-Allow-Origin", testOrigin},
	} {
		w := answerTo(t, openGate(), preflight(c.headers...), unreached(t))
		if got := w.Header().Get(c.header); got != c.want {
			t.Errorf("%s: %s is %q, want %q", name, c.header, got, c.want)
		}
		if got, ok := w.Header()[c.absent]; ok {
			t.Errorf("%s: %s is %q, and should not be there", name, c.absent, got)
		}
	}
}

func TestAForeignPagesPreflightIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*http.Request)
		want   string
	}{
		"from another origin":                     {func(r *http.Request) { r.Header.Set("Origin", "https://attacker.example") }, "origin_not_allowed"},
		"from a frame without origin":             {func(r *http.Request) { r.Header.Set("Origin", "null") }, "origin_not_allowed"},
		"with two origins":                        {func(r *http.Request) { r.Header.Add("Origin", testOrigin) }, "origin_not_allowed"},
		"to a rebound name":                       {func(r *http.Request) { r.Host = "attacker.example" }, "host_not_allowed"},
		"without an origin":                       {func(r *http.Request) { r.Header.Del("Origin") }, "cross_site_request"},
		"without an origin or browser":            {func(r *http.Request) { r.Header = http.Header{"Access-Control-Request-Method": {"POST"}} }, "missing_token"},
		"without Access-Control-Request-Method":   {func(r *http.Request) { r.Header.Del("Access-Control-Request-Method") }, "missing_token"},
		"with two Access-Control-Request-Methods": {func(r *http.Request) { r.Header.Add("Access-Control-Request-Method", "GET") }, "missing_token"},
		"that is a POST":                          {func(r *http.Request) { r.Method = "POST" }, "missing_token"},
	} {
		t.Run(name, func(t *testing.T) {
			r := preflight()
			c.change(r)
			w := answerTo(t, openGate(), r, unreached(t))
			if got := w.Header().Get(codeHeaderName); got != c.want {
				t.Errorf("got %d %q, want %s", w.Code, got, c.want)
			}
			allowed := w.Header().Get("Access-Control-Allow-Origin")
			if readable := c.want != "origin_not_allowed" && r.Header.Get("Origin") != ""; readable != (allowed == testOrigin) || allowed != "" && allowed != testOrigin {
				t.Errorf("Access-Control-Allow-Origin is %q", allowed)
			}
			if w.Header().Get("Access-Control-Allow-Methods") != "" {
				t.Error("it tells the methods")
			}
		})
	}
}

func TestNoPageIsAnsweredWithoutAllowOrigin(t *testing.T) {
	h, _ := testGate()
	w := answerTo(t, h, preflight(), unreached(t))
	if w.Code != http.StatusForbidden {
		t.Errorf("status %d", w.Code)
	}
	passed := answerTo(t, h, goodRequest(), func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusOK)
		return nil
	})
	for _, header := range []http.Header{w.Header(), passed.Header()} {
		for name := range header {
			if strings.HasPrefix(name, "Access-Control-") || name == "Vary" {
				t.Errorf("%s: %q", name, header[name])
			}
		}
	}
}

func TestOnlyAnAllowedPageMayReadAnAnswer(t *testing.T) {
	foreign := func(w http.ResponseWriter, status int) error {
		for _, name := range []string{"Allow-Origin", "Allow-Credentials", "Expose-Headers", "Allow-Methods", "Max-Age", "Allow-Private-Network"} {
			w.Header()["Access-Control-"+name] = []string{"*", "upstream"}
		}
		w.Header().Set("Vary", "Accept-Encoding")
		w.WriteHeader(status)
		return nil
	}
	for name, c := range map[string]struct {
		origin string
		next   caddyhttp.HandlerFunc
		want   string // Access-Control-Allow-Origin
	}{
		"an answer to an allowed page":               {testOrigin, func(w http.ResponseWriter, _ *http.Request) error { return foreign(w, 200) }, testOrigin},
		"an answer to the other allowed page":        {"http://localhost:3000", func(w http.ResponseWriter, _ *http.Request) error { return foreign(w, 200) }, "http://localhost:3000"},
		"an answer to a program":                     {"", func(w http.ResponseWriter, _ *http.Request) error { return foreign(w, 200) }, ""},
		"an upstream's error to an allowed page":     {testOrigin, func(w http.ResponseWriter, _ *http.Request) error { return foreign(w, 429) }, testOrigin},
		"a withheld answer to an allowed page":       {testOrigin, func(w http.ResponseWriter, _ *http.Request) error { return foreign(w, 401) }, testOrigin},
		"a withheld answer to a program":             {"", func(w http.ResponseWriter, _ *http.Request) error { return foreign(w, 401) }, ""},
		"a failure told to an allowed page":          {testOrigin, func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(504, nil) }, testOrigin},
		"the gate's own refusal for an allowed page": {testOrigin, nil, testOrigin},
	} {
		t.Run(name, func(t *testing.T) {
			r := goodRequest()
			if c.origin != "" {
				r.Header.Set("Origin", c.origin)
			}
			if c.next == nil {
				r.Header.Del("Authorization")
			}
			w := answerTo(t, openGate(), r, c.next)
			var got []string
			sent := w.Result().Header
			for name, values := range sent {
				if strings.HasPrefix(name, "Access-Control-") {
					got = append(got, name)
					if slices.Contains(values, "*") || slices.Contains(values, "upstream") {
						t.Errorf("the upstream's %s came through: %q", name, values)
					}
				}
			}
			if allowed := sent["Access-Control-Allow-Origin"]; strings.Join(allowed, "|") != c.want {
				t.Errorf("Access-Control-Allow-Origin is %q, want %q", allowed, c.want)
			}
			if wanted := map[bool]int{true: 2, false: 0}[c.want != ""]; len(got) != wanted {
				t.Errorf("CORS headers %q", got)
			}
			if !slices.Contains(sent["Vary"], "Origin") {
				t.Errorf("Vary is %q: a cache could mix pages up", sent["Vary"])
			}
		})
	}
}

func TestAnUpstreamsVaryIsKept(t *testing.T) {
	r := goodRequest()
	r.Header.Set("Origin", testOrigin)
	w := answerTo(t, openGate(), r, func(w http.ResponseWriter, _ *http.Request) error {
		w.Header().Set("Vary", "Accept-Encoding")
		_, err := w.Write([]byte("{}"))
		return err
	})
	if got := w.Header()["Vary"]; !slices.Equal(got, []string{"Accept-Encoding", "Origin"}) {
		t.Errorf("Vary is %q", got)
	}
}
