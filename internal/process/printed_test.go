package process

import (
	"strings"
	"testing"
)

func TestCaddyRunEnvironIsSeenInEverySpelling(t *testing.T) {
	for line, want := range map[string]bool{
		"caddy run --environ --config /etc/caddy/Caddyfile": true, // the packaged unit
		"caddy run --config f --environ":                    true,
		"caddy run -e":                                      true,
		"caddy run -we -c f":                                true,
		"caddy run -ewc f":                                  true,
		"caddy --environ run":                               true,
		"caddy run --environ=true":                          true,
		"caddy run -e=1":                                    true,
		"caddy run --environ=false":                         false,
		"caddy run -e=false":                                false,
		"caddy run --environ --environ=false":               false,
		"caddy run":                                         false,
		"caddy run -c environ --envfile e":                  false,
		"caddy run -ce":                                     false,
		"caddy run -wafe":                                   false,
		"caddy run -- --environ":                            false,
		"caddy environ":                                     false,
		"caddy validate --environ":                          false,
		"caddy responses-proxy -e":                          false,
		"caddy":                                             false,
	} {
		if got := printsEnvironment(strings.Fields(line)); got != want {
			t.Errorf("%s: %v, want %v", line, got, want)
		}
	}
}

func TestDebugOutputOfHTTP2IsRefused(t *testing.T) {
	for value, refused := range map[string]bool{
		"http2debug=1": true, "http2debug=2": true, "netdns=go,http2debug=1": true, "http2debug=2,x=1": true,
		"": false, "http2debug=0": false, "http2client=0": false,
	} {
		if err := refuseDebugOutput(value); (err != nil) != refused {
			t.Errorf("GODEBUG=%s: %v", value, err)
		}
	}
}
