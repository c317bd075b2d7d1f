package command

import (
	"errors"
	"regexp"
	"strings"
)

// inConfig is Caddy's path through a config to the gate that does not start.
var inConfig = regexp.MustCompile(`(?s)^(?:.*http\.handlers\.responses_proxy_gate: )?(?:invalid configuration: )?(?:gate ` + commandGate + `: )?([a-z_]*)(.*)$`)

// plain is what the gate says of a config that the command has made, without the
// way to it, and with the flag that was given in place of the option.
func plain(err error, flags interface{ Changed(string) bool }) error {
	if err == nil {
		return nil
	}
	found := inConfig.FindStringSubmatch(err.Error()) // (it matches everything)
	option, rest := found[1], found[2]
	if flag := strings.ReplaceAll(option, "_", "-"); flags.Changed(flag) {
		option = "--" + flag
	}
	return errors.New(option + rest)
}
