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

func guess(r *http.Request)   { r.Header.Set("Authorization", "Bearer guess") }
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

// repeatedly puts n requests through a gate.
func repeatedly(t *testing.T, h *Handler, n int, change func(*http.Request)) {
	t.Helper()
	for range n {
		refusing(t, h, change)
	}
}

// told is how many refusals of a code a trail tells of, and in how many lines.
func told(logs *observer.ObservedLogs, code string) (refusals, inLines int) {
	for _, entry := range logs.FilterField(zap.String("code", code)).All() {
		inLines++
		if dropped, ok := entry.ContextMap()["dropped"].(int64); ok {
			refusals += int(dropped)
		} else {
			refusals++
		}
	}
	return refusals, inLines
}

func wantTold(t *testing.T, logs *observer.ObservedLogs, code string, refusals, inLines int) {
	t.Helper()
	if got, lines := told(logs, code); got != refusals || lines != inLines {
		t.Errorf("%s: told of %d refusals in %d lines, want %d in %d", code, got, lines, refusals, inLines)
	}
}

func TestAFloodOfRefusalsIsAFewLinesAndACount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		repeatedly(t, h, 5000, guess)
		wantTold(t, logs, "invalid_token", floodLimit, floodLimit)

		// Another code is not hidden by it, nor what a known caller does.
		refusing(t, h, webPage)
		wantTold(t, logs, "origin_not_allowed", 1, 1)
		refusing(t, h, asking(t, "/v1/files"))
		wantTold(t, logs, "route_not_allowed", 1, 1)

		time.Sleep(floodWindow)
		synctest.Wait()
		wantTold(t, logs, "invalid_token", 5000, floodLimit+1)
		last := logs.FilterField(zap.Int64("dropped", 5000-floodLimit)).All()
		if len(last) != 1 || last[0].Level != zap.InfoLevel || last[0].Message != "refused, and not written one by one" {
			t.Fatalf("the count is %v", last)
		}

		// A window without a flood says nothing at its end, and the next is new.
		repeatedly(t, h, floodLimit, guess)
		time.Sleep(floodWindow)
		synctest.Wait()
		repeatedly(t, h, floodLimit, guess)
		wantTold(t, logs, "invalid_token", 5000+2*floodLimit, 3*floodLimit+1)
		time.Sleep(time.Hour)
		synctest.Wait()
		wantTold(t, logs, "invalid_token", 5000+2*floodLimit, 3*floodLimit+1)
	})
}

// Whoever has a token can have requests fail as often as they like.
func TestAFloodOfFailuresIsAFewLinesAndACount(t *testing.T) {
	for name, err := range map[string]error{
		"of the upstream's":          caddyhttp.Error(502, io.EOF),
		"of bodies that break off":   caddyhttp.Error(400, io.EOF),
		"of callers who leave":       caddyhttp.Error(499, context.Canceled),
		"of bodies that are too big": &http.MaxBytesError{Limit: 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h, logs := testGate()
				for range 3 * floodLimit {
					serveTo(t, h, goodRequest(), func(http.ResponseWriter, *http.Request) error { return err })
				}
				if got := logs.Len(); got != floodLimit {
					t.Errorf("%d lines, want %d", got, floodLimit)
				}
				time.Sleep(floodWindow)
				synctest.Wait()
				last := logs.All()[logs.Len()-1]
				if fields := last.ContextMap(); !strings.HasPrefix(last.Message, "failed behind the gate") || fields["dropped"] != int64(2*floodLimit) || fields["client"] != "default" {
					t.Errorf("the last line is %q %v", last.Message, fields)
				}
			})
		})
	}
}

func TestOneClientsFloodHidesNoOtherClient(t *testing.T) {
	h, logs := testGate()
	names := []string{"loud", "quiet"}
	for _, name := range names {
		id := callerID{gate: h.Name, client: name}
		state := &caller{id: id, metrics: newCallerMetrics(id)}
		for range map[string]int{"loud": 1000, "quiet": 1}[name] {
			h.trail.refused(goodRequest(), &configuredCaller{caller: state, name: name}, errRouteNotAllowed)
		}
	}
	h.trail.close()
	for i, want := range []int{floodLimit + 1, 1} {
		if got := logs.FilterField(zap.String("client", names[i])).Len(); got != want {
			t.Errorf("%d lines of %s, want %d", got, names[i], want)
		}
	}
	wantTold(t, logs, "route_not_allowed", 1001, floodLimit+2)
}

func TestAFloodOfWebPagesIsCountedAsAWarning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		repeatedly(t, h, floodLimit+1, webPage)
		time.Sleep(floodWindow)
		synctest.Wait()
		if all := logs.All(); all[len(all)-1].Level != zap.WarnLevel {
			t.Errorf("the count is %v", all[len(all)-1])
		}
		wantTold(t, logs, "origin_not_allowed", floodLimit+1, floodLimit+1)
	})
}

// Whatever the order of requests and windows, every refusal is told of once.
func TestEveryRefusalOfManyAtOnceIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		for range 8 {
			go func() {
				for range 500 {
					refusing(t, h, guess)
					time.Sleep(floodWindow / 97)
				}
			}()
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if refusals, inLines := told(logs, "invalid_token"); refusals != 4000 || inLines > 4000/10 {
			t.Errorf("told of %d refusals in %d lines", refusals, inLines)
		}
	})
}

func TestWhatWasLeftOutIsCountedBeforeAnExit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		repeatedly(t, h, 100, guess)
		repeatedly(t, h, 100, asking(t, "/v1/files"))
		h.trail.close()
		wantTold(t, logs, "invalid_token", 100, floodLimit+1)
		wantTold(t, logs, "route_not_allowed", 100, floodLimit+1)
		// Requests that were under way are written one by one: there may be
		// nobody left to write a count.
		repeatedly(t, h, 2*floodLimit, guess)
		wantTold(t, logs, "invalid_token", 100+2*floodLimit, 3*floodLimit+1)
		time.Sleep(time.Hour)
		synctest.Wait()
		wantTold(t, logs, "invalid_token", 100+2*floodLimit, 3*floodLimit+1)
	})
}

// During a reload, the old config and the new one have requests of the same
// callers, whose windows are one.
func TestAFloodAcrossReloadsIsToldOfOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, logs := testGate()
		files := asking(t, "/v1/files")
		sent := 0
		for range 20 {
			former := h.trail
			repeatedly(t, h, 30, guess)
			repeatedly(t, h, 30, files)
			h.openAuditTrail()
			repeatedly(t, h, 7, guess)
			repeatedly(t, h, 7, files)
			former.close()
			repeatedly(t, h, 40, guess)
			repeatedly(t, h, 40, files)
			sent += 77
			time.Sleep(floodWindow / 3)
		}
		time.Sleep(floodWindow)
		synctest.Wait()
		for _, code := range []string{"invalid_token", "route_not_allowed"} {
			if refusals, inLines := told(logs, code); refusals != sent || inLines > 20*2*(floodLimit+1) {
				t.Errorf("%s: told of %d refusals of %d in %d lines", code, refusals, sent, inLines)
			}
		}
	})
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

func TestARefusalThatIsNotWrittenAllocatesNothing(t *testing.T) {
	h, _ := testGate()
	c := h.policy.tokens.callers[0]
	r := goodRequest()
	for name, refused := range map[string]func(){
		"of nobody known":   func() { h.trail.refused(r, nil, errInvalidToken) },
		"of a known caller": func() { h.trail.refused(r, c, errRouteNotAllowed) },
	} {
		for range floodLimit {
			refused()
		}
		if allocs := testing.AllocsPerRun(1000, refused); allocs != 0 {
			t.Errorf("%s: %v allocations", name, allocs)
		}
	}
	h.trail.logger = zap.NewNop() // nobody wants it
	if allocs := testing.AllocsPerRun(1000, func() { h.trail.refused(r, nil, errOriginNotAllowed) }); allocs != 0 {
		t.Errorf("without a log: %v allocations", allocs)
	}
}

func BenchmarkRefusalInAFlood(b *testing.B) {
	h, _ := testGate()
	r := goodRequest()
	b.ReportAllocs()
	for b.Loop() {
		h.count(nil, errInvalidToken.outcome)
		h.trail.refused(r, nil, errInvalidToken)
	}
}
