// Command caddy is Caddy with its standard modules and the gate built in.
//
// It is the development twin of what xcaddy builds: the same modules, for
// "go run ./cmd/caddy" and for the tests.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/responses-proxy-gate/caddy-responses-proxy-gate"
)

func main() {
	caddycmd.Main()
}
