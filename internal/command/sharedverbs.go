package command

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"os"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/spf13/cobra"
)

// addSharedVerbs adds what administers shared clients. Their tokens are made
// here and printed here; only digests are sent.
func addSharedVerbs(parent *cobra.Command) {
	clients := &cobra.Command{
		Use:   "client add | rotate | remove",
		Short: "Administers the clients that replicas share",
		Long: `
Administers the clients of gates with the option shared_clients. They are in
Caddy's storage: every replica with this storage and a gate of this name
accepts them. Each verb may be used on any replica; the others follow within
their sync interval.
`,
	}
	for _, verb := range []struct {
		name, short, long string
		flags             func(*cobra.Command)
		run               func(caddycmd.Flags) (int, error)
	}{
		{"add", "Adds a client, and prints its token", `
Makes a token, registers its digest in Caddy's storage, and prints the token:
once, to stdout. Nobody can read it again; "client rotate" makes another.

	(umask 077 && caddy responses-proxy client add ci --expires 30d > ci.token)
`, func(cmd *cobra.Command) {
			cmd.Flags().String("expires", "", "How long the client has access, such as 12h or 30d, by the replicas' clocks (default: until it is removed)")
		}, runClientAdd},
		{"rotate", "Gives a client a new token, and prints it", `
Makes another token for a client, and prints it. The former ones are accepted
for as long as --grace says.

For a token that has leaked: --grace 0s. It ends on this replica at once, and
so do the WebSockets of its client.
`, func(cmd *cobra.Command) {
			cmd.Flags().String("grace", "", "How long former tokens are still accepted, such as 5m; 0s ends them at once (default 5m)")
		}, runClientRotate},
		{"remove", "Ends a client's access", `
Ends a client's tokens and WebSockets: on this replica at once, on others
within their sync interval.
`, func(*cobra.Command) {}, runClientRemove},
	} {
		cmd := &cobra.Command{
			Use:   verb.name + " <name> [--gate <name>] [--config <path>] [--adapter <name>] [--address <interface>]",
			Short: verb.short,
			Long:  verb.long + adminapi.About,
			Args:  cobra.ExactArgs(1),
			RunE:  caddycmd.WrapCommandFuncForCobra(verb.run),
		}
		cmd.Flags().String("gate", "default", "The gate's name")
		verb.flags(cmd)
		adminapi.AddFlags(cmd)
		clients.AddCommand(cmd)
	}
	parent.AddCommand(clients)
}

func runClientAdd(flags caddycmd.Flags) (int, error) {
	options := adminapi.AddOptions{Expires: flags.String("expires")}
	if _, err := adminapi.ParseExpires(options.Expires); err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--%w", err)
	}
	return sendDigest(flags, http.MethodPut, "", func(digest string) any {
		options.SHA256 = digest
		return options
	})
}

func runClientRotate(flags caddycmd.Flags) (int, error) {
	var options adminapi.RotateSharedOptions
	if grace := flags.String("grace"); grace != "" {
		if _, err := adminapi.ParseGrace(grace); err != nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("--%w", err)
		}
		options.Grace = &grace
	}
	return sendDigest(flags, http.MethodPost, "/rotate", func(digest string) any {
		options.SHA256 = digest
		return options
	})
}

// sendDigest makes a token, has the gate accept it, and prints it.
func sendDigest(flags caddycmd.Flags, method, action string, body func(digest string) any) (int, error) {
	token := secret.NewToken().Reveal()
	digest := secret.DigestOf(token)
	path, err := sharedPath(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if _, code, err := adminapi.Ask(flags, method, path+action, body(hex.EncodeToString(digest[:]))); err != nil {
		return code, err
	}
	if _, err := fmt.Fprintln(os.Stdout, token); err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the token could not be written, and is lost: %w; make another with: caddy responses-proxy client rotate", err)
	}
	return caddy.ExitCodeSuccess, nil
}

func runClientRemove(flags caddycmd.Flags) (int, error) {
	path, err := sharedPath(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if _, code, err := adminapi.Ask(flags, http.MethodDelete, path, nil); err != nil {
		return code, err
	}
	fmt.Printf("removed: gate %s, shared client %s\n", flags.String("gate"), flags.Arg(0))
	return caddy.ExitCodeSuccess, nil
}

// sharedPath is where the admin endpoint has the client that is named.
func sharedPath(flags caddycmd.Flags) (string, error) {
	client := flags.Arg(0)
	if !adminapi.IsName(client) || client == "." || client == ".." {
		return "", adminapi.ErrClientName // (a path with dots would lead elsewhere)
	}
	return adminapi.SharedPath(flags.String("gate"), client), nil
}
