//go:build unix

package e2e

import (
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/quic-go/quic-go/http3"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

const rules = `models gpt-5-mini
max_output_tokens 500
refuse store previous_response_id item_reference conversation hosted_tools files urls`

// behind is a gate's options, the end of its block, and a budget behind it.
func behind(budget string) string {
	return "allow_route POST /v1/responses\nallow_route GET /v1/responses\nallow_route POST /v1/chat/completions\n}\nresponses_budget {\n" + budget
}

// around are bodies with which callers try to get around the rules.
var around = map[string]struct {
	body   string
	edit   func(*http.Request)
	status int
}{
	"another model":               {`{"model":"gpt-5-pro","store":false}`, nil, 400},
	"two models":                  {`{"model":"gpt-5-mini","model":"gpt-5-pro","store":false}`, nil, 400},
	"two models, one escaped":     {`{"model":"gpt-5-mini","mod\u0065l":"gpt-5-pro","store":false}`, nil, 400},
	"another case":                {`{"model":"gpt-5-mini","MODEL":"gpt-5-pro","store":false}`, nil, 400},
	"a nested model":              {`{"model":{"model":"gpt-5-mini"},"store":false}`, nil, 400},
	"a list of models":            {`{"model":["gpt-5-mini","gpt-5-pro"],"store":false}`, nil, 400},
	"a second object behind":      {`{"model":"gpt-5-mini","store":false}{"model":"gpt-5-pro"}`, nil, 400},
	"a huge depth":                {`{"model":"gpt-5-mini","store":false,"a":` + strings.Repeat("[", 100_000), nil, 400},
	"two lines of objects":        {`{"model":"gpt-5-mini","store":false}` + "\n" + `{"model":"gpt-5-pro"}`, nil, 400},
	"a second object and a zero":  {`{"model":"gpt-5-mini","store":false}` + "\x00" + `{"model":"gpt-5-pro"}`, nil, 400},
	"models to fall back to":      {`{"model":"gpt-5-mini","models":["gpt-5-pro"],"store":false}`, nil, 400},
	"an alphabet of two bytes":    {twoBytes(`{"model":"gpt-5-pro","store":false}`), nil, 400},
	"compression":                 {gzipped(`{"model":"gpt-5-pro","store":false}`), gatetest.SetHeader("Content-Encoding", "gzip"), 400},
	"compression by an alias":     {gzipped(`{"model":"gpt-5-pro","store":false}`), gatetest.SetHeader("Content-Encoding", "x-gzip"), 400},
	"compression in a list":       {gzipped(`{"model":"gpt-5-pro","store":false}`), gatetest.SetHeader("Content-Encoding", "identity, gzip"), 400},
	"compression, not named":      {gzipped(`{"model":"gpt-5-pro","store":false}`), nil, 400},
	"compression, named second":   {`{"model":"gpt-5-mini","store":false}`, func(r *http.Request) { r.Header["Content-Encoding"] = []string{"identity", "zstd"} }, 400},
	"another route":               {`{"model":"gpt-5-pro","store":false}`, func(r *http.Request) { r.URL.Path = "/v1/chat/completions" }, 400},
	"another's stored response":   {`{"model":"gpt-5-mini","store":false,"previous_response_id":"resp_1"}`, nil, 400},
	"another's stored item":       {`{"model":"gpt-5-mini","store":false,"input":[{"id":"msg_1"}]}`, nil, 400},
	"a tool that acts":            {`{"model":"gpt-5-mini","store":false,"tools":[{"type":"mcp","connector_id":"c"}]}`, nil, 400},
	"a tool that acts, escaped":   {`{"model":"gpt-5-mini","store":false,"tools":[{"typ\u0065":"\u006dcp"}]}`, nil, 400},
	"a longer answer":             {`{"model":"gpt-5-mini","store":false,"max_output_tokens":501}`, nil, 400},
	"a longer answer, escaped":    {`{"model":"gpt-5-mini","store":false,"max_output\u005ftokens":501}`, nil, 400},
	"a longer answer, as text":    {`{"model":"gpt-5-mini","store":false,"max_output_tokens":"501"}`, nil, 400},
	"a stored prompt":             {`{"model":"gpt-5-mini","store":false,"prompt":{"id":"pmpt_1"}}`, nil, 400},
	"a dearer tier":               {`{"model":"gpt-5-mini","store":false,"service_tier":"priority"}`, nil, 400},
	"an answer in the background": {`{"model":"gpt-5-mini","store":false,"background":true}`, nil, 400},
}

// gzipped is text, compressed.
func gzipped(text string) string {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	return packed.String()
}

// twoBytes is text in UTF-16.
func twoBytes(text string) string {
	return "\xff\xfe" + strings.Join(strings.Split(text, ""), "\x00") + "\x00"
}

// withBody is an edit for Post and Do: the body comes a byte at a time and does
// not say how long it is, or whole.
func withBody(body string, inBytes bool) func(*http.Request) {
	return func(r *http.Request) {
		r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
		if inBytes {
			r.Body, r.ContentLength = io.NopCloser(iotest.OneByteReader(strings.NewReader(body))), -1
		}
	}
}

func TestNoBodyGetsAroundABudgetsRules(t *testing.T) {
	t.Parallel()
	g, config := startTLSGate(t, gatetest.NewUpstream(t, nil), behind(rules))
	open, openConfig := startTLSGate(t, gatetest.NewUpstream(t, nil), "allow_route POST /v1/responses\nallow_route POST /v1/chat/completions")
	h3, openH3 := &http3.Transport{TLSClientConfig: config.Clone()}, &http3.Transport{TLSClientConfig: openConfig.Clone()}
	defer h3.Close()
	defer openH3.Close()
	h2 := &http.Transport{TLSClientConfig: config.Clone(), ForceAttemptHTTP2: true}
	defer h2.CloseIdleConnections()
	for proto, transport := range map[string]http.RoundTripper{
		"HTTP/1.1": &http.Transport{TLSClientConfig: config.Clone(), DisableKeepAlives: true},
		"HTTP/2.0": h2, "HTTP/3.0": h3,
	} {
		client := &http.Client{Transport: transport}
		do := func(t *testing.T, edits ...func(*http.Request)) gatetest.Answer {
			got := gatetest.Do(t, client, g.Post(append(edits, overTLS)...))
			if got.Proto != proto {
				t.Errorf("it spoke %s", got.Proto)
			}
			return got
		}
		for name, attack := range around {
			edit := attack.edit
			if edit == nil {
				edit = func(*http.Request) {}
			}
			for _, inBytes := range []bool{false, true} {
				if inBytes && len(attack.body) > 1000 {
					continue
				}
				got := do(t, withBody(attack.body, inBytes), edit)
				if got.Status != attack.status || got.Header.Get("X-Responses-Budget") == "" || got.Header.Get("X-Should-Retry") != "false" {
					t.Errorf("%s, %s: %d %v %s", proto, name, got.Status, got.Header, got.Body)
				}
			}
			// The control: without a budget, it gets through.
			if proto == "HTTP/1.1" {
				open.Up.Forget()
				got := gatetest.Do(t, &http.Client{Transport: openH3}, open.Post(withBody(attack.body, false), edit, overTLS))
				if open.Up.Only(t).Body != attack.body {
					t.Errorf("%s: without a budget, it got %d", name, got.Status)
				}
			}
		}
		g.Up.SawNothing(t)
		for _, inBytes := range []bool{false, true} {
			const rest = `"mod\u0065l" :"gpt-5-mini", "store":false,"input":"ä"} `
			if got := do(t, withBody(" { "+rest, inBytes)); got.Status != 200 {
				t.Errorf("%s: what may pass got %d %s", proto, got.Status, got.Body)
			}
			sent := g.Up.Only(t)
			if want := ` {"max_output_tokens":500, ` + rest; sent.Body != want || sent.Header.Get("Transfer-Encoding") != "" {
				t.Errorf("%s: it reached the upstream as %q, not %q", proto, sent.Body, want)
			}
			g.Up.Forget()
			h2.CloseIdleConnections()
		}
	}
}

func TestSDKsDoNotRepeatWhatARuleRefuses(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Gate: behind(rules)})
	tried := &counting{RoundTripper: g.HTTP.Transport}
	g.HTTP.Transport = tried
	client := sdk(g, g.Info.AuthToken)
	client.Options = append(client.Options, option.WithMaxRetries(5))
	stored, other := sdkQuestion, sdkQuestion
	other.Model = "gpt-5-pro"
	for code, ask := range map[string]func() error{
		"store_refused": func() error { _, err := client.Responses.New(t.Context(), stored); return err },
		"encoding_not_readable": func() error {
			_, err := client.Responses.New(t.Context(), stored, option.WithHeader("Content-Encoding", "gzip"))
			return err
		},
		"route_not_counted": func() error {
			_, err := client.Chat.Completions.New(t.Context(), openai.ChatCompletionNewParams{Model: "gpt-5-mini"})
			return err
		},
		"model_not_allowed": func() error {
			_, err := client.Responses.New(t.Context(), other, option.WithJSONSet("store", false))
			return err
		},
		"body_not_readable": func() error {
			_, err := client.Responses.New(t.Context(), stored, option.WithJSONSet("Model", "gpt-5-pro"))
			return err
		},
	} {
		tried.times = 0
		err := ask()
		failed := (*openai.Error)(nil)
		if !errors.As(err, &failed) || failed.StatusCode != 400 || failed.Code != code || tried.times != 1 {
			t.Errorf("%s: it tried %d times and says %v", code, tried.times, err)
		}
	}
	g.Up.SawNothing(t)
}

func TestABodyThatGrowsBeyondTheServersLimitIsRefusedOnce(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Before: "request_body {\n\tmax_size 1KB\n}", Gate: behind(rules)})
	tried := &counting{RoundTripper: g.HTTP.Transport}
	g.HTTP.Transport = tried
	client, question := sdk(g, g.Info.AuthToken), sdkQuestion
	question.Model = "gpt-5-mini"
	ask := func(length int, says bool) error {
		tried.times = 0
		_, err := client.Responses.New(t.Context(), question, option.WithMaxRetries(5), option.WithJSONSet("store", false),
			option.WithJSONSet("instructions", strings.Repeat("x", length)),
			option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
				if !says {
					r.ContentLength = -1
				}
				return next(r)
			}))
		return err
	}
	for name, c := range map[string]struct {
		length int
		says   bool
		status int // 0: it is answered
	}{
		"too large, and does not say so":   {2000, false, 400},
		"too large, and says so":           {2000, true, 413}, // by request_body itself
		"small enough":                     {500, false, 0},
		"small enough, and says how large": {500, true, 0},
	} {
		g.Up.Forget()
		err := ask(c.length, c.says)
		if tried.times != 1 {
			t.Errorf("%s: it tried %d times", name, tried.times)
		}
		if c.status == 0 {
			if err != nil || !strings.Contains(g.Up.Only(t).Body, strings.Repeat("x", c.length)) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		g.Up.SawNothing(t)
		failed := (*openai.Error)(nil)
		if !errors.As(err, &failed) || failed.StatusCode != c.status || failed.Code != "request_too_large" {
			t.Fatalf("%s: %v", name, err)
		}
		if answer := failed.Response.Header; (answer.Get("X-Responses-Budget") == "request_too_large") != !c.says ||
			(answer.Get("X-Should-Retry") == "false") != !c.says {
			t.Errorf("%s: %v", name, answer)
		}
	}
}

// counting counts requests.
type counting struct {
	http.RoundTripper
	times int
}

func (c *counting) RoundTrip(r *http.Request) (*http.Response, error) {
	c.times++
	return c.RoundTripper.RoundTrip(r)
}
