package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/spf13/cobra"
)

// addAdminVerbs adds what the operator of a gate needs: it speaks to Caddy's
// admin endpoint, and takes no token.
func addAdminVerbs(parent *cobra.Command) {
	for _, verb := range []struct {
		use, short, long string
		flags            func(*cobra.Command)
		run              func(caddycmd.Flags) (int, error)
	}{
		{"clients [--json]", "Lists who may use the gates", `
Lists the gates and all their clients, those of the config and those that
replicas share ("client list" lists the latter alone): whether their access is
active, how old their tokens are, when they were last used and when they end.
Never a token.
`, func(cmd *cobra.Command) {
			cmd.Flags().Bool("json", false, "Print the admin endpoint's answer, for programs")
		}, runClients},
		{"refusals [--gate NAME] [--json]", "Lists whom a gate has refused lately", `
Lists the last refusals, as the audit trail has them: the time, the client if
its token was known, the address, method and path of the request, and the code.
The gate keeps the last 20 of each code in memory; of a flood, it keeps ten in
ten seconds. The metrics count them all.
`, func(cmd *cobra.Command) {
			cmd.Flags().String("gate", "default", "The gate's name")
			cmd.Flags().Bool("json", false, "Print the admin endpoint's answer, for programs")
		}, runRefusals},
		{"rotate [--gate NAME] [--client NAME | --all] [--grace DURATION]", "Replaces tokens", `
Gives a client a new token, in its server-info file; the former one is accepted
for as long as --grace says. Without --client, it is the gate's own token.

For a token that has leaked: --grace 0s. The token ends at once, and so do the
WebSockets of its client.

A revoked client gets its access back, a disabled one does not. --all leaves
out revoked clients and fixed tokens.
`, func(cmd *cobra.Command) {
			cmd.Flags().String("gate", "default", "The gate's name")
			cmd.Flags().String("client", "", "The client's name (default: the gate's own token)")
			cmd.Flags().Bool("all", false, "Rotate every generated token of the gate")
			cmd.Flags().String("grace", "", "How long former tokens are still accepted, such as 5m; 0s ends them at once (default: the grace of rotate_every, or 5m)")
		}, runRotate},
		{"revoke [--gate NAME] --client NAME", "Ends a client's access", `
Ends a client's tokens and WebSockets at once, and removes its server-info
file. It holds across reloads, until "rotate" makes a new token or Caddy is
restarted: to end the access for good, take the client out of the config too.
The gate's own token has the gate's name as the client's.
`, oneClient, changeClient("revoked", "/revoke")},
		{"disable [--gate NAME] --client NAME", "Refuses a client for now", `
Refuses a client's tokens and ends its WebSockets, until "enable". Its tokens
and its server-info file stay as they are. It holds across reloads, until
"enable" or until Caddy is restarted. The gate's own token has the gate's name
as the client's. Shared clients: "client disable".
`, oneClient, changeClient("disabled", "/disable")},
		{"enable [--gate NAME] --client NAME", "Accepts a client's tokens again", `
Undoes "disable": the client's tokens are accepted as before. One that was
revoked meanwhile stays revoked.
`, oneClient, changeClient("enabled", "/enable")},
	} {
		cmd := &cobra.Command{
			Use:   verb.use + " [--config PATH] [--adapter NAME] [--address ADDRESS]",
			Short: verb.short,
			Long:  verb.long + adminapi.About,
			Args:  cobra.NoArgs,
			RunE:  caddycmd.WrapCommandFuncForCobra(verb.run),
		}
		verb.flags(cmd)
		adminapi.AddFlags(cmd)
		parent.AddCommand(cmd)
	}
}

// oneClient are the flags of a verb for one client of a config.
func oneClient(cmd *cobra.Command) {
	cmd.Flags().String("gate", "default", "The gate's name")
	cmd.Flags().String("client", "", "The client's name")
}

func runClients(flags caddycmd.Flags) (int, error) {
	return list(flags, adminapi.GatesPath, writeClients)
}

func runRefusals(flags caddycmd.Flags) (int, error) {
	return list(flags, adminapi.RefusalsPath(flags.String("gate")), writeRefusals)
}

// list writes what the admin endpoint has at a path: as it is, or for people.
func list[T any](flags caddycmd.Flags, path string, write func(io.Writer, T) error) (int, error) {
	answer, code, err := adminapi.Ask(flags, http.MethodGet, path, nil)
	if err != nil {
		return code, err
	}
	if flags.Bool("json") {
		_, err := os.Stdout.Write(answer)
		return exitCodeOf(err), err
	}
	listed, code, err := parseAnswer[T](answer)
	if err != nil {
		return code, err
	}
	err = write(os.Stdout, listed)
	return exitCodeOf(err), err
}

// ask is what the admin endpoint has at a path.
func ask[T any](flags caddycmd.Flags, path string) (answer T, code int, err error) {
	content, code, err := adminapi.Ask(flags, http.MethodGet, path, nil)
	if err != nil {
		return answer, code, err
	}
	return parseAnswer[T](content)
}

func parseAnswer[T any](answer []byte) (parsed T, code int, err error) {
	if err := json.Unmarshal(answer, &parsed); err != nil {
		return parsed, caddy.ExitCodeFailedStartup, fmt.Errorf("the admin endpoint's answer is not understood: %w; use the same version on both sides", err)
	}
	return parsed, caddy.ExitCodeSuccess, nil
}

func exitCodeOf(err error) int {
	if err != nil {
		return caddy.ExitCodeFailedStartup
	}
	return caddy.ExitCodeSuccess
}

func runRotate(flags caddycmd.Flags) (int, error) {
	gate, client, all := flags.String("gate"), flags.String("client"), flags.Bool("all")
	if client != "" && all {
		return caddy.ExitCodeFailedStartup, errors.New("--client and --all: choose one")
	}
	body := adminapi.RotateOptions{}
	if grace := flags.String("grace"); grace != "" {
		if _, err := adminapi.ParseGrace(grace); err != nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("--%w", err)
		}
		body.Grace = &grace
	}
	if client == "" {
		client = gate
	}
	path := adminapi.ClientPath(gate, client) + "/rotate"
	if all {
		path = adminapi.GatesPath + "/" + url.PathEscape(gate) + "/rotate"
	}
	answer, code, err := adminapi.Ask(flags, http.MethodPost, path, body)
	if err != nil {
		return code, err
	}
	rotated := adminapi.Gate{Clients: make([]adminapi.Client, 1)}
	if all {
		err = json.Unmarshal(answer, &rotated)
	} else {
		err = json.Unmarshal(answer, &rotated.Clients[0])
	}
	for _, c := range rotated.Clients {
		where := "the new token is in " + c.ServerInfo
		if c.ServerInfo == "" {
			where = "there is no server-info file: Caddy has printed the new token to its stderr"
		}
		fmt.Printf("rotated: gate %s, client %s; %s\n", gate, c.Name, where)
	}
	for _, why := range rotated.NotRotated {
		fmt.Fprintln(os.Stderr, "not rotated:", why)
	}
	return exitCodeOf(err), err
}

// changeClient is a verb for one client of a config.
func changeClient(done, action string) func(caddycmd.Flags) (int, error) {
	return func(flags caddycmd.Flags) (int, error) {
		gate, client := flags.String("gate"), flags.String("client")
		if client == "" {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("--client is missing; \"caddy responses-proxy clients\" lists them (the gate's own token: --client %s)", gate)
		}
		if _, code, err := adminapi.Ask(flags, http.MethodPost, adminapi.ClientPath(gate, client)+action, nil); err != nil {
			return code, err
		}
		fmt.Printf("%s: gate %s, client %s\n", done, gate, client)
		return caddy.ExitCodeSuccess, nil
	}
}
