package responsesproxygate

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// testKey is an operator's key that no test may see in print. It has digits
// and letters only, so that no encoding changes it.
const testKey = "skOperatorKeyThatNobodyMayEverSee0123456789"

// keyOf is the key that a credential presents now.
func keyOf(c *credential) string { return c.current().key.Reveal() }

// leaks reports whether text has the key, in any of the ways that fmt has.
func leaks(text string) bool {
	for _, form := range []string{testKey, fmt.Sprintf("%x", testKey), fmt.Sprintf("%X", testKey), strings.Trim(fmt.Sprint([]byte(testKey)), "[]")} {
		if strings.Contains(text, form) {
			return true
		}
	}
	return false
}

// holders are the ways in which the code keeps a key or a token.
func holders() map[string]any {
	s := secret.New(testKey)
	c := newCredential("Authorization", 1)
	c.use(s)
	h := &Handler{Name: "default", credential: c, callers: tokensOf("default", s.Reveal()).callers}
	type exported struct{ Key secret.Secret }
	type unexported struct{ key secret.Secret }
	type nested struct{ inner *unexported }
	return map[string]any{
		"a secret":                           s,
		"a pointer to one":                   &s,
		"a struct with an exported field":    exported{s},
		"a pointer to such a struct":         &exported{s},
		"a struct with an unexported field":  unexported{s},
		"a pointer to this struct":           &unexported{s},
		"a struct that points at the struct": nested{&unexported{s}},
		"a list":                             []secret.Secret{s},
		"a map":                              map[string]secret.Secret{"key": s},
		"an interface in a list":             []any{s, &s},
		"a credential":                       c,
		"what a credential presents":         c.current(),
		"what it presents, by value":         *c.current(),
		"a handler":                          h,
		"a caller":                           h.callers[0].caller,
		"a configured caller":                h.callers[0],
		"a policy":                           &policy{tokens: tokensOf("default", s.Reveal())},
		"an event hook":                      startedHook{h},
		"another event hook":                 stoppingHook{handler: h},
	}
}

func TestASecretIsNeverPrinted(t *testing.T) {
	for name, holder := range holders() {
		t.Run(name, func(t *testing.T) {
			for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "% x", "%d", "%c", "%U", "%t", "%p", "%T", "%20v", "%!", "%w"} {
				if printed := fmt.Sprintf(verb, holder); leaks(printed) { //nolint:govet // odd verbs are the point
					t.Errorf("%s prints %s", verb, printed)
				}
			}
			if printed := fmt.Sprintln(holder, holder); leaks(printed) {
				t.Errorf("Sprintln prints %s", printed)
			}
			if err := fmt.Errorf("failed with %v", holder); leaks(err.Error()) {
				t.Errorf("an error says %s", err)
			}
		})
	}
}

func TestASecretIsNeverEncoded(t *testing.T) {
	for name, holder := range holders() {
		encoded, err := json.Marshal(holder)
		if leaks(string(encoded)) || err != nil && leaks(err.Error()) {
			t.Errorf("%s as JSON: %s (%v)", name, encoded, err)
		}
	}
	encoded, err := json.Marshal(map[string]secret.Secret{"key": secret.New(testKey)})
	if err != nil || string(encoded) != `{"key":"REDACTED"}` {
		t.Errorf("got %s, %v", encoded, err)
	}
}

func TestASecretIsNeverLogged(t *testing.T) {
	config := zap.NewProductionEncoderConfig()
	for encoderName, newEncoder := range map[string]func(zapcore.EncoderConfig) zapcore.Encoder{
		"json": zapcore.NewJSONEncoder, "console": zapcore.NewConsoleEncoder,
	} {
		for name, holder := range holders() {
			var out bytes.Buffer
			observed, entries := observer.New(zap.DebugLevel)
			logger := zap.New(zapcore.NewTee(zapcore.NewCore(newEncoder(config), zapcore.AddSync(&out), zap.DebugLevel), observed))
			logger.Info("holder", zap.Any("any", holder), zap.Reflect("reflected", holder), zap.String("sprinted", fmt.Sprint(holder)))
			logger.Sugar().Infow("sugar", "holder", holder)
			logger.Sugar().Infof("sugar %v %+v", holder, holder)
			logger.Error("error", zap.Error(fmt.Errorf("with %+v", holder)))
			if leaks(out.String()) {
				t.Errorf("%s, with the %s encoder: %s", name, encoderName, out.String())
			}
			for _, entry := range entries.All() {
				if printed := fmt.Sprintf("%+v", entry.ContextMap()); leaks(printed) {
					t.Errorf("%s, to another core: %s", name, printed)
				}
			}
			if entries.Len() != 4 || out.Len() == 0 {
				t.Errorf("%s: %d entries were logged", name, entries.Len())
			}
		}
	}
}
