//go:build unix

package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

const page = "https://app.example"

// listed tells whether a comma-separated header has a word.
func listed(header http.Header, name, word string) bool {
	for part := range strings.SplitSeq(strings.Join(header.Values(name), ","), ",") {
		if strings.EqualFold(strings.TrimSpace(part), word) {
			return true
		}
	}
	return false
}

// readableBy fails the test unless exactly this origin's pages may read the answer.
func readableBy(t *testing.T, got answer, origin string) {
	t.Helper()
	if values := got.header.Values("Access-Control-Allow-Origin"); !slices.Equal(values, []string{origin}) {
		t.Errorf("Access-Control-Allow-Origin is %q, want %q once", values, origin)
	}
	if !listed(got.header, "Vary", "Origin") {
		t.Errorf("Vary is %q, want Origin in it", got.header.Values("Vary"))
	}
	for name, values := range got.header {
		if strings.HasPrefix(name, "Access-Control-") && strings.Contains(strings.Join(values, ","), "*") {
			t.Errorf("%s is %q: never a wildcard", name, values)
		}
	}
	if got.header.Get("Access-Control-Allow-Credentials") != "" {
		t.Error("cookies are allowed")
	}
}

func preflight(origin string) edits {
	return edits{noToken, noHeader("Content-Type"), func(r *http.Request) {
		r.Method, r.Body, r.ContentLength = http.MethodOptions, nil, 0
		r.Header.Set("Origin", origin)
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "cors")
		r.Header.Set("Access-Control-Request-Method", "POST")
		r.Header.Set("Access-Control-Request-Headers", "authorization,content-type")
	}}
}

func TestAnAllowedOriginsPageCanCallTheGate(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		answerJSON(w, r)
	}), site{gate: "allow_origin " + page + " http://localhost:5173"})

	for _, origin := range []string{page, "http://localhost:5173"} {
		t.Run("the preflight of "+origin, func(t *testing.T) {
			got := g.do(t, preflight(origin)...)
			if got.status != http.StatusNoContent || got.body != "" {
				t.Errorf("got %d %q, want 204", got.status, got.body)
			}
			readableBy(t, got, origin)
			if methods := got.header.Values("Access-Control-Allow-Methods"); !slices.Equal(methods, []string{"POST"}) {
				t.Errorf("Access-Control-Allow-Methods is %q", methods)
			}
			for _, name := range []string{"authorization", "content-type"} {
				if !listed(got.header, "Access-Control-Allow-Headers", name) {
					t.Errorf("Access-Control-Allow-Headers is %q, want %s in it", got.header.Values("Access-Control-Allow-Headers"), name)
				}
			}
			g.up.sawNothing(t)
		})
	}
	fromPage := edits{setHeader("Origin", page), setHeader("Sec-Fetch-Site", "cross-site")}
	t.Run("the request after the preflight", func(t *testing.T) {
		got := g.do(t, fromPage...)
		if got.status != 200 || got.body != jsonAnswer {
			t.Fatalf("got %d %s", got.status, got.body)
		}
		readableBy(t, got, page)
		g.up.only(t).hasKey(t)
	})
	for _, a := range []attack{
		{"no token", edits{noToken}, 401, "missing_token"},
		{"text/plain", edits{setHeader("Content-Type", "text/plain")}, 415, "content_type_not_json"},
		{"another route", edits{func(r *http.Request) { r.URL.Path = "/v1/files" }}, 403, "route_not_allowed"},
		{"OPTIONS that is no preflight", edits{noToken, noHeader("Content-Type"), func(r *http.Request) { r.Method, r.Body, r.ContentLength = "OPTIONS", nil, 0 }}, 401, "missing_token"},
	} {
		t.Run("the page is still refused: "+a.harm, func(t *testing.T) {
			g.up.forget()
			got := g.do(t, append(fromPage[:2:2], a.edits...)...)
			refused(t, got, a.status, a.code)
			readableBy(t, got, page)
			g.up.sawNothing(t)
		})
	}
	t.Run("an answer without Origin is readable by no page", func(t *testing.T) {
		got := g.do(t)
		notCORS(t, got)
		if !listed(got.header, "Vary", "Origin") {
			t.Errorf("Vary is %q", got.header.Values("Vary"))
		}
	})
	t.Run("an upstream failure is readable by the page", func(t *testing.T) {
		g.up.setAnswer(answerUnauthorized)
		got := g.do(t, fromPage...)
		refused(t, got, 502, "upstream_unauthorized")
		readableBy(t, got, page)
	})
}

func TestOriginsThatResembleAnAllowedOneAreRefused(t *testing.T) {
	t.Parallel()
	g := startGate(t, newUpstream(t, nil), site{gate: "allow_origin " + page})
	var attacks []attack
	for _, origin := range []string{
		"http://app.example", "https://app.example:8443", "https://app.example:443", "https://app.example/", "https://app.example.attacker.test",
		"https://xapp.example", "https://x.app.example", "HTTPS://app.example", "https://APP.example", "https://app.example.",
		"https://app.example https://app.example", "https://app.example,https://attacker.test", "null", "", "*", "https://attacker.test",
	} {
		attacks = append(
			attacks,
			attack{"Origin " + origin, edits{setHeader("Origin", origin)}, 403, "origin_not_allowed"},
			attack{"preflight from Origin " + origin, preflight(origin), 403, "origin_not_allowed"},
		)
	}
	attacks = append(
		attacks,
		attack{"the allowed Origin twice", edits{func(r *http.Request) { r.Header["Origin"] = []string{page, page} }}, 403, "origin_not_allowed"},
		attack{"the allowed Origin and another", edits{func(r *http.Request) { r.Header["Origin"] = []string{page, "https://attacker.test"} }}, 403, "origin_not_allowed"},
		attack{"Sec-Fetch-Site alone", edits{setHeader("Sec-Fetch-Site", "cross-site")}, 403, "cross_site_request"},
	)
	g.refusesAll(t, attacks)
	t.Run("an allowed Origin through a rebound Host", func(t *testing.T) {
		got := g.do(t, setHeader("Origin", page), host("attacker.test"))
		refused(t, got, 403, "host_not_allowed")
	})
}

func TestWildcardOriginsAreRefusedInTheConfig(t *testing.T) {
	t.Parallel()
	for _, origin := range []string{"*", "null", "https://*.example", "app.example", "https://app.example/path", "https://APP.example"} {
		t.Run(origin, func(t *testing.T) {
			t.Parallel()
			s := site{gate: "allow_origin " + origin}.with(t, newUpstream(t, nil))
			if out := startRefused(t, s.launch(t)); !strings.Contains(lastError(out), "allow_origin") {
				t.Errorf("the message does not name allow_origin: %s", lastError(out))
			}
			if !missing(s.infoPath()) {
				t.Error("a refused config left a server-info file")
			}
		})
	}
}
