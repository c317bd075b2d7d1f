package responsesproxygate

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logged is what a log of the format writes of r, as an access log, and as
// reverse_proxy does.
func logged(t *testing.T, format string, r *http.Request) string {
	t.Helper()
	var out strings.Builder
	logger := zap.New(zapcore.NewCore(loadLogFormat(t, format), zapcore.AddSync(&out), zapcore.InfoLevel))
	request := zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r})
	logger.With(request).Info("handled request", zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: r.Header}))
	logger.WithLazy(request).Warn("aborting with incomplete response")
	return out.String()
}

func TestAMisplacedTokenIsNotInALogOfTheFormat(t *testing.T) {
	header := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = []string{value} }
	}
	for name, put := range map[string]func(*http.Request){
		"Authorization":           header("Authorization", "Bearer "+testToken),
		"X-Proxy-Token":           header("X-Proxy-Token", testToken),
		"X_Proxy_Token":           header("X_proxy_token", testToken),
		"Api-Key":                 header("Api-Key", testToken),
		"X-Api-Key":               header("X-Api-Key", testToken),
		"X_Api_Key":               header("X_api_key", testToken),
		"X-Goog-Api-Key":          header("X-Goog-Api-Key", testToken),
		"a subscription's key":    header("Ocp-Apim-Subscription-Key", testToken),
		"a cookie":                header("Cookie", "token="+testToken),
		"a subprotocol":           header("Sec-Websocket-Protocol", "realtime, openai-insecure-api-key."+testToken),
		"a subprotocol with _":    header("Sec_websocket_protocol", "OPENAI-insecure-api-key."+testToken),
		"the query":               func(r *http.Request) { r.RequestURI = "/v1/responses?token=" + testToken },
		"the path":                func(r *http.Request) { r.RequestURI = "/v1/" + testToken + "/responses" },
		"the path, half escaped":  func(r *http.Request) { r.RequestURI = "/v1/" + testToken[:20] + "%41%42" + testToken[20:] },
		"a Referer":               header("Referer", "http://127.0.0.1/?token="+testToken),
		"the end of a long value": header("X-Harmless", strings.Repeat("a", 60<<10)+testToken),
	} {
		r := httptest.NewRequest(http.MethodPost, "/v1/responses", nil)
		r.Header.Set("User-Agent", "codex")
		put(r)
		out := logged(t, `{}`, r)
		if strings.Contains(out, testToken[:12]) || strings.Contains(out, testToken[25:]) {
			t.Errorf("%s: %s", name, out)
		}
		if strings.Count(out, `"codex"`) != 3 || strings.Count(out, "127.0.0.1")+strings.Count(out, "192.0.2.1") == 0 {
			t.Errorf("%s: what is harmless is missing: %s", name, out)
		}
		if strings.Contains(r.Header.Get("User-Agent")+r.RequestURI, "REDACTED") {
			t.Error("the request itself was changed")
		}
	}
}

func TestALoggedRequestIsNotLongerThanItsShare(t *testing.T) {
	r := httptest.NewRequest(strings.Repeat("M", 60<<10), "/v1/responses", nil)
	r.Host, r.RequestURI = strings.Repeat("h", 60<<10), "/"+strings.Repeat("a/", 30<<10)
	for range 40 {
		r.Header["X-"+strings.Repeat("n", len(r.Header)+1)] = []string{strings.Repeat("v", 1500)}
	}
	r.Header["X-Many"] = make([]string, 5000)
	if out := logged(t, `{}`, r); len(out) > 32<<10 || !strings.Contains(out, "and more") {
		t.Errorf("two lines have %d bytes", len(out))
	}
}

// accessLogged is how many of n requests are in an access log.
func accessLogged(t *testing.T, h *Handler, n int, change func(*http.Request)) (lines int) {
	t.Helper()
	for range n {
		r := goodRequest()
		change(r)
		vars := make(map[string]any)
		serveTo(t, h, r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars)), answerNothing)
		if vars[caddyhttp.LogSkipVar] != true {
			lines++
		}
	}
	return lines
}

func TestWhoHasNoTokenDoesNotFillTheAccessLog(t *testing.T) {
	h := newConfiguration(t).mustLoad(t, "flooded", `, "allow_origin": ["https://app.example"]`)
	if got := accessLogged(t, h, 100, func(r *http.Request) { r.Header.Del("Authorization") }); got != floodLimit {
		t.Errorf("%d of 100 refusals are in the access log, want %d", got, floodLimit)
	}
	if got := accessLogged(t, h, 100, func(r *http.Request) { r.Header.Set("Origin", "https://evil.example") }); got != floodLimit {
		t.Errorf("%d of 100 refused pages are in the access log, want %d", got, floodLimit)
	}
	if got := accessLogged(t, h, 100, func(r *http.Request) {
		r.Method = http.MethodOptions
		r.Header.Set("Origin", "https://app.example")
		r.Header.Set("Access-Control-Request-Method", http.MethodPost)
	}); got != 0 {
		t.Errorf("%d of 100 preflights are in the access log", got)
	}
	if got := accessLogged(t, h, 100, func(r *http.Request) { r.Header.Set("X-Proxy-Token", clientToken(h, h.Name)) }); got != 100 {
		t.Errorf("%d of 100 requests that passed are in the access log", got)
	}
}
