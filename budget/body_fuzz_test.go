package budget

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
)

// aReader is how another program may read a body: the names of an object are
// looked up without regard to case, and of several the first or the last counts.
type aReader struct{ firstWins bool }

// pairs is an object as it stands there, every name as often as it does.
type pairs []pair

type pair struct {
	name  string
	value any
}

// parse reads one value, and does not mind what is behind it.
func (r aReader) parse(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := pairs{}
		for d.More() {
			name, err := d.Token()
			if err != nil {
				return nil, err
			}
			value, err := r.parse(d)
			if err != nil {
				return nil, err
			}
			object = append(object, pair{name.(string), value})
		}
		_, err = d.Token()
		return object, err
	case json.Delim('['):
		list := []any{}
		for d.More() {
			value, err := r.parse(d)
			if err != nil {
				return nil, err
			}
			list = append(list, value)
		}
		_, err = d.Token()
		return list, err
	}
	return token, nil
}

func (r aReader) get(object any, name string) (found any) {
	members, _ := object.(pairs)
	for _, p := range members {
		if strings.EqualFold(strings.ReplaceAll(p.name, "\ufffd", ""), name) {
			if found = p.value; r.firstWins {
				return found
			}
		}
	}
	return found
}

// opens is what such a reader finds that a body opens.
func (r aReader) opens(body any) (set opening) {
	when := func(is bool, what opening) {
		if is {
			set |= what
		}
	}
	given := func(name string) bool { return r.get(body, name) != nil }
	when(r.get(body, "background") == true, openBackground)
	when(r.get(body, "store") != false, openStore)
	when(given("previous_response_id"), openPreviousResponse)
	when(given("conversation"), openConversation)
	when(given("prompt"), openPrompt)
	tier := r.get(body, "service_tier")
	when(tier != nil && tier != "auto" && tier != "default", openServiceTier)
	tools, _ := r.get(body, "tools").([]any)
	set |= r.toolsOpen(tools)
	items, _ := r.get(body, "input").([]any)
	for _, item := range items {
		kind := r.get(item, "type")
		when(kind == "item_reference", openItemReference)
		when(kind == nil && r.get(item, "id") != nil && r.get(item, "content") == nil, openItemReference)
		found, _ := r.get(item, "tools").([]any)
		set |= r.toolsOpen(found)
		parts, _ := r.get(item, "content").([]any)
		for _, part := range parts {
			when(r.get(part, "file_id") != nil, openFiles)
			url, _ := r.get(part, "image_url").(string)
			when(strings.HasPrefix(url, "http"), openURLs)
			when(r.get(part, "file_url") != nil, openURLs)
		}
	}
	return set
}

func (r aReader) toolsOpen(tools []any) (set opening) {
	for _, tool := range tools {
		switch kind := r.get(tool, "type"); kind {
		case "web_search", "code_interpreter", "file_search", "image_generation":
			set |= openHostedTools
		case "mcp":
			set |= openHostedTools | openMCP
		}
		if r.get(tool, "vector_store_ids") != nil {
			set |= openFiles
		}
		if r.get(tool, "server_url") != nil {
			set |= openURLs
		}
		inner, _ := r.get(tool, "tools").([]any)
		set |= r.toolsOpen(inner)
	}
	return set
}

func FuzzWhatAnyOtherReaderFindsInABodyWasJudgedOrRefused(f *testing.F) {
	for _, body := range []string{
		`{"model":"gpt-5","max_output_tokens":10,"store":false,"background":false,"service_tier":"auto","input":"hi"}`,
		`{"model":"a","Model":"b"}`, `{"mod\u0065l":"a"}`, `{"model":"a","model":"b"}`, `{"model":"a"}{"model":"b"}`, `{"model":["a"]}`, `{"model":{"model":"a"}}`,
		"{\"model\xff\":\"a\"}", `{"\u017ftore":false}`, `{"store":null,"previous_response_id":"r","conversation":"c","prompt":{},"service_tier":"flex"}`,
		`{"tools":[{"type":"mcp","server_url":"u"},{"type":"function","parameters":{"type":"mcp"}},{"type":"namespace","tools":[{"type":"web_search"}]}]}`,
		`{"input":[{"id":"a"},{"type":"item_reference","id":"b"},{"role":"user","content":[{"type":"input_image","image_url":"https://a"},{"file_id":"f"},{"file_url":"u"}]},{"tools":[{"type":"mcp"}]}]}`,
		`{"max_output_tokens":null}`, `{"max_output_tokens":1e1}`, `{"max_output_tokens":"1"}`, `{"a":"\ud800"}`, `[]`, `{"a":[[[[{"b":{}}]]]]}`, "\xef\xbb\xbf{}", ` { } `,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		asked, err := readAsked(body, false)
		if err != nil {
			return // refused
		}
		// the usual parser, into what it finds by name in any case
		var usual struct {
			Model           any `json:"model"`
			MaxOutputTokens any `json:"max_output_tokens"`
			Background      any `json:"background"`
		}
		if err := json.Unmarshal(body, &usual); err != nil {
			t.Fatalf("%q was judged, and encoding/json says %v", body, err)
		}
		if model, _ := usual.Model.(string); model != asked.model {
			t.Errorf("%q: encoding/json reads the model %q, judged was %q", body, model, asked.model)
		}
		if ceiling, _ := usual.MaxOutputTokens.(float64); ceiling != float64(asked.maxOutput) {
			t.Errorf("%q: encoding/json reads a ceiling of %v, judged was %d", body, ceiling, asked.maxOutput)
		}
		// others
		for _, reader := range []aReader{{firstWins: true}, {firstWins: false}} {
			parsed, err := reader.parse(json.NewDecoder(bytes.NewReader(body)))
			if err != nil && !errors.Is(err, io.EOF) {
				t.Fatal(err)
			}
			if model, _ := reader.get(parsed, "model").(string); model != asked.model {
				t.Errorf("%q: %+v reads the model %q, judged was %q", body, reader, model, asked.model)
			}
			if opened := reader.opens(parsed); opened&^asked.opens != 0 {
				t.Errorf("%q: %+v finds %s, judged was %s", body, reader, wordsOf(opened), wordsOf(asked.opens))
			}
		}
		// and what is sent on is read alike
		if asked.maxOutput == 0 {
			sent := joined(asked.withCeiling(body, 7))
			again, err := readAsked(sent, false)
			if err != nil || again.maxOutput != 7 || again.model != asked.model || again.opens != asked.opens {
				t.Errorf("%q became %q, which reads %+v, %v", body, sent, again, err)
			}
		}
	})
}

func joined(pieces bodyPieces) []byte { return bytes.Join(pieces[:], nil) }
