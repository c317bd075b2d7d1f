package responsesproxygate

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

func TestAnIDIsOneSegmentThatAllServersReadAlike(t *testing.T) {
	const no, yes = "route_not_allowed", "passes"
	p := testPolicy()
	p.routes = []Route{
		{Method: "GET", Path: "/v1/responses/*", AnyQuery: true},
		{Method: "POST", Path: "/v1/responses/*/cancel"},
	}
	for target, want := range map[string]string{
		"GET /v1/responses/resp_0123-aB":                    yes,
		"GET /v1/responses/resp_1?stream=true":              yes,
		"GET /v1/responses/cancel":                          yes,
		"POST /v1/responses/resp_1/cancel":                  yes,
		"GET /v1/responses/" + strings.Repeat("a", maxID):   yes,
		"GET /v1/responses/" + strings.Repeat("a", maxID+1): no,
		"GET /v1/responses":                                 no,
		"GET /v1/responses/":                                no,
		"GET /v1/responses//":                               no,
		"GET /v1/responses/.":                               no,
		"GET /v1/responses/..":                              no,
		"GET /v1/responses/a.b":                             no,
		"GET /v1/responses/*":                               no,
		"GET /v1/responses/a/":                              no,
		"GET /v1/responses/a/b":                             no,
		"GET /v1/responses/a/input_items":                   no,
		"GET /v1/responses/a%2Fb":                           no,
		"GET /v1/responses/%2e%2e":                          no,
		"GET /v1/responses/%61":                             no,
		"GET /v1/responses/a;b":                             no,
		"GET /v1/responses/a~b":                             no,
		"GET /v1/responses/a:b":                             no,
		"GET /v1/responses/a@b":                             no,
		"GET /v1/responses/\xc3\xa4":                        no,
		"GET //v1/responses/a":                              no,
		"GET /v1/responses2/a":                              no,
		"DELETE /v1/responses/a":                            no,
		"POST /v1/responses/a":                              no,
		"POST /v1/responses/cancel":                         no,
		"POST /v1/responses//cancel":                        no,
		"POST /v1/responses/a/b/cancel":                     no,
		"POST /v1/responses/a/cancel/":                      no,
		"POST /v1/responses/a/cancel?a=b":                   no,
		"POST /v1/responses/../cancel":                      no,
		"GET http://attacker.example/v1/responses/a":        no,
	} {
		method, path, _ := strings.Cut(target, " ")
		if got := codeOf(p.checkRoute(routed(t, method, path))); got != want {
			t.Errorf("%s: %s, want %s", target, got, want)
		}
	}
}

func TestAStarThatIsNoWholeSegmentIsRefused(t *testing.T) {
	for path, refused := range map[string]bool{
		"/v1/responses/*": false, "/v1/responses/*/cancel": false, "/*": false,
		"*": true, "/v1/responses*": true, "/v1/resp_*": true, "/v1/*x": true, "/v1/*/*": true, "/v1/**": true,
		"/v1/*/../x": true, "/v1/*//x": true,
	} {
		if err := (Route{Method: "GET", Path: path}).validate(); (err != nil) != refused {
			t.Errorf("%s: %v", path, err)
		}
	}
	if err := validateRoutes([]Route{{Method: "POST", Path: "/v1/*"}}, "/v1/stop"); err == nil {
		t.Error("a route may take the shutdown endpoint's path")
	}
}

func TestARouteForUploadsThatTakesNoneIsRefused(t *testing.T) {
	if err := (Route{Method: "POST", Path: "/v1/files"}).validate(); err == nil || !strings.Contains(err.Error(), "multipart") {
		t.Errorf("%v", err)
	}
	for _, route := range []Route{{Method: "POST", Path: "/v1/files", Multipart: true}, {Method: "GET", Path: "/v1/files"}} {
		if err := route.validate(); err != nil {
			t.Errorf("%v: %v", route, err)
		}
	}
}

func TestOnlyARouteForUploadsTakesThem(t *testing.T) {
	const form = "multipart/form-data; boundary=x"
	uploads := []Route{{Method: "POST", Path: "/v1/responses"}, {Method: "POST", Path: "/v1/files", Multipart: true}}
	for name, c := range map[string]struct {
		routes       []Route
		path         string
		contentTypes []string
		token        string
		want         string
	}{
		"an upload":                     {uploads, "/v1/files", []string{form}, testToken, "passes"},
		"its boundary quoted":           {uploads, "/v1/files", []string{`Multipart/Form-Data; boundary="x y"`}, testToken, "passes"},
		"JSON":                          {uploads, "/v1/files", []string{"application/json"}, testToken, "passes"},
		"an upload behind a wider one":  {[]Route{{Method: "POST", Path: "/v1/*"}, uploads[1]}, "/v1/files", []string{form}, testToken, "passes"},
		"JSON behind a wider one":       {[]Route{{Method: "POST", Path: "/v1/*"}, uploads[1]}, "/v1/files", []string{"application/json"}, testToken, "passes"},
		"a form on the wider one":       {[]Route{{Method: "POST", Path: "/v1/*"}, uploads[1]}, "/v1/other", []string{form}, testToken, "content_type_not_json"},
		"a form on another route":       {uploads, "/v1/responses", []string{form}, testToken, "content_type_not_json"},
		"a form where no route is":      {uploads, "/v1/other", []string{form}, testToken, "route_not_allowed"},
		"a form where no route takes":   {uploads[:1], "/v1/files", []string{form}, testToken, "content_type_not_json"},
		"without a token":               {uploads, "/v1/files", []string{form}, "", "missing_token"},
		"another route without a token": {uploads, "/v1/responses", []string{form}, "", "missing_token"},
		"no boundary":                   {uploads, "/v1/files", []string{"multipart/form-data"}, testToken, "content_type_not_json"},
		"more than a boundary":          {uploads, "/v1/files", []string{form + "; a=b"}, testToken, "content_type_not_json"},
		"two types":                     {uploads, "/v1/files", []string{form, form}, testToken, "content_type_not_json"},
		"two types in one":              {uploads, "/v1/files", []string{form + ", text/plain"}, testToken, "content_type_not_json"},
		"another type of forms":         {uploads, "/v1/files", []string{"application/x-www-form-urlencoded"}, testToken, "content_type_not_json"},
		"text":                          {uploads, "/v1/files", []string{"text/plain"}, testToken, "content_type_not_json"},
		"another multipart":             {uploads, "/v1/files", []string{"multipart/mixed; boundary=x"}, testToken, "content_type_not_json"},
		"none":                          {uploads, "/v1/files", nil, testToken, "content_type_not_json"},
	} {
		p := testPolicy()
		p.routes, p.forms = c.routes, takesForms(c.routes)
		r := httptest.NewRequest(http.MethodPost, c.path, strings.NewReader("--x--"))
		r.Header["Content-Type"] = c.contentTypes
		if c.token != "" {
			r.Header.Set("X-Proxy-Token", c.token)
		}
		_, _, refused := p.checkCaller(r)
		if got := codeOf(refused); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
}

func TestThePresetForCodexIsValid(t *testing.T) {
	for name, routes := range presets {
		if err := validateRoutes(routes, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if routes[0] != defaultRoute {
			t.Errorf("%s does not begin with the default", name)
		}
	}
}
