//go:build unix

package e2e

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const page = "https://app.example"

// listed reports whether a comma-separated header has a word.
func listed(header http.Header, name, word string) bool {
	for part := range strings.SplitSeq(strings.Join(header.Values(name), ","), ",") {
		if strings.EqualFold(strings.TrimSpace(part), word) {
			return true
		}
	}
	return false
}

// readableBy fails the test unless exactly this origin's pages may read the answer.
func readableBy(t *testing.T, got gatetest.Answer, origin string) {
	t.Helper()
	if values := got.Header.Values("Access-Control-Allow-Origin"); !slices.Equal(values, []string{origin}) {
		t.Errorf("Access-Control-Allow-Origin is %q, want %q once", values, origin)
	}
	if !listed(got.Header, "Vary", "Origin") {
		t.Errorf("Vary is %q, want Origin in it", got.Header.Values("Vary"))
	}
	for name, values := range got.Header {
		if strings.HasPrefix(name, "Access-Control-") && strings.Contains(strings.Join(values, ","), "*") {
			t.Errorf("%s is %q: never a wildcard", name, values)
		}
	}
	if got.Header.Get("Access-Control-Allow-Credentials") != "" {
		t.Error("cookies are allowed")
	}
}

func preflight(origin string) edits {
	return edits{noToken, gatetest.NoHeader("Content-Type"), func(r *http.Request) {
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
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Access-Control-Allow-Credentials", "true")
		gatetest.AnswerJSON(w, r)
	}), gatetest.Site{Gate: "allow_origin " + page + " http://localhost:5173"})

	for _, origin := range []string{page, "http://localhost:5173"} {
		t.Run("the preflight of "+origin, func(t *testing.T) {
			got := g.Do(t, preflight(origin)...)
			if got.Status != http.StatusNoContent || got.Body != "" {
				t.Errorf("got %d %q, want 204", got.Status, got.Body)
			}
			readableBy(t, got, origin)
			if methods := got.Header.Values("Access-Control-Allow-Methods"); !slices.Equal(methods, []string{"POST"}) {
				t.Errorf("Access-Control-Allow-Methods is %q", methods)
			}
			for _, name := range []string{"authorization", "content-type"} {
				if !listed(got.Header, "Access-Control-Allow-Headers", name) {
					t.Errorf("Access-Control-Allow-Headers is %q, want %s in it", got.Header.Values("Access-Control-Allow-Headers"), name)
				}
			}
			g.Up.SawNothing(t)
		})
	}
	fromPage := edits{gatetest.SetHeader("Origin", page), gatetest.SetHeader("Sec-Fetch-Site", "cross-site")}
	t.Run("the request after the preflight", func(t *testing.T) {
		got := g.Do(t, fromPage...)
		if got.Status != 200 || got.Body != gatetest.JSONAnswer {
			t.Fatalf("got %d %s", got.Status, got.Body)
		}
		readableBy(t, got, page)
		g.Up.Only(t).HasKey(t)
	})
	for _, a := range []attack{
		{"no token", edits{noToken}, 401, "missing_token"},
		{"text/plain", edits{gatetest.SetHeader("Content-Type", "text/plain")}, 415, "content_type_not_json"},
		{"another route", edits{func(r *http.Request) { r.URL.Path = "/v1/files" }}, 403, "route_not_allowed"},
		{"OPTIONS that is no preflight", edits{noToken, gatetest.NoHeader("Content-Type"), func(r *http.Request) { r.Method, r.Body, r.ContentLength = "OPTIONS", nil, 0 }}, 401, "missing_token"},
	} {
		t.Run("the page is still refused: "+a.harm, func(t *testing.T) {
			g.Up.Forget()
			got := g.Do(t, append(fromPage[:2:2], a.edits...)...)
			gatetest.Refused(t, got, a.status, a.code)
			readableBy(t, got, page)
			g.Up.SawNothing(t)
		})
	}
	t.Run("an answer without Origin is readable by no page", func(t *testing.T) {
		got := g.Do(t)
		gatetest.NotCORS(t, got)
		if !listed(got.Header, "Vary", "Origin") {
			t.Errorf("Vary is %q", got.Header.Values("Vary"))
		}
	})
	t.Run("an upstream failure is readable by the page", func(t *testing.T) {
		g.Up.SetAnswer(answerUnauthorized)
		got := g.Do(t, fromPage...)
		gatetest.Refused(t, got, 400, "upstream_unauthorized")
		readableBy(t, got, page)
	})
}

func TestOriginsThatResembleAnAllowedOneAreRefused(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: "allow_origin " + page})
	var attacks []attack
	for _, origin := range []string{
		"http://app.example", "https://app.example:8443", "https://app.example:443", "https://app.example/", "https://app.example.attacker.test",
		"https://xapp.example", "https://x.app.example", "HTTPS://app.example", "https://APP.example", "https://app.example.",
		"https://app.example https://app.example", "https://app.example,https://attacker.test", "null", "", "*", "https://attacker.test",
	} {
		attacks = append(
			attacks,
			attack{"Origin " + origin, edits{gatetest.SetHeader("Origin", origin)}, 403, "origin_not_allowed"},
			attack{"preflight from Origin " + origin, preflight(origin), 403, "origin_not_allowed"},
		)
	}
	attacks = append(
		attacks,
		attack{"the allowed Origin twice", edits{func(r *http.Request) { r.Header["Origin"] = []string{page, page} }}, 403, "origin_not_allowed"},
		attack{"the allowed Origin and another", edits{func(r *http.Request) { r.Header["Origin"] = []string{page, "https://attacker.test"} }}, 403, "origin_not_allowed"},
		attack{"Sec-Fetch-Site alone", edits{gatetest.SetHeader("Sec-Fetch-Site", "cross-site")}, 403, "cross_site_request"},
	)
	refusesAll(t, g, attacks)
	t.Run("an allowed Origin through a rebound Host", func(t *testing.T) {
		got := g.Do(t, gatetest.SetHeader("Origin", page), host("attacker.test"))
		gatetest.Refused(t, got, 403, "host_not_allowed")
	})
}

func TestWildcardOriginsAreRefusedInTheConfig(t *testing.T) {
	t.Parallel()
	for _, origin := range []string{"*", "null", "https://*.example", "app.example", "https://app.example/path", "https://APP.example"} {
		t.Run(origin, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{Gate: "allow_origin " + origin}.With(t, gatetest.NewUpstream(t, nil))
			if out := gatetest.StartRefused(t, s.Launch(t)); !strings.Contains(gatetest.LastError(out), "allow_origin") {
				t.Errorf("the message does not name allow_origin: %s", gatetest.LastError(out))
			}
			if !gatetest.Missing(s.InfoPath()) {
				t.Error("a refused config left a server-info file")
			}
		})
	}
}
