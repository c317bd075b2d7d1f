package command

import (
	"encoding/json"
	"fmt"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// addRuleFlags adds the flags that say what requests may ask for.
func addRuleFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringArray("allow-model", nil, "Model that may be asked for, or the beginning of its name and * (repeatable; default: any)")
	flags.Int64("max-output-tokens", 0, "How many tokens an answer may have; requests that name no number get this one")
	flags.StringArray("refuse", nil, "What requests may not ask for: store, previous_response_id, hosted_tools … (repeatable; docs/budgets.md has all)")
	flags.StringArray("price", nil, "What a million tokens of a model cost, as \"MODEL INPUT CACHED_INPUT OUTPUT\", for --budget \"20 cost per 24h\" (repeatable)")
	flags.StringArray("fee", nil, "What a call of a tool costs that runs at the API, as \"TOOL AMOUNT\" (repeatable)")
}

// ruleFlags reads them, as the budget's JSON has them. The budget checks them.
func ruleFlags(flags caddycmd.Flags) (object, error) {
	rules := object{}
	list := func(flag string) []string {
		values, _ := flags.GetStringArray(flag) // (it is one)
		return values
	}
	if models := list("allow-model"); len(models) > 0 {
		rules["models"] = models
	}
	if refuse := list("refuse"); len(refuse) > 0 {
		rules["refuse"] = refuse
	}
	if flags.Changed("max-output-tokens") {
		n, err := flags.GetInt64("max-output-tokens")
		if err != nil || n < 1 {
			return nil, fmt.Errorf("--max-output-tokens: write a number of 1 or more")
		}
		rules["max_output_tokens"] = n
	}
	var prices, fees []object
	for _, price := range list("price") {
		words := strings.Fields(price)
		if len(words) != 4 || !areAmounts(words[1:]) {
			return nil, fmt.Errorf("--price %q: write \"MODEL INPUT CACHED_INPUT OUTPUT\", per million tokens, such as \"gpt-5-mini 0.25 0.025 2\"", price)
		}
		prices = append(prices, object{"model": words[0], "input": json.Number(words[1]), "cached_input": json.Number(words[2]), "output": json.Number(words[3])})
	}
	for _, fee := range list("fee") {
		words := strings.Fields(fee)
		if len(words) != 2 || !areAmounts(words[1:]) {
			return nil, fmt.Errorf("--fee %q: write \"TOOL AMOUNT\", such as \"web_search 0.01\"", fee)
		}
		fees = append(fees, object{"tool": words[0], "call": json.Number(words[1])})
	}
	if prices != nil {
		rules["price"] = prices
	}
	if fees != nil {
		rules["fee"] = fees
	}
	return rules, nil
}

// areAmounts reports whether each word is a decimal number.
func areAmounts(words []string) bool {
	for _, word := range words {
		if !json.Valid([]byte(word)) || strings.Trim(word, "0123456789.") != "" {
			return false
		}
	}
	return true
}
