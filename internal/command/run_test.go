package command

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

func TestNoVariableOfTheCommandHasAKey(t *testing.T) {
	const inherited, inFile = "sk-inherited-0123456789", "sk-in-the-file-0123456789"
	environment := []string{
		"OPENAI_API_KEY=" + inherited, "SAME=" + inherited, "PART=a " + inherited + " b",
		"OTHER=" + inFile, "URL=https://x:" + inFile + "@host", "PATH=/bin", "EMPTY=",
	}
	if got, want := withoutKeys(environment, []string{inherited, inFile}), []string{"PATH=/bin", "EMPTY="}; !slices.Equal(got, want) {
		t.Errorf("left: %q, want %q", got, want)
	}
	if got := withoutKeys(environment, []string{""}); !slices.Equal(got, environment[1:]) {
		t.Errorf("without a key: %q, want all but OPENAI_API_KEY", got)
	}
}

func TestAShortKeyTakesNoVariableThatOnlyHasItInAWord(t *testing.T) {
	environment := []string{"OPENAI_API_KEY=local", "COPY=local", "LINE=local\n", "PATH=/usr/local/bin:/bin", "HOME=/home/local"}
	if got, want := withoutKeys(environment, []string{"local"}), environment[3:]; !slices.Equal(got, want) {
		t.Errorf("left: %q, want %q", got, want)
	}
}

func TestBothTheInheritedKeyAndTheFilesAreLookedFor(t *testing.T) {
	old := gate
	t.Cleanup(func() { gate = old })
	gate = Gate{
		UseKey: func(secret.Secret) { t.Error("the inherited key is used beside a file") },
		ReadKeyFile: func(option, path string) (secret.Secret, error) {
			if path != "/the/key" {
				return secret.Secret{}, errors.New(option + " " + path)
			}
			return secret.New("in-the-file"), nil
		},
	}
	t.Setenv(keyVariable, "inherited\n")
	keys, err := (&proxyOptions{keyFile: "/the/key"}).takeKeys()
	if err != nil || !slices.Equal(keys, []string{"inherited", "in-the-file"}) {
		t.Errorf("%q (%v)", keys, err)
	}
	if value, set := os.LookupEnv(keyVariable); set {
		t.Errorf("%s is still %q", keyVariable, value)
	}
	if _, err := (&proxyOptions{keyFile: "/none"}).takeKeys(); err == nil || err.Error() != "--key-file /none" {
		t.Errorf("a file that cannot be read: %v", err)
	}
}
