package process

import (
	"errors"
	"os"
	"slices"
	"strings"
)

// godebug is what net/http saw when it was initialized. Later changes come too
// late, in both directions.
var godebug = os.Getenv("GODEBUG")

// RefuseDebugOutput refuses a process in which net/http prints the headers of
// each HTTP/2 request, keys and tokens among them.
func RefuseDebugOutput() error { return refuseDebugOutput(godebug) }

func refuseDebugOutput(godebug string) error {
	// As net/http looks for it.
	if strings.Contains(godebug, "http2debug=1") || strings.Contains(godebug, "http2debug=2") {
		return errors.New("GODEBUG has http2debug, so that Go prints the headers of every HTTP/2 request, with the key and the tokens in them; take it out of the environment and start again")
	}
	return nil
}

// PrintsEnvironment reports whether this process is a "caddy run --environ",
// which prints its environment before it reads a config.
func PrintsEnvironment() bool { return printsEnvironment(os.Args) }

func printsEnvironment(args []string) (prints bool) {
	run := slices.Index(args, "run")
	if run < 1 {
		return false
	}
	for _, arg := range args[1:] {
		name, value, hasValue := strings.Cut(arg, "=")
		switch {
		case arg == "--":
			return prints
		case name == "--environ" || name == "-e" && hasValue:
			prints = !hasValue || !slices.Contains([]string{"0", "f", "F", "false", "FALSE", "False"}, value)
		case strings.HasPrefix(arg, "-") && !strings.HasPrefix(arg, "--"):
			// A group of short flags; c and a take the rest of it for their value.
			flags, _, _ := strings.Cut(arg[1:], "=")
			if i := strings.IndexAny(flags, "ca"); i >= 0 {
				flags = flags[:i]
			}
			prints = prints || strings.Contains(flags, "e")
		}
	}
	return prints
}
