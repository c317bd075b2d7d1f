package budget

import (
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
)

// opening is a set of what a body can open beside an answer to its caller.
type opening uint16

const (
	openBackground opening = 1 << iota
	openStore
	openPreviousResponse
	openItemReference
	openConversation
	openPrompt
	openServiceTier
	openHostedTools
	openMCP
	openFiles
	openURLs
)

// openings are the words of refuse and allow, and what a caller is told.
var openings = []struct {
	is     opening
	word   string
	advice string
}{
	{openBackground, "background", `This server refuses responses in the background. Leave "background" out.`},
	{openStore, "store", `This server refuses responses that the API keeps, and the API keeps them by default. Send "store": false.`},
	{openPreviousResponse, "previous_response_id", `This server refuses to go on with a stored response: it may be another caller's. Leave "previous_response_id" out, and send the whole conversation as input.`},
	{openItemReference, "item_reference", `This server refuses references to stored items: they may be another caller's. Send each item whole, and reasoning with its encrypted_content.`},
	{openConversation, "conversation", `This server refuses stored conversations: they may be another caller's. Leave "conversation" out, and send the whole conversation as input.`},
	{openPrompt, "prompt", `This server refuses stored prompts: they bring a model and tools that it does not see. Leave "prompt" out, and send its text.`},
	{openServiceTier, "service_tier", `This server refuses service tiers other than the default: they have other prices. Leave "service_tier" out.`},
	{openHostedTools, "hosted_tools", `This server refuses tools that run at the API, such as web_search. Offer only tools that the caller runs itself, such as function and custom.`},
	{openMCP, "mcp", `This server refuses tools of MCP servers and connectors: the API would call them. Leave them out.`},
	{openFiles, "files", `This server refuses references to files, vector stores and containers at the API: they may be another caller's. Send the content itself.`},
	{openURLs, "urls", `This server refuses addresses that the API would fetch. Send images and files as data.`},
}

// implied is what is refused wherever bodies are judged, because it goes around
// the rules: unless the operator allows it.
const implied = openPrompt | openServiceTier | openBackground

// refusedOpenings are the answers, by what a body would open.
var refusedOpenings = func() map[opening]*refusal.Answer {
	answers := make(map[opening]*refusal.Answer)
	for _, o := range openings {
		answers[o.is] = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, o.word+"_refused", o.advice)
	}
	return answers
}()

// Rules are what a request's body may ask for. They are for POST /v1/responses
// and /v1/responses/compact; with any of them, other requests that cost
// something, WebSocket, compressed bodies and what is not strict JSON are refused.
type Rules struct {
	// The models that may be asked for, also by a tool: names, or beginnings of
	// names and `*`. Default: any model.
	Models []string `json:"models,omitempty"`

	// How many tokens an answer may have, reasoning included. A request that
	// asks for more is refused; one that names no number gets this one.
	// (compact has no such member: there it is not set.) Default: any number.
	MaxOutputTokens int64 `json:"max_output_tokens,omitempty"`

	// What requests may not ask for:
	//
	// - `background`: a response that goes on when its caller has left, and tells
	//   its cost to nobody who waits for it.
	// - `store`: a response that the API keeps, for every caller of the same key
	//   to read. Requests must say `"store": false`: the API keeps by default.
	// - `previous_response_id`: stored responses, of any caller: to go on with
	//   one, and the routes below /v1/responses/ that read and delete them.
	// - `item_reference`: stored items as input, of any caller: those with an id
	//   that do not come whole.
	// - `conversation`: stored conversations, of any caller; also their routes,
	//   and those of threads.
	// - `prompt`: a stored prompt, which brings a model and tools of its own.
	// - `service_tier`: a tier with another price or speed than the default one.
	// - `hosted_tools`: tools that run at the API: they search the web and
	//   files, run code and cost fees. `mcp` is among them.
	// - `mcp`: tools of other servers, which the API calls in the caller's stead,
	//   with what the caller gives it to log in.
	// - `files`: files, vector stores, containers and skills at the API, of any
	//   caller; also their routes, and those of batches, fine-tuning and evals.
	// - `urls`: addresses of images, files and servers, which the API fetches.
	//
	// With `models`, `cost` or `refuse`, also `prompt`, `service_tier` and
	// `background` are refused, unless `allow` has them. Default: nothing.
	Refuse []string `json:"refuse,omitempty"`

	// Which of `prompt`, `service_tier` and `background` may be asked for all the
	// same. `background` cannot be where tokens or cost are limited. Default: none.
	Allow []string `json:"allow,omitempty"`
}

// rules are a caller's Rules, resolved.
type rules struct {
	models    []string
	maxOutput int64
	refused   opening
	prices    *prices
	costs     bool // cost is limited
}

// resolveRules checks and resolves the rules of one caller.
func (r *Rules) resolve(per []limit, prices *prices) (*rules, error) {
	resolved := &rules{models: r.Models, maxOutput: r.MaxOutputTokens, prices: prices}
	for _, limit := range per {
		resolved.costs = resolved.costs || limit.cost > 0
	}
	for _, model := range r.Models {
		if !isModelPattern(model) {
			return nil, fmt.Errorf("models %q: write a model, or the beginning of its name and *", model)
		}
		priced := func(p Price) bool { return covers(p.Model, model) }
		if resolved.costs && !slices.ContainsFunc(prices.models, priced) {
			return nil, fmt.Errorf("models %s: cost is limited, and this model has no price; write: price %s <input> <cached input> <output>", model, model)
		}
	}
	if resolved.costs && len(prices.models) == 0 {
		return nil, errors.New("cost: no model has a price; write: price <model> <input> <cached input> <output>, per million tokens")
	}
	if r.MaxOutputTokens < 0 || r.MaxOutputTokens > maxTokens {
		return nil, errors.New("max_output_tokens: write a number of 1 or more")
	}
	refused, err := parseOpenings("refuse", r.Refuse)
	if err != nil {
		return nil, err
	}
	allowed, err := parseOpenings("allow", r.Allow)
	if err != nil {
		return nil, err
	}
	counted := resolved.costs || slices.ContainsFunc(per, func(l limit) bool { return l.tokens > 0 })
	switch {
	case refused&allowed != 0:
		return nil, fmt.Errorf("%s is refused and allowed; take it out of one", wordsOf(refused&allowed))
	case allowed&^implied != 0:
		return nil, fmt.Errorf("allow: %s needs no permission where refuse does not have it; only prompt, service_tier and background do", wordsOf(allowed&^implied))
	case counted && allowed&openBackground != 0:
		return nil, errors.New("allow: what a response in the background costs is told to nobody, so it cannot be allowed where tokens or cost are limited")
	}
	if len(r.Models) > 0 || resolved.costs || refused != 0 {
		refused |= implied &^ allowed
	}
	if counted {
		refused |= openBackground
	}
	if refused&openHostedTools != 0 {
		refused |= openMCP
	}
	resolved.refused = refused
	return resolved, nil
}

// over fills in from the rules of all callers what a client's leave out.
func (r Rules) over(all *Rules) *Rules {
	if len(r.Models) == 0 {
		r.Models = all.Models
	}
	if r.MaxOutputTokens == 0 {
		r.MaxOutputTokens = all.MaxOutputTokens
	}
	if len(r.Refuse) == 0 {
		r.Refuse = all.Refuse
	}
	if len(r.Allow) == 0 {
		r.Allow = all.Allow
	}
	return &r
}

// parseOpenings reads the words of refuse or allow.
func parseOpenings(option string, words []string) (set opening, err error) {
	for _, word := range words {
		i := slices.IndexFunc(openings, func(o struct {
			is     opening
			word   string
			advice string
		},
		) bool {
			return o.word == word
		})
		switch {
		case i < 0:
			return 0, fmt.Errorf("%s %s: write one of %s", option, word, wordsOf(^opening(0)))
		case set&openings[i].is != 0:
			return 0, fmt.Errorf("%s: %s stands there twice", option, word)
		}
		set |= openings[i].is
	}
	return set, nil
}

// wordsOf are the words for a set.
func wordsOf(set opening) string {
	var words []string
	for _, o := range openings {
		if set&o.is != 0 {
			words = append(words, o.word)
		}
	}
	return strings.Join(words, ", ")
}

// judges reports whether a body must be read.
func (r *rules) judges() bool {
	return len(r.models) > 0 || r.maxOutput > 0 || r.refused != 0 || r.costs
}

// judgePath finds what a path may not open: what is stored can be read, and
// deleted, without a body, too.
func (r *rules) judgePath(method, path string) *refusal.Answer {
	if r.refused&(openPreviousResponse|openConversation|openFiles) == 0 {
		return nil
	}
	if strings.ContainsAny(path, `%;\`) {
		return errRoute // some servers read another path there
	}
	segments := strings.Split(strings.ToLower(path), "/") // (and some in any case)
	for i, segment := range segments {
		var opens opening
		switch segment {
		case "responses":
			if below := strings.Join(segments[i+1:], "/"); below != "" && below != "compact" && below != "input_tokens" {
				opens = openPreviousResponse
			}
		case "completions":
			if method != http.MethodPost { // (which makes one, and is not counted)
				opens = openPreviousResponse
			}
		case "conversations", "threads":
			opens = openConversation
		case "files", "uploads", "vector_stores", "containers", "batches", "fine_tuning", "evals", "skills":
			opens = openFiles
		}
		if opens&r.refused != 0 {
			return refusedOpenings[opens]
		}
	}
	return nil
}

// judge finds what a body may not ask for. It also takes over the price and
// the ceiling of the answer.
func (r *rules) judge(asked *asked, found *request) *refusal.Answer {
	for _, o := range openings {
		if asked.opens&r.refused&o.is != 0 {
			return refusedOpenings[o.is]
		}
	}
	if len(r.models) > 0 || r.costs {
		switch {
		case !asked.modelIsPlain(), strings.Contains(asked.model, ".."): // (some gateways make a path of it)
			return errNoModel
		case asked.others:
			return errOtherModels
		case len(r.models) > 0 && !r.allowModels(append(asked.inTools, asked.model)):
			return errModel
		}
	}
	if r.maxOutput > 0 && asked.maxOutput > r.maxOutput {
		return errMoreOutput
	}
	switch {
	case asked.compact: // has no such member: whatever is written there bounds nothing
	case asked.maxOutput > 0:
		found.maxOutput = asked.maxOutput
	case r.maxOutput > 0:
		found.maxOutput = r.maxOutput
	}
	if !r.costs {
		return nil
	}
	price, ok := r.prices.of(asked.model)
	if !ok {
		return errNoPrice
	}
	found.price = &price
	for _, tool := range asked.tools {
		fee, ok := r.prices.fees[hostedTool(tool)]
		if !ok {
			return errNoFee
		}
		found.offered += fee
	}
	found.fees = r.prices.fees
	return nil
}

// allowModels reports whether all of these models may be asked for.
func (r *rules) allowModels(models []string) bool {
	for _, model := range models {
		if !isModel(model) || strings.Contains(model, "..") || !slices.ContainsFunc(r.models, func(pattern string) bool { return matches(pattern, model) }) {
			return false
		}
	}
	return true
}

var (
	errOtherModels = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "model_not_allowed",
		`This server limits the models. Name one as "model". Leave "models", "fallbacks" and "plugins" out: they bring others.`)
	errNoModel = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "model_missing",
		`This server limits the models, so each request must name one. Send "model", in this spelling, with the name as a string.`)
	errModel = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "model_not_allowed",
		"This caller may not use this model. The operator decides which it may use.")
	errNoPrice = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "model_without_price",
		"This server limits the cost, and the operator has not said what this model costs. Use another model, or ask the operator for a price.")
	errNoFee = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "tool_without_fee",
		"This server limits the cost, and the operator has not said what a call of this tool costs, which runs at the API. Leave the tool out, or offer tools that the caller runs itself.")
	errMoreOutput = refusal.NewFinal(codeHeaderName, http.StatusBadRequest, "max_output_tokens_too_large",
		"This caller may not have an answer as long as this request asks for. Leave max_output_tokens out, or ask for less.")
)
