package command

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/spf13/cobra"
)

// addSharedVerbs adds what administers shared clients. Their tokens are made
// here and written here; only digests are sent.
func addSharedVerbs(parent *cobra.Command) {
	clients := &cobra.Command{
		Use:   "client add | rotate | disable | enable | expires | remove | list",
		Short: "Administers the clients that replicas share",
		Long: `
Administers the clients of gates with the option shared_clients. They are in
Caddy's storage: every replica with this storage and a gate of this name
accepts them. Each verb may be used on any replica; the others follow within
their sync interval.

Clients that stand in a config are not among them: for those there are rotate,
revoke, disable and enable without "client" in front. "clients" lists them all.
`,
	}
	out := func(cmd *cobra.Command) {
		cmd.Flags().String("out", "", "File for the token, replaced as a whole, for its owner alone (default: the token goes to stdout)")
	}
	for _, verb := range []struct {
		name, args, short, long string
		flags                   func(*cobra.Command)
		run                     func(caddycmd.Flags) (int, error)
	}{
		{"add", "NAME", "Adds a client, and writes its token", `
Makes a token, registers its digest in Caddy's storage, and writes the token:
once. Nobody can read it again; "client rotate" makes another.

	caddy responses-proxy client add ci --expires 30d --out ci.token
`, func(cmd *cobra.Command) {
			cmd.Flags().String("expires", "", "How long the client has access, such as 12h or 30d, by the replicas' clocks (default: until it is removed)")
			out(cmd)
		}, runClientAdd},
		{"rotate", "NAME", "Gives a client a new token, and writes it", `
Makes another token for a client, and writes it. The former ones are accepted
for as long as --grace says.

	caddy responses-proxy client rotate ci --out ci.token

The file keeps the former token unless there is a new one. (With "> ci.token",
the shell empties it before this command begins.)

For a token that has leaked: --grace 0s. The token ends on this replica at once,
and so do the WebSockets of its client.
`, func(cmd *cobra.Command) {
			cmd.Flags().String("grace", "", "How long former tokens are still accepted, such as 5m; 0s ends them at once (default 5m)")
			out(cmd)
		}, runClientRotate},
		{"disable", "NAME", "Refuses a client for now", `
Refuses a client's tokens and ends its WebSockets: on this replica at once, on
others within their sync interval. It holds until "client enable". A replica of
a version without this verb refuses the client, too, and says that it does not
understand its record.
`, nil, changeShared("disabled", http.MethodPost, "/disable")},
		{"enable", "NAME", "Accepts a client's tokens again", `
Undoes "client disable": the client's tokens are accepted as before.
`, nil, changeShared("enabled", http.MethodPost, "/enable")},
		{"expires", "NAME DURATION|never", "Changes when a client's access ends", `
Has a client's access end after a duration from now, such as 30d, or never. Its
tokens stay as they are. A client whose access has ended already is removed and
added again: its former tokens do not come back.
`, nil, runClientExpires},
		{"remove", "NAME", "Ends a client's access", `
Ends a client's tokens and WebSockets: on this replica at once, on others
within their sync interval.
`, nil, changeShared("removed", http.MethodDelete, "")},
		{"list", "", "Lists the shared clients alone", `
Lists the clients in Caddy's storage, as this replica knows them. "clients",
in one word, lists those of the config, too.
`, func(cmd *cobra.Command) {
			cmd.Flags().Bool("json", false, "Print them as JSON, for programs")
		}, runClientList},
	} {
		cmd := &cobra.Command{
			Use:   strings.TrimRight(verb.name+" "+verb.args, " ") + " [--gate NAME] [--config PATH] [--adapter NAME] [--address ADDRESS]",
			Short: verb.short,
			Long:  verb.long + adminapi.About,
			Args:  cobra.ExactArgs(len(strings.Fields(verb.args))),
			RunE:  caddycmd.WrapCommandFuncForCobra(verb.run),
		}
		cmd.Flags().String("gate", "default", "The gate's name")
		if verb.flags != nil {
			verb.flags(cmd)
		}
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

// sendDigest makes a token, has the gate accept it, and writes it.
func sendDigest(flags caddycmd.Flags, method, action string, body func(digest string) any) (int, error) {
	token := secret.NewToken().Reveal()
	digest := secret.DigestOf(token)
	path, err := sharedPath(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	file, err := outFile(flags.String("out")) // before there is a token to lose
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if _, code, err := adminapi.Ask(flags, method, path+action, body(hex.EncodeToString(digest[:]))); err != nil {
		return code, err
	}
	if file == nil {
		_, err = fmt.Fprintln(os.Stdout, token)
	} else if err = outError(file.WriteText(token + "\n")); err == nil {
		fmt.Printf("gate %s, shared client %s: the token is in %s\n", flags.String("gate"), flags.Arg(0), file.Path())
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the token could not be written, and is lost: %w; make another with: caddy responses-proxy client rotate", err)
	}
	return caddy.ExitCodeSuccess, nil
}

// outFile is the place for a token, which nobody else can read or replace; nil
// for stdout.
func outFile(path string) (*infofile.File, error) {
	if path == "" {
		return nil, nil
	}
	file, err := infofile.New(path, "")
	if err == nil {
		err = file.Check()
	}
	return file, outError(err)
}

// outError says by which flag a place was named.
func outError(err error) error {
	if err == nil {
		return nil
	}
	return errors.New("--out " + strings.TrimPrefix(err.Error(), "server_info "))
}

// changeShared is a verb that needs nothing but the client's name.
func changeShared(done, method, action string) func(caddycmd.Flags) (int, error) {
	return func(flags caddycmd.Flags) (int, error) {
		return askShared(flags, done, method, action, nil)
	}
}

func runClientExpires(flags caddycmd.Flags) (int, error) {
	end := flags.Arg(1)
	if _, err := adminapi.ParseEnd(end); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return askShared(flags, "changed", http.MethodPost, "/expires", adminapi.EndOptions{Expires: end})
}

func askShared(flags caddycmd.Flags, done, method, action string, body any) (int, error) {
	path, err := sharedPath(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if _, code, err := adminapi.Ask(flags, method, path+action, body); err != nil {
		return code, err
	}
	fmt.Printf("%s: gate %s, shared client %s\n", done, flags.String("gate"), flags.Arg(0))
	return caddy.ExitCodeSuccess, nil
}

func runClientList(flags caddycmd.Flags) (int, error) {
	status, code, err := ask[adminapi.Gates](flags, adminapi.GatesPath)
	if err != nil {
		return code, err
	}
	gate := flags.String("gate")
	shared := adminapi.Gates{Gates: []adminapi.Gate{}}
	for _, g := range status.Gates {
		if g.Name != gate {
			continue
		}
		if g.Storage == nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("gate %s has no shared clients; write shared_clients in it and reload", gate)
		}
		all := g.Clients
		g.Clients = []adminapi.Client{}
		for _, c := range all {
			if c.Kind == adminapi.KindShared {
				g.Clients = append(g.Clients, c)
			}
		}
		shared.Gates = append(shared.Gates, g)
	}
	if len(shared.Gates) == 0 {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("there is no gate %q in the running config; \"caddy responses-proxy clients\" lists them", gate)
	}
	if flags.Bool("json") {
		err = json.NewEncoder(os.Stdout).Encode(shared)
	} else {
		err = writeClients(os.Stdout, shared)
	}
	return exitCodeOf(err), err
}

// sharedPath is where the admin endpoint has the client that is named.
func sharedPath(flags caddycmd.Flags) (string, error) {
	client := flags.Arg(0)
	if !adminapi.IsName(client) || client == "." || client == ".." {
		return "", adminapi.ErrClientName // (a path with dots would lead elsewhere)
	}
	return adminapi.SharedPath(flags.String("gate"), client), nil
}
