//go:build unix

package gatetest

import (
	"strings"
	"testing"
)

func TestOnlyCaddysOwnRaceIsForgiven(t *testing.T) {
	const (
		frame    = "github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy."
		cleanup  = frame + "(*Handler).cleanupConnections()"
		answer   = frame + "(*Handler).finalizeResponse()"
		request  = frame + "(*Handler).ServeHTTP()"
		transfer = frame + "Handler.copyResponse()"
		written  = "github.com/caddyserver/caddy/v2/modules/caddyhttp.(*hijackedConn).Write()"
		copied   = "github.com/caddyserver/caddy/v2/modules/caddyhttp.(*hijackedConn).ReadFrom()"
		gate     = "github.com/responses-proxy-gate/caddy-responses-proxy-gate.(*Handler).forward()"
	)
	report := func(first, one, second, other string) string {
		return "{}\n==================\nWARNING: DATA RACE\n" + first + " at 0x00c0 by goroutine 1:\n  " + one + "\n      /a.go:1 +0x1\n  " + gate +
			"\n\n" + second + " at 0x00c0 by goroutine 2:\n  " + other + "\n      /b.go:2 +0x2\n  " + gate + "\n==================\n"
	}
	for name, c := range map[string]struct {
		out  string
		want bool
	}{
		"none":                                   {"a quiet run\n", false},
		"a reload and an answer":                 {report("Write", cleanup, "Previous read", answer), false},
		"a reload and a request":                 {report("Write", cleanup, "Previous read", request), false},
		"a reload and a transfer, the other way": {report("Read", transfer, "Previous write", cleanup), false},
		"an exit and a WebSocket's last message": {report("Read", written, "Previous write", copied), false},
		"a WebSocket and the gate":               {report("Read", written, "Previous write", gate), true},
		"a WebSocket and a reload":               {report("Read", written, "Previous write", cleanup), true},
		"a reload and the gate":                  {report("Write", cleanup, "Previous read", gate), true},
		"two answers":                            {report("Write", answer, "Previous read", answer), true},
		"the gate alone":                         {report("Write", gate, "Previous write", gate), true},
		"Caddy's, and the gate's": {
			report("Write", cleanup, "Previous read", answer) + report("Read", gate, "Previous write", gate), true,
		},
	} {
		if got := hasRace(strings.ReplaceAll(c.out, "\n", "\n        ")); got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
		if got := hasRace(c.out); got != c.want {
			t.Errorf("%s, not indented: got %v, want %v", name, got, c.want)
		}
	}
}
