package responsesproxygate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/spf13/cobra"
)

// aboutAdmin is what the verbs for operators have in common.
const aboutAdmin = `
Caddy's admin endpoint is found as "caddy reload" finds it: by --address, such
as unix//run/gate-admin.sock, or else in the config file, by default the
Caddyfile of this directory. Only the user who runs Caddy can use its socket.

Exit code 1: it was refused, or could not be asked for. 3: no Caddy answers.
`

// addAdminVerbs adds what the operator of a gate needs: it speaks to Caddy's
// admin endpoint, and takes no token.
func addAdminVerbs(parent *cobra.Command) {
	for _, verb := range []struct {
		use, short, long string
		flags            func(*cobra.Command)
		run              func(caddycmd.Flags) (int, error)
	}{
		{"clients [--json]", "Lists who may use the gates", `
Lists the gates and their clients: whether their access is active, how old
their tokens are, when they were last used and when they end. Never a token.
`, func(cmd *cobra.Command) {
			cmd.Flags().Bool("json", false, "Print the admin endpoint's answer, for programs")
		}, runClients},
		{"rotate [--gate <name>] [--client <name> | --all] [--grace <duration>]", "Replaces tokens", `
Gives a client a new token, in its server-info file; the former one is accepted
for as long as --grace says. Without --client, it is the gate's own token.

For a token that has leaked: --grace 0s. It ends at once, and so do the
WebSockets of its client.

A revoked client gets its access back. --all leaves out the revoked, and fixed
tokens.
`, func(cmd *cobra.Command) {
			cmd.Flags().String("gate", "default", "The gate's name")
			cmd.Flags().String("client", "", "The client's name (default: the gate's own token)")
			cmd.Flags().Bool("all", false, "Rotate every generated token of the gate")
			cmd.Flags().String("grace", "", "How long former tokens are still accepted, such as 5m; 0s ends them at once (default: the grace of rotate_every, or 5m)")
		}, runRotate},
		{"revoke [--gate <name>] --client <name>", "Ends a client's access", `
Ends a client's tokens and WebSockets at once, and removes its server-info
file. It holds across reloads, until "rotate" makes a new token or Caddy is
restarted: to end the access for good, take the client out of the config too.
The gate's own token has the gate's name as the client's.
`, func(cmd *cobra.Command) {
			cmd.Flags().String("gate", "default", "The gate's name")
			cmd.Flags().String("client", "", "The client's name")
		}, runRevoke},
	} {
		cmd := &cobra.Command{
			Use:   verb.use + " [--config <path>] [--adapter <name>] [--address <interface>]",
			Short: verb.short,
			Long:  verb.long + aboutAdmin,
			Args:  cobra.NoArgs,
			RunE:  caddycmd.WrapCommandFuncForCobra(verb.run),
		}
		verb.flags(cmd)
		addAdminFlags(cmd)
		parent.AddCommand(cmd)
	}
}

// addAdminFlags adds those by which the admin endpoint is found.
func addAdminFlags(cmd *cobra.Command) {
	cmd.Flags().StringP("config", "c", "", "Configuration file of the running Caddy, to find its admin endpoint")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
	cmd.Flags().String("address", "", "Address of the administration listener, if different from config")
}

func runClients(flags caddycmd.Flags) (int, error) {
	answer, code, err := askAdmin(flags, http.MethodGet, adminGates, nil)
	if err != nil {
		return code, err
	}
	if flags.Bool("json") {
		_, err := os.Stdout.Write(answer)
		return exitCodeOf(err), err
	}
	var status gatesStatus
	if err := json.Unmarshal(answer, &status); err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the admin endpoint's answer is not understood: %w; use the same version on both sides", err)
	}
	err = writeClients(os.Stdout, status)
	return exitCodeOf(err), err
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
	body := rotateOptions{}
	if grace := flags.String("grace"); grace != "" {
		if _, err := parseGrace(grace); err != nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("--%w", err)
		}
		body.Grace = &grace
	}
	if client == "" {
		client = gate
	}
	path := clientPath(gate, client) + "/rotate"
	if all {
		path = adminGates + "/" + url.PathEscape(gate) + "/rotate"
	}
	answer, code, err := askAdmin(flags, http.MethodPost, path, body)
	if err != nil {
		return code, err
	}
	rotated := gateStatus{Clients: make([]clientStatus, 1)}
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

func runRevoke(flags caddycmd.Flags) (int, error) {
	gate, client := flags.String("gate"), flags.String("client")
	if client == "" {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("--client is missing; \"caddy responses-proxy clients\" lists them (the gate's own token: --client %s)", gate)
	}
	if _, code, err := askAdmin(flags, http.MethodPost, clientPath(gate, client)+"/revoke", nil); err != nil {
		return code, err
	}
	fmt.Printf("revoked: gate %s, client %s\n", gate, client)
	return caddy.ExitCodeSuccess, nil
}

// clientPath is where the admin endpoint has a client.
func clientPath(gate, client string) string {
	return adminGates + "/" + url.PathEscape(gate) + "/clients/" + url.PathEscape(client)
}

// askAdmin sends a request to the admin endpoint that the flags name, and
// returns its whole answer. A body is sent as JSON.
func askAdmin(flags caddycmd.Flags, method, path string, body any) (answer []byte, code int, err error) {
	address, err := adminAddress(flags)
	if err != nil {
		return nil, caddy.ExitCodeFailedStartup, err
	}
	if code, err := checkAdminAnswers(address); err != nil {
		return nil, code, err
	}
	var content io.Reader
	if body != nil {
		encoded, err := json.Marshal(body)
		if err != nil {
			return nil, caddy.ExitCodeFailedStartup, err
		}
		content = bytes.NewReader(encoded)
	}
	response, err := caddycmd.AdminAPIRequest(address, method, path, nil, content)
	if err != nil {
		return nil, caddy.ExitCodeFailedStartup, err
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxAdminAnswer))
	return answer, exitCodeOf(err), err
}

// maxAdminAnswer is far above what a gate with thousands of clients answers.
const maxAdminAnswer = 16 << 20

// adminAddress finds the admin endpoint as caddy reload does.
func adminAddress(flags caddycmd.Flags) (string, error) {
	if address := flags.String("address"); address != "" {
		return address, nil
	}
	config, file, _, err := caddycmd.LoadConfig(flags.String("config"), flags.String("adapter"))
	if err != nil {
		return "", err
	}
	if file == "" {
		return "", errors.New("which Caddy? Name its config with --config, or its admin endpoint with --address unix//path/of/its/socket")
	}
	var settings struct {
		Admin struct {
			Disabled bool `json:"disabled"`
		} `json:"admin"`
	}
	if err := json.Unmarshal(config, &settings); err != nil {
		return "", fmt.Errorf("%s: %w", file, err)
	}
	if settings.Admin.Disabled {
		return "", fmt.Errorf("%s: it has \"admin off\", so there is nothing to speak to; write \"admin unix//path/of/a/socket\" in its global options and restart Caddy", file)
	}
	return caddycmd.DetermineAdminAPIAddress("", config, file, flags.String("adapter"))
}

// checkAdminAnswers connects to the admin endpoint once, to say plainly why
// that cannot be done.
func checkAdminAnswers(address string) (code int, err error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() > 1 {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the admin address %s is not one address, such as unix//run/gate-admin.sock", address)
	}
	if parsed.IsFdNetwork() {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the admin address %s is a file descriptor of Caddy's own; name the socket behind it with --address", address)
	}
	target := parsed.JoinHostPort(0)
	if parsed.IsUnixNetwork() {
		target, _, _ = strings.Cut(parsed.Host, "|") // (its mode)
	}
	conn, err := net.Dial(parsed.Network, target)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return caddy.ExitCodeFailedStartup, fmt.Errorf("only the user who runs Caddy may use its admin socket %s: become that user (sudo -u <user> caddy responses-proxy …)", target)
	case err != nil:
		return exitCodeNotRunning, fmt.Errorf("no Caddy answers at its admin endpoint %s: %w; start it, or name another with --config or --address", address, err)
	}
	defer func() { _ = conn.Close() }()
	if !parsed.IsUnixNetwork() {
		return caddy.ExitCodeSuccess, nil
	}
	err = infofile.CheckPeer(conn)
	if err == nil {
		err = infofile.CheckSocket(target) // the next connection may lead elsewhere
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the admin endpoint: %w", err)
	}
	return caddy.ExitCodeSuccess, nil
}
