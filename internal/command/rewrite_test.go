package command

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/rewrite"
)

// rewritten is what the command's upstream is asked for by a caller who asks
// for target.
func rewritten(t *testing.T, upstreamURL, target string) string {
	t.Helper()
	upstream, err := parseUpstream(upstreamURL)
	if err != nil {
		t.Fatal(err)
	}
	r := httptest.NewRequest(http.MethodGet, target, nil)
	for _, handler := range upstream.rewrite(upstream.path(), true) {
		delete(handler, "handler")
		var step rewrite.Rewrite
		if err := json.Unmarshal(rawJSON(handler), &step); err != nil {
			t.Fatal(err)
		}
		step.Rewrite(r, caddy.NewEmptyReplacer())
	}
	return r.RequestURI
}

func TestACallersQueryIsNotDroppedWhereTheUpstreamHasOne(t *testing.T) {
	const upstream = "https://example.com/v1/models?api-version=1"
	for target, want := range map[string]string{
		"/v1/models?a=1":                   "/v1/models?a=1&api-version=1",
		"/v1/models?a=1;b=2":               "/v1/models?a=1%3Bb%3D2&api-version=1",
		"/v1/models?a=1;b=2&c=%3B":         "/v1/models?a=1%3Bb%3D2&api-version=1&c=%3B",
		"/v1/models?api-version=2;a=1&b=3": "/v1/models?api-version=1&b=3",
		"/v1/models":                       "/v1/models?api-version=1",
	} {
		if got := rewritten(t, upstream, target); got != want {
			t.Errorf("%s is sent as %s, want %s", target, got, want)
		}
	}
}

// Caddy takes the first that matches. Else a query that a route allows would be
// dropped where a wider one stands before it.
func TestARoutesOwnRewriteComesBeforeThatOfAWiderOne(t *testing.T) {
	upstream, err := parseUpstream("https://example.com/some/responses")
	if err != nil {
		t.Fatal(err)
	}
	own := []route{{Method: http.MethodGet, Path: "/v1/models", AnyQuery: true}, {Method: http.MethodPost, Path: "/v1/images/edits"}}
	wide := []route{{Method: http.MethodGet, Path: "/v1/*"}, {Method: http.MethodPost, Path: "/v1/images/*"}}
	want, err := upstream.rewrites([]route{own[0], own[1], wide[0], wide[1]})
	if err != nil || len(want) != 4 {
		t.Fatal(want, err)
	}
	for _, order := range [][]route{{wide[0], wide[1], own[0], own[1]}, {wide[0], own[0], wide[1], own[1]}} {
		got, err := upstream.rewrites(order)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%v: %s, %v, want %s", order, rawJSON(got), err, rawJSON(want))
		}
	}
}
