package command

import (
	"errors"
	"slices"
	"testing"
)

// given are the flags of a command line.
type given []string

func (g given) Changed(name string) bool { return slices.Contains(g, name) }

func TestAnErrorOfTheGatesIsSaidInTheWordsOfTheFlags(t *testing.T) {
	const path = "loading http app module: provision http: server responses_proxy: setting up route handlers: route 0: loading handler modules: position 0: loading module 'responses_proxy_gate': "
	flags := given{"server-info", "allow-route"}
	for said, want := range map[string]string{
		path + "provision http.handlers.responses_proxy_gate: gate default: server_info /tmp/x: it is a directory; remove it":           "--server-info /tmp/x: it is a directory; remove it",
		path + "http.handlers.responses_proxy_gate: invalid configuration: gate default: allow_route get /v1: the method is one of GET": "--allow-route get /v1: the method is one of GET",
		path + "provision http.handlers.responses_proxy_gate: gate default: listener 0.0.0.0:1 is not loopback":                         "listener 0.0.0.0:1 is not loopback",
		"server_info /x: its directory could not be made":                                                                               "--server-info /x: its directory could not be made",
		"listening on 127.0.0.1:80: permission denied":                                                                                  "listening on 127.0.0.1:80: permission denied",
	} {
		if got := plain(errors.New(said), flags).Error(); got != want {
			t.Errorf("it says %q, want %q", got, want)
		}
	}
}
