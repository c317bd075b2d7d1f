package budget

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/go-json-experiment/json/jsontext"
)

// names that matter, by place. One that differs from them in case alone is
// refused: Go's usual parser, for one, would take it for them.
var (
	rootNames = []string{
		"model", "max_output_tokens", "background", "store", "previous_response_id", "conversation", "prompt", "service_tier",
		"tools", "input", "max_tool_calls", "models", "plugins", "fallbacks",
	}
	toolNames  = append([]string{"model"}, innerNames...)
	innerNames = []string{
		"type", "id", "role", "content", "encrypted_content", "result", "tools", "environment", "execution", "file_id", "file_ids", "vector_store_ids",
		"container", "container_id", "skill_id", "image_url", "file_url", "server_url", "connector_id", "parameters", "input_schema", "output_schema", "metadata",
	}
)

// readName reads the name of a member. One that does not matter is empty.
func readName(d *jsontext.Decoder, at bodyPlace) (string, error) {
	raw, err := d.ReadValue()
	known := innerNames
	switch {
	case err != nil || at == bodyOther:
		return "", err
	case at == bodyRoot:
		known = rootNames
	case at == bodyTool:
		known = toolNames
	}
	if !isPlainName(raw) {
		name, err := jsontext.AppendUnquote(nil, raw)
		if err != nil || isAmbiguous(string(name), known) {
			return "", errNotStrict
		}
		return string(name), nil
	}
	name := raw[len(`"`) : len(raw)-len(`"`)]
	for _, k := range known {
		if string(name) == k {
			return k, nil
		}
	}
	if string(name) == "status" {
		return "status", nil
	}
	return "", nil
}

// isPlainName reports whether every parser reads a name alike, and as it stands there.
// Few have anything else: this is fast, and needs no copy.
func isPlainName(raw []byte) bool {
	return !slices.ContainsFunc(raw, func(c byte) bool { return c == '\\' || c >= utf8.RuneSelf || 'A' <= c && c <= 'Z' })
}

// isAmbiguous reports whether another parser may take a name for one that
// matters: Go's ignores case, some drop what is no UTF-8, and some end at a zero.
func isAmbiguous(name string, known []string) bool {
	for _, k := range known {
		if name != k && strings.EqualFold(name, k) {
			return true
		}
	}
	return strings.ContainsAny(name, "\ufffd\x00")
}
