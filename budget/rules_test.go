package budget

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// receives answers, and remembers what reached it.
type receives struct {
	body  string
	times int
}

func (u *receives) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	if r.ContentLength >= 0 && int64(len(body)) != r.ContentLength {
		return io.ErrUnexpectedEOF
	}
	u.body, u.times = string(body), u.times+1
	w.Header().Set("Content-Type", "application/json")
	_, err = io.WriteString(w, `{"model":"gpt-5-mini","usage":{"input_tokens":1000,"input_tokens_details":{"cached_tokens":400},"output_tokens":100},"output":[{"type":"web_search_call"},{"type":"web_search_call"}]}`)
	return err
}

// openPriced makes a handler with prices.
func openPriced(t *testing.T, limits Limits, prices []Price, fees []Fee) *Handler {
	t.Helper()
	h := open(t, t.TempDir(), Limits{})
	h.Limits, h.Price, h.Fee = limits, prices, fees
	if err := h.resolve(); err != nil {
		t.Fatal(err)
	}
	return h
}

func at(method, path string) func(*http.Request) {
	return func(r *http.Request) { r.Method, r.URL.Path = method, path }
}

func header(name string, values ...string) func(*http.Request) {
	return func(r *http.Request) { r.Header[name] = values }
}

func TestABodyThatAsksForMoreThanItMayReachesNoUpstream(t *testing.T) {
	h := open(t, t.TempDir(), Limits{Rules: Rules{
		Models: []string{"gpt-5-mini", "o4*"}, MaxOutputTokens: 1000,
		Refuse: []string{"store", "previous_response_id", "item_reference", "conversation", "hosted_tools", "files", "urls"},
	}})
	const rest = `"store":false}`
	for name, attack := range map[string]struct {
		body string
		edit func(*http.Request)
		want int
		code string
	}{
		"another model":                      {`{"model":"gpt-5",` + rest, nil, 400, "model_not_allowed"},
		"a longer name":                      {`{"model":"gpt-5-mini-pro",` + rest, nil, 400, "model_not_allowed"},
		"another case of the model":          {`{"model":"GPT-5-mini",` + rest, nil, 400, "model_not_allowed"},
		"no model":                           {`{` + rest, nil, 400, "model_missing"},
		"a list of models":                   {`{"model":["gpt-5-mini"],` + rest, nil, 400, "model_missing"},
		"a model in an object":               {`{"model":{"model":"gpt-5-mini"},` + rest, nil, 400, "model_missing"},
		"a model deeper down only":           {`{"a":{"model":"gpt-5-mini"},` + rest, nil, 400, "model_missing"},
		"a zero in the model":                {`{"model":"o4\u0000-mini",` + rest, nil, 400, "model_missing"},
		"half a character in the model":      {`{"model":"o4\ud800",` + rest, nil, 400, "model_missing"},
		"two models":                         {`{"model":"gpt-5-mini","model":"gpt-5",` + rest, nil, 400, "body_not_readable"},
		"two models, one escaped":            {`{"model":"gpt-5-mini","mod\u0065l":"gpt-5",` + rest, nil, 400, "body_not_readable"},
		"an escaped model":                   {`{"mod\u0065l":"gpt-5",` + rest, nil, 400, "model_not_allowed"},
		"another case of the name":           {`{"model":"gpt-5-mini","Model":"gpt-5",` + rest, nil, 400, "body_not_readable"},
		"another letter of that case":        {`{"model":"gpt-5-mini","\u017ftore":true,` + rest, nil, 400, "body_not_readable"},
		"a name with a broken character":     {"{\"model\":\"gpt-5-mini\",\"model\xff\":\"gpt-5\"," + rest, nil, 400, "body_not_readable"},
		"a name with a zero":                 {`{"model":"gpt-5-mini","model\u0000":"gpt-5",` + rest, nil, 400, "body_not_readable"},
		"two names deep down":                {`{"model":"gpt-5-mini","tools":[{"type":"function","parameters":{"a":1,"a":2}}],` + rest, nil, 400, "body_not_readable"},
		"a second object behind":             {`{"model":"gpt-5-mini",` + rest + `{"model":"gpt-5"}`, nil, 400, "body_not_readable"},
		"a byte order mark":                  {byteOrderMark + `{"model":"gpt-5-mini",` + rest, nil, 400, "body_not_readable"},
		"a list":                             {`[{"model":"gpt-5-mini",` + rest + `]`, nil, 400, "body_not_readable"},
		"a comment":                          {`{/*"model":"gpt-5"*/"model":"gpt-5-mini",` + rest, nil, 400, "body_not_readable"},
		"nothing":                            {``, nil, 400, "body_not_readable"},
		"cut off":                            {`{"model":"gpt-5-mini","store":false`, nil, 400, "body_not_readable"},
		"very deep":                          {`{"model":"gpt-5-mini","a":` + strings.Repeat("[", 300) + strings.Repeat("]", 300) + `,` + rest, nil, 400, "body_not_readable"},
		"deep without end":                   {strings.Repeat(`{"a":`, 100_000), nil, 400, "body_not_readable"},
		"compressed":                         {`{"model":"gpt-5-mini",` + rest, header("Content-Encoding", "gzip"), 400, "encoding_not_readable"},
		"compressed in a second line":        {`{"model":"gpt-5-mini",` + rest, header("Content-Encoding", "identity", "zstd"), 400, "encoding_not_readable"},
		"another alphabet":                   {`{"model":"gpt-5-mini",` + rest, header("Content-Type", "application/json; charset=utf-16"), 400, "encoding_not_readable"},
		"a form":                             {`{"model":"gpt-5-mini",` + rest, header("Content-Type", "application/x-www-form-urlencoded"), 400, "encoding_not_readable"},
		"a WebSocket":                        {``, func(r *http.Request) { r.Method = "GET"; r.Header.Set("Upgrade", "websocket") }, 426, "websocket_not_counted"},
		"a WebSocket in HTTP/2":              {``, func(r *http.Request) { r.Method = http.MethodConnect }, 426, "websocket_not_counted"},
		"another route":                      {`{"model":"gpt-5-mini",` + rest, func(r *http.Request) { r.URL.Path = "/v1/chat/completions" }, 400, "route_not_counted"},
		"a longer answer":                    {`{"model":"gpt-5-mini","max_output_tokens":1001,` + rest, nil, 400, "max_output_tokens_too_large"},
		"a longer answer, written otherwise": {`{"model":"gpt-5-mini","max_output_tokens":1.1e3,` + rest, nil, 400, "max_output_tokens_too_large"},
		"an answer of no length":             {`{"model":"gpt-5-mini","max_output_tokens":0,` + rest, nil, 400, "body_not_readable"},
		"a length in a string":               {`{"model":"gpt-5-mini","max_output_tokens":"9999",` + rest, nil, 400, "body_not_readable"},
		"in the background":                  {`{"model":"gpt-5-mini","background":true,` + rest, nil, 400, "background_refused"},
		"a background that is a number":      {`{"model":"gpt-5-mini","background":1,` + rest, nil, 400, "body_not_readable"},
		"stored":                             {`{"model":"gpt-5-mini","store":true}`, nil, 400, "store_refused"},
		"stored by default":                  {`{"model":"gpt-5-mini"}`, nil, 400, "store_refused"},
		"stored by null":                     {`{"model":"gpt-5-mini","store":null}`, nil, 400, "store_refused"},
		"another's response":                 {`{"model":"gpt-5-mini","previous_response_id":"resp_1",` + rest, nil, 400, "previous_response_id_refused"},
		"another's conversation":             {`{"model":"gpt-5-mini","conversation":{"id":"conv_1"},` + rest, nil, 400, "conversation_refused"},
		"a stored prompt":                    {`{"model":"gpt-5-mini","prompt":{"id":"pmpt_1"},` + rest, nil, 400, "prompt_refused"},
		"a dearer tier":                      {`{"model":"gpt-5-mini","service_tier":"priority",` + rest, nil, 400, "service_tier_refused"},
		"a tier in an object":                {`{"model":"gpt-5-mini","service_tier":{"type":"auto"},` + rest, nil, 400, "service_tier_refused"},
		"another's item":                     {`{"model":"gpt-5-mini","input":[{"type":"item_reference","id":"msg_1"}],` + rest, nil, 400, "item_reference_refused"},
		"another's item, without a type":     {`{"model":"gpt-5-mini","input":[{"id":"msg_1"}],` + rest, nil, 400, "item_reference_refused"},
		"another's item, type null":          {`{"model":"gpt-5-mini","input":[{"id":"msg_1","type":null}],` + rest, nil, 400, "item_reference_refused"},
		"another's item, out of a list":      {`{"model":"gpt-5-mini","input":{"id":"msg_1","type":"item_reference"},` + rest, nil, 400, "item_reference_refused"},
		"another's reasoning":                {`{"model":"gpt-5-mini","input":[{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":""}],` + rest, nil, 400, "item_reference_refused"},
		"another's image":                    {`{"model":"gpt-5-mini","input":[{"type":"image_generation_call","id":"ig_1","status":"completed","result":null,"x":1}],` + rest, nil, 400, "item_reference_refused"},
		"another's code":                     {`{"model":"gpt-5-mini","input":[{"type":"code_interpreter_call","id":"ci_1","status":"completed"}],` + rest, nil, 400, "item_reference_refused"},
		"another's item, with no role":       {`{"model":"gpt-5-mini","input":[{"id":"rs_1","content":[]}],` + rest, nil, 400, "item_reference_refused"},
		"another's item, with no content":    {`{"model":"gpt-5-mini","input":[{"type":"message","id":"msg_1","role":"user"}],` + rest, nil, 400, "item_reference_refused"},
		"a model in a tool":                  {`{"model":"gpt-5-mini","tools":[{"type":"image_generation","model":"gpt-image-1"}],` + rest, nil, 400, "hosted_tools_refused"},
		"a model in a tool of the caller's":  {`{"model":"gpt-5-mini","tools":[{"type":"function","model":"gpt-5-pro"}],` + rest, nil, 400, "model_not_allowed"},
		"a model in a tool, as a list":       {`{"model":"gpt-5-mini","tools":[{"type":"function","model":["gpt-5-pro"]}],` + rest, nil, 400, "model_not_allowed"},
		"a model in a tool, another case":    {`{"model":"gpt-5-mini","tools":[{"type":"function","Model":"gpt-5-pro"}],` + rest, nil, 400, "body_not_readable"},
		"models to fall back to":             {`{"model":"gpt-5-mini","models":["gpt-5-pro"],` + rest, nil, 400, "model_not_allowed"},
		"fallbacks":                          {`{"model":"gpt-5-mini","fallbacks":["gpt-5-pro"],` + rest, nil, 400, "model_not_allowed"},
		"plugins":                            {`{"model":"gpt-5-mini","plugins":[{"id":"web"}],` + rest, nil, 400, "model_not_allowed"},
		"another's thread":                   {``, at("GET", "/v1/threads/thread_1/messages"), 400, "conversation_refused"},
		"another's batch":                    {``, at("GET", "/v1/batches"), 400, "files_refused"},
		"another's training":                 {``, at("GET", "/v1/fine_tuning/jobs"), 400, "files_refused"},
		"another's eval":                     {``, at("DELETE", "/v1/evals/eval_1"), 400, "files_refused"},
		"another's completion":               {``, at("GET", "/v1/chat/completions/chatcmpl_1"), 400, "previous_response_id_refused"},
		"a search":                           {`{"model":"gpt-5-mini","tools":[{"type":"function","name":"f"},{"type":"web_search"}],` + rest, nil, 400, "hosted_tools_refused"},
		"a tool that nobody knows":           {`{"model":"gpt-5-mini","tools":[{"type":"new_tool"}],` + rest, nil, 400, "hosted_tools_refused"},
		"a tool without a type":              {`{"model":"gpt-5-mini","tools":[{"name":"f"}],` + rest, nil, 400, "hosted_tools_refused"},
		"a tool of another case":             {`{"model":"gpt-5-mini","tools":[{"Type":"function","type":"function"}],` + rest, nil, 400, "body_not_readable"},
		"tools out of a list":                {`{"model":"gpt-5-mini","tools":{"type":"function"},` + rest, nil, 400, "body_not_readable"},
		"a tool in a list in the list":       {`{"model":"gpt-5-mini","tools":[[{"type":"mcp"}]],` + rest, nil, 400, "hosted_tools_refused"},
		"a tool in a namespace":              {`{"model":"gpt-5-mini","tools":[{"type":"namespace","tools":[{"type":"mcp"}]}],` + rest, nil, 400, "hosted_tools_refused"},
		"a tool in the input":                {`{"model":"gpt-5-mini","input":[{"type":"tool_search_output","tools":[{"type":"mcp"}]}],` + rest, nil, 400, "hosted_tools_refused"},
		"a shell at the API":                 {`{"model":"gpt-5-mini","tools":[{"type":"shell","environment":{"type":"container_auto"}}],` + rest, nil, 400, "hosted_tools_refused"},
		"another's file":                     {`{"model":"gpt-5-mini","input":[{"role":"user","content":[{"type":"input_file","file_id":"file_1"}]}],` + rest, nil, 400, "files_refused"},
		"another's screenshot":               {`{"model":"gpt-5-mini","input":[{"type":"computer_call_output","call_id":"c","output":{"type":"computer_screenshot","file_id":"file_1"}}],` + rest, nil, 400, "files_refused"},
		"another's response, read":           {``, at("GET", "/v1/responses/resp_1"), 400, "previous_response_id_refused"},
		"another's response, deleted":        {``, at("DELETE", "/v1/responses/resp_1/"), 400, "previous_response_id_refused"},
		"another's response, ended":          {``, at("POST", "/v1/responses/resp_1/cancel"), 400, "previous_response_id_refused"},
		"another's conversation, read":       {``, at("GET", "/v1/conversations/conv_1/items"), 400, "conversation_refused"},
		"another's file, read":               {``, at("GET", "/v1/files/file_1/content"), 400, "files_refused"},
		"another's response, other case":     {``, at("GET", "/v1/Responses/resp_1"), 400, "previous_response_id_refused"},
		"another's response, parameters":     {``, at("GET", "/v1/responses;v=1/resp_1"), 400, "route_not_counted"},
		"another's response, backslashes":    {``, at("GET", `/v1\responses\resp_1`), 400, "route_not_counted"},
		"another's response, escaped twice":  {``, at("GET", "/v1/responses%2Fresp_1"), 400, "route_not_counted"},
		"another's conversation, other case": {``, at("GET", "/v1/CONVERSATIONS/conv_1"), 400, "conversation_refused"},
		"another's skill":                    {``, at("GET", "/v1/skills/skill_1/content"), 400, "files_refused"},
		"a path in the model's name":         {`{"model":"o4/../gpt-5-pro",` + rest, nil, 400, "model_missing"},
		"an address":                         {`{"model":"gpt-5-mini","input":[{"role":"user","content":[{"type":"input_image","image_url":"https://example.com/x.png"}]}],` + rest, nil, 400, "urls_refused"},
		"an address in an object":            {`{"model":"gpt-5-mini","input":[{"role":"user","content":[{"type":"input_image","image_url":{"url":"https://example.com","type":"data:"}}]}],` + rest, nil, 400, "urls_refused"},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := &receives{}
			edits := []func(*http.Request){}
			if attack.edit != nil {
				edits = append(edits, attack.edit)
			}
			w := call(t, h, "codex", attack.body, upstream, edits...)
			if w.Code != attack.want || code(w) != attack.code || upstream.times != 0 {
				t.Errorf("it got %d %s, and reached the upstream %d times", w.Code, code(w), upstream.times)
			}
			if w.Code != http.StatusUpgradeRequired && w.Header().Get("X-Should-Retry") != "false" {
				t.Error("an SDK would try again")
			}
		})
	}
}

func TestABodyThatAsksForWhatItMayPassesByteForByte(t *testing.T) {
	h := open(t, t.TempDir(), Limits{Rules: Rules{
		Models: []string{"gpt-5-mini", "o4*"}, Allow: []string{"service_tier"},
		Refuse: []string{"store", "previous_response_id", "item_reference", "conversation", "prompt", "hosted_tools", "files", "urls"},
	}})
	for _, body := range []string{
		`{"model":"gpt-5-mini","store":false}`,
		` {"store" : false, "mod\u0065l": "o4-mini", "n": 1.0e2, "service_tier":"flex", "previous_response_id":null }` + "\r\n",
		`{"model":"o4","store":false,"text":{"format":{"schema":{"properties":{"Model":{},"file_id":{},"tools":[{"type":"mcp"}]}}}},"metadata":{"Store":"x"}}`,
		`{"model":"o4","store":false,"tools":[{"type":"function","parameters":{"properties":{"type":{},"Type":{},"file_id":{"type":"string"}}}},{"type":"custom","format":{"type":"grammar"}},{"type":"local_shell"},` +
			`{"type":"namespace","name":"n","tools":[{"type":"function","parameters":{}}]},{"type":"tool_search","execution":"client","parameters":{}},{"type":"shell","environment":{"type":"local"}}]}`,
		`{"model":"o4","store":false,"input":[{"type":"message","role":"user","content":[{"type":"input_text","text":"half \ud83d of one"},{"type":"input_image","image_url":"data:image/png;base64,AA=="}]},` +
			`{"type":"reasoning","id":"rs_1","summary":[],"encrypted_content":"gAAA"},{"type":"function_call","id":"fc_1","call_id":"c","name":"n","arguments":"{}"},` +
			`{"type":"message","id":"msg_1","role":"assistant","content":[]},{"type":"computer_call","pending_safety_checks":[{"id":"a","code":"b"}]}]}`,
	} {
		for name, edit := range map[string]func(*http.Request){
			"whole":      func(*http.Request) {},
			"in bytes":   func(r *http.Request) { r.Body = io.NopCloser(iotest.OneByteReader(r.Body)) },
			"of unknown": func(r *http.Request) { r.ContentLength, r.TransferEncoding = -1, []string{"chunked"} },
			"typed":      header("Content-Type", "application/json; charset=UTF-8"),
			"identity":   header("Content-Encoding", "identity"),
		} {
			upstream := &receives{}
			if w := call(t, h, "codex", body, upstream, edit); w.Code != 200 || upstream.body != body {
				t.Errorf("%s: %s got %d %s and reached the upstream as %s", name, body, w.Code, code(w), upstream.body)
			}
		}
	}
}

func TestAModelThatAToolNamesIsOneOfThoseAllowed(t *testing.T) {
	h := open(t, t.TempDir(), Limits{Rules: Rules{Models: []string{"gpt-5-mini", "gpt-image-1"}}})
	for model, want := range map[string]int{"gpt-image-1": 200, "gpt-image-2": 400} {
		body := `{"model":"gpt-5-mini","tools":[{"type":"image_generation","model":"` + model + `"}],"input":[{"type":"image_generation_call","id":"ig_1","result":"AA=="}]}`
		if w := call(t, h, "codex", body, &receives{}); w.Code != want {
			t.Errorf("%s got %d %s", model, w.Code, code(w))
		}
	}
}

func TestACeilingThatCompactDoesNotHaveShrinksNoReservation(t *testing.T) {
	h := open(t, t.TempDir(), Limits{Per: []Per{{Window: "1d", Tokens: 100_000}}})
	call(t, h, "codex", asking(1), handlerFunc(func(http.ResponseWriter, *http.Request) error {
		if got := h.book.held["codex"].tokens; got <= defaultOutput {
			t.Errorf("%d tokens are reserved", got)
		}
		return nil
	}), at("POST", "/v1/responses/compact"))
}

func TestTheCeilingIsPutInAndNothingElseChanges(t *testing.T) {
	h := open(t, t.TempDir(), Limits{Rules: Rules{MaxOutputTokens: 500}})
	for body, want := range map[string]string{
		`{}`:                                 `{"max_output_tokens":500}`,
		` { "model":"x" } `:                  ` {"max_output_tokens":500, "model":"x" } `,
		`{"a":[1 ,2],"a\n":"\u00e4"}`:        `{"max_output_tokens":500,"a":[1 ,2],"a\n":"\u00e4"}`,
		`{"max_output_tokens": null ,"a":1}`: `{"max_output_tokens": 500 ,"a":1}`,
		`{"max_output_tokens":500}`:          `{"max_output_tokens":500}`,
		`{"max_output_tokens":16}`:           `{"max_output_tokens":16}`,
		`{"x":{"max_output_tokens":9000}}`:   `{"max_output_tokens":500,"x":{"max_output_tokens":9000}}`,
	} {
		upstream := &receives{}
		if w := call(t, h, "codex", body, upstream); w.Code != 200 || upstream.body != want {
			t.Errorf("%s got %d %s and became %s, not %s", body, w.Code, code(w), upstream.body, want)
		}
		if !json.Valid([]byte(upstream.body)) {
			t.Errorf("%s is no JSON", upstream.body)
		}
	}
	upstream := &receives{}
	call(t, h, "codex", `{"a":1}`, upstream, func(r *http.Request) { r.URL.Path = "/v1/responses/compact" })
	if upstream.body != `{"a":1}` {
		t.Errorf("compact, which has no such member, became %s", upstream.body)
	}
}

func TestCostIsCountedByTheOperatorsPricesAndCapped(t *testing.T) {
	h := openPriced(t, Limits{Per: []Per{{Window: "1d", Cost: 2 * unit}}},
		[]Price{{"gpt-5*", 1 * unit, unit / 10, 10 * unit}, {"gpt-5-pro", 500 * unit, 500 * unit, 900 * unit}},
		[]Fee{{"web_search", unit / 100}})
	for body, want := range map[string]string{
		`{"model":"gpt-4.1"}`: "model_without_price",
		`{}`:                  "model_missing",
		`{"model":"gpt-5","tools":[{"type":"file_search"}]}`:                   "tool_without_fee",
		`{"model":"gpt-5","tools":[{"type":"web_searching"}]}`:                 "tool_without_fee",
		`{"model":"gpt-5","service_tier":"priority"}`:                          "service_tier_refused",
		`{"model":"gpt-5","prompt":{"id":"p"}}`:                                "prompt_refused",
		`{"model":"gpt-5","background":true}`:                                  "background_refused",
		`{"model":"gpt-5","tools":[{"type":"web_search_preview_2025_03_11"}]}`: "",
	} {
		if w := call(t, h, "codex", body, &receives{}); code(w) != want {
			t.Errorf("%s got %d %s, not %q", body, w.Code, code(w), want)
		}
	}
	// 600 at 1, 400 at 0.1 and 100 at 10 a million, and two searches
	if got, want := spentBy(t, h, "codex", "1d").Cost, Money(600+40+1000)+unit/50; got != want {
		t.Errorf("a request is charged %s, not %s", got, want)
	}
	w := call(t, h, "codex", `{"model":"gpt-5-pro","max_output_tokens":2500}`, costs(10, 2500))
	if w.Code != 200 {
		t.Fatalf("what crosses the limit got %d %s", w.Code, w.Body)
	}
	w = call(t, h, "codex", `{"model":"gpt-5"}`, &receives{})
	if w.Code != 429 || code(w) != "budget_exhausted" || !strings.Contains(w.Body.String(), "budget of 2 per 1d") {
		t.Errorf("the next got %d %s", w.Code, w.Body)
	}
	h.book.forgive("codex", h.book.latest)
	if w := call(t, h, "codex", `{"model":"gpt-5"}`, &receives{}); w.Code != 200 {
		t.Errorf("what was forgiven is not: %d %s", w.Code, w.Body)
	}
}

func TestMoneyIsExact(t *testing.T) {
	for text, want := range map[string]Money{"20": 20 * unit, "0.05": 50_000, "0.000001": 1, "100000000": 100_000_000 * unit, "1.10": 1_100_000} {
		got, err := parseMoney(text)
		if err != nil || got != want {
			t.Errorf("%s is %d, %v", text, got, err)
		}
		var again Money
		if encoded, err := json.Marshal(got); err != nil || json.Unmarshal(encoded, &again) != nil || again != got {
			t.Errorf("%s became %s and %s", text, encoded, again)
		}
	}
	for _, text := range []string{"", "-1", "1.", ".5", "1e3", "0.0000001", "100000001", "1,5", "$1", "1 ", "0x1", "99999999999999999999"} {
		if got, err := parseMoney(text); err == nil {
			t.Errorf("%q is taken for %s", text, got)
		}
	}
	var sum Money
	price := Price{Input: 100_000} // 0.1 a million, which no float has
	for range 1_000_000 {
		sum += price.cost(Spent{Input: 10})
	}
	if sum != unit {
		t.Errorf("a million times ten tokens at 0.1 cost %s", sum)
	}
	if got := (Price{Input: maxPrice, Output: maxPrice}).cost(Spent{Input: maxTokens, Output: maxTokens}); got < 0 || got > 3*maxPrice {
		t.Errorf("what no answer can have cost is charged %s", got)
	}
}

func TestWhatRulesContradictIsRefusedAtTheStart(t *testing.T) {
	for config, want := range map[string]string{
		"refuse all":                  "write one of background, store,",
		"refuse store store":          "stands there twice",
		"refuse prompt\nallow prompt": "refused and allowed",
		"allow store":                 "needs no permission",
		"models gpt-5*x":              "write a model",
		"per 1d {\ncost 5\n}":         "no model has a price",
		"per 1d {\ncost 5\n}\nprice a 1 1 1\nmodels b":  "this model has no price",
		"per 1d {\ncost 5\n}\nprice a 1 1 1\nmodels a*": "this model has no price",
		"per 1d {\ntokens 5\n}\nallow background":       "cannot be allowed",
		"price a 1 1":                  "argument",
		"price a 1 1 1\nprice a 2 2 2": "stands there twice",
		"price a 1 1 x":                "write an amount",
		"price a 1 1 1e6":              "write an amount",
		"fee web_search_preview 1":     "of no others",
		"per 1d {\ncost 0\n}":          "more than 0",
		"max_output_tokens 0":          "1 or more",
		"refuse":                       "argument",
	} {
		h := new(Handler)
		err := h.UnmarshalCaddyfile(caddyfile.NewTestDispenser("responses_budget {\n" + config + "\n}"))
		if err == nil {
			err = h.resolve()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", config, err)
		}
	}
}

func TestAClientsRulesStandInPlaceOfThoseOfAll(t *testing.T) {
	h := open(t, t.TempDir(), Limits{Rules: Rules{Models: []string{"a"}, MaxOutputTokens: 10}},
		Client{Name: "ci", Limits: Limits{Rules: Rules{Models: []string{"b"}}}})
	for user, allowed := range map[string]string{"codex": "a", "ci": "b"} {
		for _, model := range []string{"a", "b"} {
			upstream := &receives{}
			w := call(t, h, user, `{"model":"`+model+`"}`, upstream)
			if (w.Code == 200) != (model == allowed) || w.Code == 200 && !strings.Contains(upstream.body, `"max_output_tokens":10`) {
				t.Errorf("%s got %d for %s: %s", user, w.Code, model, upstream.body)
			}
		}
	}
}

func TestABodyIsLetGoWhenItIsSent(t *testing.T) {
	first, second := bytes.Repeat([]byte("a"), 100), bytes.Repeat([]byte("b"), 100)
	reader := &heldBody{pieces: bodyPieces{first, nil, second}}
	if got, err := io.ReadAll(iotest.OneByteReader(reader)); err != nil || string(got) != string(first)+string(second) {
		t.Errorf("it reads %q, %v", got, err)
	}
	if reader.pieces[0] != nil || reader.pieces[2] != nil {
		t.Error("it still holds what was sent")
	}
}
