//go:build unix

package e2e

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// serveResponse streams a short answer as the Responses API does.
func serveResponse(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	send := func(kind, data string) {
		_, _ = fmt.Fprintf(w, "event: %s\ndata: {\"type\":%q,%s}\n\n", kind, kind, data)
		_ = http.NewResponseController(w).Flush()
	}
	send("response.created", `"sequence_number":0,"response":{"id":"resp_1","object":"response","status":"in_progress"}`)
	for i, word := range []string{"Hello", ", ", "world"} {
		send("response.output_text.delta", fmt.Sprintf(`"sequence_number":%d,"item_id":"msg_1","output_index":0,"content_index":0,"delta":%q`, i+1, word))
	}
	send("response.completed", `"sequence_number":4,"response":{"id":"resp_1","object":"response","status":"completed"}`)
}

// sdk is OpenAI's client, set up from server-info alone.
func sdk(g *gatetest.Gate, token string) openai.Client {
	return openai.NewClient(
		option.WithBaseURL(g.Info.BaseURL), option.WithAPIKey(token),
		option.WithHTTPClient(g.HTTP), option.WithMaxRetries(0),
	)
}

var sdkQuestion = responses.ResponseNewParams{
	Model: "gpt-5",
	Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("Say hello")},
}

func TestTheOpenAISDKStreamsThroughTheGate(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, serveResponse), gatetest.Site{})
	client := sdk(g, g.Info.AuthToken)
	stream := client.Responses.NewStreaming(t.Context(), sdkQuestion)
	defer stream.Close()
	var text strings.Builder
	var kinds []string
	for stream.Next() {
		current := stream.Current()
		kinds = append(kinds, current.Type)
		if current.Type == "response.output_text.delta" {
			text.WriteString(current.AsResponseOutputTextDelta().Delta)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if text.String() != "Hello, world" || len(kinds) != 5 || kinds[4] != "response.completed" {
		t.Errorf("got %q in %v", text.String(), kinds)
	}
	g.Up.Only(t).HasKey(t)
	g.Up.SawNo(t, g.Token)
}

func TestTheOpenAISDKUnderstandsTheGatesRefusals(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, answerUnauthorized), gatetest.Site{})
	for name, c := range map[string]struct {
		token  string
		status int
		code   string
		seen   bool
	}{
		"a token of another launch":  {"an-old-token", 401, "invalid_token", false},
		"an upstream that says 401 ": {g.Token, 400, "upstream_unauthorized", true},
	} {
		t.Run(name, func(t *testing.T) {
			g.Up.Forget()
			client := sdk(g, c.token)
			_, err := client.Responses.New(t.Context(), sdkQuestion)
			var apiError *openai.Error
			if !errors.As(err, &apiError) {
				t.Fatalf("got %v", err)
			}
			if apiError.StatusCode != c.status || apiError.Code != c.code || apiError.Message == "" || apiError.Type == "" {
				t.Errorf("the SDK sees %d %q %q %q", apiError.StatusCode, apiError.Code, apiError.Type, apiError.Message)
			}
			if !c.seen {
				g.Up.SawNothing(t)
			}
		})
	}
}

func TestTheGateLosesNothingThatTheSDKSends(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, serveResponse), gatetest.Site{Gate: "allow_header OpenAI-Organization OpenAI-Project"})
	client := sdk(g, g.Info.AuthToken)
	sent := make(http.Header)
	stream := client.Responses.NewStreaming(t.Context(), sdkQuestion,
		option.WithOrganization("org-1"), option.WithProject("proj-1"), option.WithHeader("Idempotency-Key", "once"),
		option.WithMiddleware(func(r *http.Request, next option.MiddlewareNext) (*http.Response, error) {
			sent = r.Header.Clone()
			return next(r)
		}))
	defer stream.Close()
	for stream.Next() {
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if len(sent) < 8 {
		t.Fatalf("the SDK sends %v only", sent)
	}
	seen := g.Up.Only(t)
	for name := range sent {
		if seen.Header[name] == nil {
			t.Errorf("%s is lost", name)
		}
	}
}

func TestTheOpenAISDKDoesNotTryADeadKeyAgain(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, answerUnauthorized), gatetest.Site{})
	client := sdk(g, g.Token)
	for range 5 {
		if _, err := client.Responses.New(t.Context(), sdkQuestion, option.WithMaxRetries(2)); err == nil {
			t.Fatal("the request succeeds")
		}
	}
	// (a slow machine may meet the wait after the first, of a second)
	waits := len(gatetest.LinesWith(g.Output.String(), "refused the operator's credential"))
	if hits := len(g.Up.Requests()); hits != waits || hits > 2 {
		t.Errorf("%d requests reached the upstream in %d waits", hits, waits)
	}
}
