package responsesproxygate

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

// literalSecret stands for a key that somebody writes into a Caddyfile.
const literalSecret = "sk-proj-Literal-0123456789abcdefghij"

// FuzzACaddyfileTellsNoSecret parses the inside of a gate's block. What is
// accepted is the same again after a trip through JSON, and the secret is
// neither in it nor in an error, unless the operator insists.
func FuzzACaddyfileTellsNoSecret(f *testing.F) {
	f.Add("upstream_bearer {env.OPENAI_API_KEY}\n")
	f.Fuzz(func(t *testing.T, block string) {
		text := "responses_proxy_gate {\n" + strings.ReplaceAll(block, "SECRET", literalSecret) + "\n}\n"
		tokens, err := caddyfile.Tokenize([]byte(text), "Caddyfile")
		if err != nil {
			return // Caddy's own error
		}
		var gate Handler
		if err := gate.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			if strings.Contains(err.Error(), literalSecret) && secretOption(block) {
				t.Errorf("the error quotes the secret: %v", err)
			}
			return
		}
		encoded, err := json.Marshal(&gate)
		if err != nil {
			t.Fatal(err)
		}
		var again Handler
		decoder := json.NewDecoder(bytes.NewReader(encoded))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&again); err != nil {
			t.Fatalf("%v: %s", err, encoded)
		}
		if twice, err := json.Marshal(&again); err != nil || !bytes.Equal(encoded, twice) || !reflect.DeepEqual(gate, again) {
			t.Errorf("%s is %s after a trip through JSON, %v", encoded, twice, err)
		}
		var secrets []string
		secrets = append(secrets, gate.UpstreamBearer, gate.Token)
		for _, client := range gate.Client {
			secrets = append(secrets, client.Token)
		}
		for _, written := range secrets {
			if strings.Contains(written, literalSecret) && !strings.Contains(block, "literal_secret") {
				t.Errorf("the secret gets into the config: %s", encoded)
			}
		}
	})
}

// secretOption reports whether every SECRET in a block stands on a line of its
// own or behind an option that is for a secret. Elsewhere it is a path, a name
// or an origin, which an error has to quote. Words that go on over several
// lines are left alone.
func secretOption(block string) bool {
	if strings.ContainsAny(block, "\\`") || strings.Contains(block, "<<") {
		return false
	}
	for line := range strings.Lines(block) {
		if strings.Count(line, `"`)%2 != 0 {
			return false
		}
		if !strings.Contains(line, "SECRET") {
			continue
		}
		switch words := strings.Fields(line); words[0] {
		case "SECRET", "upstream_bearer", "upstream_bearer_file", "token":
		default:
			return false
		}
	}
	return true
}
