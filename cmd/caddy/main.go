// Command caddy is Caddy with its standard modules and the gate built in.
//
// It is the development twin of what xcaddy builds: the same modules, for
// "go run ./cmd/caddy" and for the tests.
package main

import (
	"fmt"
	"os"
	"slices"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/responses-proxy-gate/caddy-responses-proxy-gate"
)

func main() {
	if len(os.Args) > 1 && slices.Contains(changers, os.Args[1]) {
		fmt.Fprintf(os.Stderr, "caddy %s: this is the development build, whose modules Caddy does not know by their versions; "+
			"build with xcaddy and a --with for each plugin, as README.md says\n", os.Args[1])
		os.Exit(1)
	}
	caddycmd.Main()
}

// changers download another program in place of this one. Caddy's own would
// panic here, where the gate is the main module and no plugin.
var changers = []string{"upgrade", "add-package", "remove-package"}
