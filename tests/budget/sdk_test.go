//go:build unix

package budget

import (
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
	"github.com/openai/openai-go/v3/responses"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestTheOpenAISDKAsksASpentBudgetOnce(t *testing.T) {
	t.Parallel()
	b := newBill(t)
	g := gatetest.StartReloadable(t, b.Upstream, site(gatetest.TempDir(t), "per 1d {\n\ttokens 100\n}"))
	client := openai.NewClient(option.WithBaseURL(g.Info.BaseURL), option.WithAPIKey(g.Token), option.WithHTTPClient(g.HTTP), option.WithMaxRetries(5))
	question := responses.ResponseNewParams{Model: "gpt-5", Input: responses.ResponseNewParamsInputUnion{OfString: openai.String("hi")}}
	first, err := client.Responses.New(t.Context(), question)
	if err != nil || first.Usage.OutputTokens != output {
		t.Fatalf("the first call: %v, %v", first, err)
	}
	_, err = client.Responses.New(t.Context(), question)
	var refused *openai.Error
	if !errors.As(err, &refused) || refused.StatusCode != http.StatusTooManyRequests || refused.Code != "budget_exhausted" {
		t.Errorf("the second call: %v", err)
	}
	metrics := g.AdminDo(t, http.MethodGet, "/metrics", "", "").Body
	if !strings.Contains(metrics, `code="budget_exhausted"} 1`+"\n") {
		t.Errorf("the SDK was not refused exactly once:\n%s", strings.Join(gatetest.LinesWith(metrics, "caddy_responses_budget_requests"), "\n"))
	}
}
