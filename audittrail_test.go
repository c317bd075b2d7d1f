package responsesproxygate

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// refusing puts a request through a gate that must refuse it.
func refusing(t *testing.T, h *Handler, change func(*http.Request)) {
	t.Helper()
	r := goodRequest()
	change(r)
	w := httptest.NewRecorder()
	if err := h.ServeHTTP(w, r, unreached(t)); err != nil || w.Code < 400 {
		t.Errorf("the answer is %d, %v", w.Code, err)
	}
}

// asking is a change of a request's target, as net/http would parse it.
func asking(t *testing.T, target string) func(*http.Request) {
	t.Helper()
	u, err := url.ParseRequestURI(target)
	if err != nil {
		t.Fatal(err)
	}
	return func(r *http.Request) { r.URL, r.RequestURI = u, target }
}

func guess(r *http.Request) { r.Header.Set("Authorization", "Bearer guess") }

func webPage(r *http.Request) { r.Header.Set("Origin", "https://attacker.example") }

// lines are an audit trail's, each as level, message and fields without those
// that are always the same.
func lines(logs *observer.ObservedLogs) []string {
	var lines []string
	for _, entry := range logs.All() {
		fields := entry.ContextMap()
		delete(fields, "gate")
		lines = append(lines, fmt.Sprint(entry.Level, " ", entry.Message, " ", fields))
	}
	return lines
}

func wantLines(t *testing.T, logs *observer.ObservedLogs, want ...string) {
	t.Helper()
	if got := lines(logs); !reflect.DeepEqual(got, want) {
		t.Errorf("the trail is\n\t%s\nwant\n\t%s", strings.Join(got, "\n\t"), strings.Join(want, "\n\t"))
	}
}

func TestEachRefusalLeavesALineThatSaysWhoAskedForWhat(t *testing.T) {
	h, logs := testGate()
	refusing(t, h, webPage)
	refusing(t, h, func(r *http.Request) { r.Host = "attacker.example" })
	refusing(t, h, func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "cross-site") })
	refusing(t, h, func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") })
	refusing(t, h, func(r *http.Request) { r.Header.Del("Authorization") })
	refusing(t, h, guess)
	refusing(t, h, asking(t, "/v1/files?query=1"))
	wantLines(t, logs,
		"warn refused map[client: code:origin_not_allowed method:POST path:/v1/responses remote_addr:192.0.2.1:1234 status:403]",
		"warn refused map[client: code:host_not_allowed method:POST path:/v1/responses remote_addr:192.0.2.1:1234 status:403]",
		"warn refused map[client: code:cross_site_request method:POST path:/v1/responses remote_addr:192.0.2.1:1234 status:403]",
		"info refused map[client: code:content_type_not_json method:POST path:/v1/responses remote_addr:192.0.2.1:1234 status:415]",
		"info refused map[client: code:missing_token method:POST path:/v1/responses remote_addr:192.0.2.1:1234 status:401]",
		"info refused map[client: code:invalid_token method:POST path:/v1/responses remote_addr:192.0.2.1:1234 status:401]",
		"info refused map[client:default code:route_not_allowed method:POST path:/v1/files remote_addr:192.0.2.1:1234 status:403]",
	)
	for _, entry := range logs.All() {
		if entry.LoggerName != "audit" || entry.ContextMap()["gate"] != "default" {
			t.Errorf("logger %s, %v", entry.LoggerName, entry.ContextMap())
		}
	}
}

func TestAnAcceptedRequestLeavesALineAtItsEndIfItIsWanted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		serveTo(t, h, goodRequest(), answerNothing)
		wantLines(t, logs)

		h.LogAccepted = true
		h.openAuditTrail()
		serveTo(t, h, goodRequest(), func(w http.ResponseWriter, r *http.Request) error {
			r.URL.Path, r.RequestURI, r.Method = "/rewritten", "/rewritten", http.MethodGet
			w.WriteHeader(http.StatusAccepted)
			time.Sleep(1500 * time.Millisecond)
			wantLines(t, logs)
			return nil
		})
		serveTo(t, h, goodRequest(), func(http.ResponseWriter, *http.Request) error { return caddyhttp.Error(504, io.EOF) })
		var trail []string
		for _, line := range lines(logs) {
			if !strings.Contains(line, "request failed behind the gate") {
				trail = append(trail, line)
			}
		}
		if want := []string{
			"info accepted map[client:default code:forwarded duration:1.5s method:POST path:/v1/responses remote_addr:192.0.2.1:1234 status:202]",
			"info accepted map[client:default code:upstream_timeout duration:0s method:POST path:/v1/responses remote_addr:192.0.2.1:1234 status:504]",
		}; !reflect.DeepEqual(trail, want) {
			t.Errorf("the trail is %q", trail)
		}
	})
}

func TestAnAddressThatAProxyVouchesForIsWrittenBesideTheConnections(t *testing.T) {
	h, logs := testGate()
	forged := goodRequest()
	guess(forged)
	forged.RemoteAddr = "/run/x\nforged: 127.0.0.1:1"
	serveTo(t, h, forged, unreached(t))
	if got := logs.All()[0].ContextMap()["remote_addr"]; got != "@" {
		t.Errorf("the caller wrote %q as its address", got)
	}
	for name, c := range map[string]struct {
		remote, vouched string
		want            any
	}{
		"another one":             {"192.0.2.1:1234", "198.51.100.7", "198.51.100.7"},
		"the same":                {"192.0.2.1:1234", "192.0.2.1", nil},
		"the same, of IPv6":       {"[2001:db8::1]:1234", "2001:db8::1", nil},
		"one that begins alike":   {"192.0.2.11:1234", "192.0.2.1", "192.0.2.1"},
		"none":                    {"192.0.2.1:1234", "", nil},
		"one over a unix socket":  {"@", "198.51.100.7", "198.51.100.7"},
		"none over a unix socket": {"@", "", nil},
	} {
		h, logs := testGate()
		r := goodRequest()
		guess(r)
		r.RemoteAddr = c.remote
		r = r.WithContext(withVar(r, caddyhttp.ClientIPVarKey, c.vouched))
		serveTo(t, h, r, unreached(t))
		if fields := logs.All()[0].ContextMap(); fields["client_ip"] != c.want || fields["remote_addr"] != c.remote {
			t.Errorf("%s: %v", name, fields)
		}
	}
}

// withVar is r's context with a variable of Caddy's.
func withVar(r *http.Request, name string, value any) context.Context {
	return context.WithValue(r.Context(), caddyhttp.VarsCtxKey, map[string]any{name: value})
}

// A line is read by people, terminals and programs. Whatever a caller sends,
// it stays one line of JSON with the same fields, in visible ASCII.
func TestNoPathOrMethodForgesALine(t *testing.T) {
	long := strings.Repeat("/v1", 500)
	for target, want := range map[string]string{
		"/v1/files%0a{%22level%22:%22info%22}":     "/v1/files%0A%7B%22level%22:%22info%22%7D",
		"/v1/%1b[31mred":                           "/v1/%1b[31mred",
		"/v1/\u202egnp.exe":                        "/v1/%E2%80%AEgnp.exe",
		"/v1/\xff\xfe":                             "/v1/%FF%FE",
		"/v1/%00%7f":                               "/v1/%00%7f",
		"/v1/\"quoted\\":                           "/v1/%22quoted%5C",
		"/v1/<script>":                             "/v1/%3Cscript%3E",
		"/v1%2fresponses":                          "/v1%2fresponses",
		"/v1/%2e%2e%2f%2e%2e%2fetc%2fpasswd":       "/v1/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
		"//v1//responses":                          "//v1//responses",
		"/v1/responses?" + testToken:               "/v1/responses",
		"/v1/files?api_key=" + testToken + "#frag": "/v1/files",
		"http://user:secret@localhost/v1/files":    "/v1/files",
		"*":                                        "*",
		long:                                       long[:128] + "...",
	} {
		u, err := url.ParseRequestURI(target)
		if err != nil {
			t.Fatalf("%q: %v", target, err)
		}
		h, _ := testGate()
		var written bytes.Buffer
		encoder := zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
		h.logger = zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&written), zap.InfoLevel))
		h.openAuditTrail()
		refusing(t, h, func(r *http.Request) {
			r.URL, r.RequestURI, r.Method = u, target, "\x1b]0;owned\x07\r\n"
			r.Header.Set("Authorization", "Bearer guess")
		})
		var line map[string]any
		if err := json.Unmarshal(written.Bytes(), &line); err != nil || bytes.Count(written.Bytes(), []byte("\n")) != 1 {
			t.Errorf("%q: %v in %q", target, err, written.String())
		}
		if line["path"] != want || line["method"] != "other" {
			t.Errorf("%q: the path is %q, want %q; the method is %q", target, line["path"], want, line["method"])
		}
		for _, c := range written.Bytes() {
			if c != '\n' && (c < ' ' || c > '~') {
				t.Errorf("%q: byte %#x in %q", target, c, written.String())
			}
		}
	}
}

func TestNoTokenGetsIntoTheTrailByAPath(t *testing.T) {
	const slashed = "fixed/token/that/has/short/segments/0123"
	everyByte := ""
	for _, c := range []byte(testToken) {
		everyByte += fmt.Sprintf("%%%02x", c)
	}
	invalid := strings.Repeat("short/", 6) + "guess"
	for name, c := range map[string]struct {
		target string
		change func(*http.Request)
		want   string
	}{
		"the token":                        {"/v1/" + testToken, guess, "/v1/REDACTED"},
		"the token between others":         {"/a/" + testToken + "/b", guess, "/a/REDACTED/b"},
		"the token glued to a word":        {"/v1/token=" + testToken, guess, "/v1/REDACTED"},
		"most of the token":                {"/v1/" + testToken[:30], guess, "/v1/REDACTED"},
		"the token, escaped":               {"/v1/" + everyByte, guess, "/v1/REDACTED"},
		"the token, half of it escaped":    {"/v1/" + testToken[:20] + everyByte[60:], guess, "/v1/REDACTED"},
		"the token where the path is cut":  {strings.Repeat("/v1", 35) + "/" + testToken, guess, strings.Repeat("/v1", 35) + "/REDACTED"},
		"the token with its caller's":      {"/v1/" + testToken, func(*http.Request) {}, "REDACTED"},
		"the token as the whole path":      {"/" + testToken, func(r *http.Request) { r.Header.Del("Authorization") }, "/REDACTED"},
		"the key":                          {"/v1/" + testKey, guess, "REDACTED"},
		"a fixed token with slashes":       {"/v1/" + slashed, guess, "REDACTED"},
		"what is presented, with slashes":  {"/v1/" + invalid, func(r *http.Request) { r.Header.Set("Authorization", "bearer  "+invalid) }, "REDACTED"},
		"what is presented twice":          {"/v1/" + invalid, func(r *http.Request) { r.Header["X-Proxy-Token"] = []string{"x", invalid} }, "REDACTED"},
		"what is presented without Bearer": {"/v1/" + invalid, func(r *http.Request) { r.Header.Set("Authorization", invalid) }, "REDACTED"},
		"a path that is presented to hide": {"/v1/files", func(r *http.Request) { r.Header.Set("Authorization", "Bearer /v1/files") }, "/v1/files"},
		"a word of usual length":           {"/v1/chat/completions", guess, "/v1/chat/completions"},
	} {
		t.Run(name, func(t *testing.T) {
			h, logs := testGate()
			h.policy.tokens.callers[0].fix(secret.New(slashed))
			refusing(t, h, func(r *http.Request) { asking(t, c.target)(r); c.change(r) })
			if got := logs.All()[0].ContextMap()["path"]; got != c.want {
				t.Errorf("the path is %v, want %s", got, c.want)
			}
		})
	}
}

func TestARefusalOfASharedClientIsWrittenAndCounted(t *testing.T) {
	c := withStorage(t, t.TempDir())
	h := c.starts(t, t.Name(), sharing)
	token := addsTo(t, h, "ci")
	core, logs := observer.New(zap.InfoLevel)
	h.logger = zap.New(core)
	h.openAuditTrail()
	const sent = 3 * floodLimit
	repeatedly(t, h, sent, func(r *http.Request) {
		asking(t, "/v1/files")(r)
		r.Header.Set("X-Proxy-Token", token)
	})
	wantTold(t, logs, "route_not_allowed", floodLimit, floodLimit)
	h.trail.close()
	wantTold(t, logs, "route_not_allowed", sent, floodLimit+1)
	if n := logs.FilterField(zap.String("client", "ci")).Len(); n != floodLimit+1 {
		t.Errorf("%d of %d lines name the client", n, floodLimit+1)
	}
	counted(t, c.ctx.GetMetricsRegistry(), t.Name(), map[string]float64{"requests_total ci route_not_allowed": sent})
}
