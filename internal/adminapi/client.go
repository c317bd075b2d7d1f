package adminapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
	"go.uber.org/zap"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// About is what the verbs for operators have in common.
const About = `
Caddy's admin endpoint is found as "caddy reload" finds it: by --address, such
as /run/gate-admin.sock, or else in the config file, by default the
Caddyfile of this directory. Only the user who runs Caddy can use its socket.

Exit code 1: it was refused, or could not be asked for. 3: no Caddy answers.
`

// AddFlags adds those by which the admin endpoint is found.
func AddFlags(cmd *cobra.Command) {
	cmd.Flags().StringP("config", "c", "", "Configuration file of the running Caddy, to find its admin endpoint")
	cmd.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
	cmd.Flags().String("address", "", "Address of the administration listener, if different from config")
}

// Ask sends a request to the admin endpoint that the flags name, and
// returns its whole answer. A body is sent as JSON.
func Ask(flags caddycmd.Flags, method, path string, body any) (answer []byte, code int, err error) {
	address, err := addressOf(flags)
	if err != nil {
		return nil, caddy.ExitCodeFailedStartup, err
	}
	if code, err := checkAnswers(address); err != nil {
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
		return nil, caddy.ExitCodeFailedStartup, plain(err)
	}
	defer response.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(response.Body, maxAnswer))
	if err != nil {
		return nil, caddy.ExitCodeFailedStartup, err
	}
	return answer, caddy.ExitCodeSuccess, nil
}

// plain is what the gate says, without what Caddy's client puts around it.
func plain(err error) error {
	_, answer, _ := strings.Cut(err.Error(), "caddy responded with error: HTTP ")
	_, body, _ := strings.Cut(answer, ": ")
	var said struct {
		Error string `json:"error"`
	}
	if json.Unmarshal([]byte(body), &said) != nil || said.Error == "" {
		return err
	}
	return errors.New(said.Error)
}

// maxAnswer is far above what a gate with thousands of clients answers.
const maxAnswer = 16 << 20

// addressOf finds the admin endpoint as caddy reload does.
func addressOf(flags caddycmd.Flags) (string, error) {
	if address := flags.String("address"); address != "" {
		if strings.HasPrefix(address, "/") {
			address = "unix/" + address // the path of a socket, as one would write it anywhere else
		}
		return address, nil
	}
	config, file, err := loadQuietly(flags)
	if err != nil {
		return "", err
	}
	if file == "" {
		return "", errors.New("which Caddy? Name its config with --config, or its admin endpoint with --address /path/of/its/socket")
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

// loadQuietly loads the config. What Caddy says of it in its log ("using config
// from file", "not formatted") is for those who run it; errors are returned.
func loadQuietly(flags caddycmd.Flags) (config []byte, file string, err error) {
	_, log, _ := caddy.BufferedLog()
	defer caddy.UnbufferDefaultLogger(log.WithOptions(zap.IncreaseLevel(zap.ErrorLevel)))
	config, file, _, err = caddycmd.LoadConfig(flags.String("config"), flags.String("adapter"))
	return config, file, err
}

// checkAnswers connects to the admin endpoint once, to say plainly why
// that cannot be done.
func checkAnswers(address string) (code int, err error) {
	parsed, err := caddy.ParseNetworkAddress(address)
	if err != nil || parsed.PortRangeSize() > 1 {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the admin address %s is not one address, such as /run/gate-admin.sock", address)
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
		return ExitCodeNotRunning, fmt.Errorf("no Caddy answers at its admin endpoint %s: %w; start it, or name another with --config or --address", address, err)
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
