package budget

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
)

// told is what encoding/json finds in an answer, or in an event's response.
func told(value any) (u usage) {
	response, _ := value.(map[string]any)
	u.model, _ = response["model"].(string)
	if len(u.model) > maxText {
		u.model = ""
	}
	object, _ := response["usage"].(map[string]any)
	number := func(object any, name string) (int64, bool) {
		fields, _ := object.(map[string]any)
		n, ok := fields[name].(float64)
		if !ok || n < 0 || n > maxTokens || n != math.Trunc(n) {
			return 0, false
		}
		return int64(n), true
	}
	var in, out bool
	u.input, in = number(object, "input_tokens")
	u.output, out = number(object, "output_tokens")
	u.cached, _ = number(object["input_tokens_details"], "cached_tokens")
	u.reasoning, _ = number(object["output_tokens_details"], "reasoning_tokens")
	u.told = in && out
	items, _ := response["output"].([]any)
	for _, item := range items {
		item, _ := item.(map[string]any)
		kind, _ := item["type"].(string)
		u.calls.add(kind)
	}
	return u
}

var answers = []string{
	`{"model":"gpt-5","usage":{"input_tokens":12,"input_tokens_details":{"cached_tokens":3},"output_tokens":34,"output_tokens_details":{"reasoning_tokens":5},"total_tokens":46}}`,
	`{"usage":null}`, `{"usage":{"input_tokens":1}}`, `{"usage":{"input_tokens":"1","output_tokens":2}}`,
	`{"us\u0061ge":{"input_tok\u0065ns":1e3,"output_tokens":2.0}}`, `{"usage":{"input_tokens":1,"output_tokens":2},"usage":{}}`,
	`{"usage":{"input_tokens":1,"output_tokens":2,"input_tokens":7}}`, `{"usage":{"input_tokens":-1,"output_tokens":1.5}}`,
	`{"a":{"usage":{"input_tokens":9,"output_tokens":9}},"b":["usage",{"usage":[]}],"usage":{"input_tokens":1,"output_tokens":2}}`,
	`{"text":"\"usage\":{\"input_tokens\":99} \\","model":"\ud83d\ude00","usage" : { "output_tokens" : 2 , "input_tokens" : 1 } } `,
	`{"output":[{"type":"web_search_call","id":"a"},{"type":"message","content":[{"type":"mcp_call"}]},{"id":"b","type":"web_search_call"},3,[{"type":"mcp_call"}]],"item":{"type":"mcp_call"}}`,
	`{"output":[{"type":"mcp_call"}],"output":[ ] ,"usage":{"input_tokens":1,"output_tokens":2}}`, `{"output":[{"type":"mcp_call","type":"shell_call"},{}],"model":"x"}`,
	`[]`, `3}"a":1`, ``, `{`, `{"usage":{"input_tokens":99999999999999999999,"output_tokens":1}}`, `{"":{},"model":[[{"]}":"\\\""}]]}`,
}

func FuzzAnswersCostWhatEncodingJSONReads(f *testing.F) {
	for i, answer := range answers {
		f.Add(answer, uint8(i))
	}
	f.Fuzz(func(t *testing.T, answer string, step uint8) {
		s := newScanner(placeResponse)
		feed([]byte(answer), step, s.feed)
		var value any
		if err := json.Unmarshal([]byte(answer), &value); err != nil {
			return // (it must only not panic)
		}
		want := told(value)
		if _, object := value.(map[string]any); !object {
			want = usage{}
		} else if !s.done {
			t.Fatalf("the end of %q was not seen", answer)
		}
		if got := s.usage(); got != want && !strings.ContainsRune(answer, '\ufffd') && !strings.Contains(want.model, "\ufffd") && !wide(want.model) {
			t.Errorf("%q: got %+v, want %+v", answer, got, want)
		}
	})
}

// wide reports whether a model's name has letters beyond the basic plane, whose
// escapes the scanner does not join: no model's name has them.
func wide(model string) bool {
	return strings.ContainsFunc(model, func(r rune) bool { return r > 0xffff })
}

// feed gives text to a function in pieces of varying length.
func feed(text []byte, step uint8, to func([]byte)) {
	for n := step; len(text) > 0; n = n*7 + 3 {
		piece := min(len(text), int(n%17)+1)
		to(text[:piece])
		text = text[piece:]
	}
}
