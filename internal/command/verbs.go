package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
	"github.com/spf13/cobra"
)

// addVerbs adds what callers of a gate need: they read the server-info file,
// and are told plainly if it must not be trusted.
func addVerbs(parent *cobra.Command) {
	verbs := []struct {
		name, short, long string
		run               func(caddycmd.Flags) (int, error)
	}{
		{"token", "Prints the gate's token", `
Prints the token of the running gate, and nothing else: for Codex's
auth.command, or for a shell. Never put it into an argument, where every user
sees it, as in curl -H "…: $(…)"; curl reads headers from stdin, too:

	printf 'X-Proxy-Token: %s\n' "$(caddy responses-proxy token --server-info FILE)" |
		curl --noproxy '*' -H @- …

It warns on stderr if clients with this environment would send the token to a
proxy (HTTP_PROXY without NO_PROXY). A ~ at the start of FILE is your home, also
where no shell replaces it, as in Codex's config.

Exit code 1: the file is missing or must not be trusted. 3: its gate is gone.
`, runToken},
		{"status", "Tells whether the gate runs and takes the token", `
Prints where the gate listens, and checks that it takes the token.

Exit code 1: the file is missing or must not be trusted, or the gate does not
take its token. 3: its gate is gone.
`, runStatus},
		{"shutdown", "Ends the gate's process", `
Asks the gate to end, and waits until it has. The gate must have been started
with --http-shutdown, or have the option shutdown_endpoint.

Exit code 1: the file is missing or must not be trusted, or the gate does not
end. 3: its gate is gone already.
`, runShutdown},
	}
	for _, verb := range verbs {
		cmd := &cobra.Command{
			Use:   verb.name + " --server-info FILE",
			Short: verb.short,
			Long:  verb.long,
			Args:  cobra.NoArgs,
			RunE:  caddycmd.WrapCommandFuncForCobra(verb.run),
		}
		cmd.Flags().String("server-info", "", "The gate's server-info file")
		if verb.name == "shutdown" {
			cmd.Flags().String("path", shutdownPath, "The path of the gate's shutdown endpoint")
		}
		parent.AddCommand(cmd)
	}
}

func runToken(flags caddycmd.Flags) (int, error) {
	info, code, err := runningGate(flags)
	if err != nil {
		return code, err
	}
	warnOfProxies(os.Stderr, info)
	fmt.Println(info.Token.Reveal())
	return caddy.ExitCodeSuccess, nil
}

func runStatus(flags caddycmd.Flags) (int, error) {
	info, code, err := runningGate(flags)
	if err != nil {
		return code, err
	}
	// A path that no gate forwards: a gate that takes the token says 403, one
	// that does not says 401.
	answer, err := callGate(info, http.MethodGet, "/")
	if err != nil {
		return adminapi.ExitCodeNotRunning, fmt.Errorf("the gate does not answer: %w", err)
	}
	if got := answer.Header.Get(refusal.GateHeader); got != "route_not_allowed" {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the gate does not take the token of this file (status %d)", answer.StatusCode)
	}
	warnOfProxies(os.Stderr, info)
	fmt.Printf("running: pid %d, %s\n", info.PID, info.BaseURL)
	return caddy.ExitCodeSuccess, nil
}

func runShutdown(flags caddycmd.Flags) (int, error) {
	info, code, err := runningGate(flags)
	if err != nil {
		return code, err
	}
	answer, err := callGate(info, http.MethodPost, flags.String("path"))
	if err != nil {
		return adminapi.ExitCodeNotRunning, fmt.Errorf("the gate does not answer: %w", err)
	}
	if answer.StatusCode != http.StatusOK {
		return caddy.ExitCodeFailedStartup, fmt.Errorf("the gate has no shutdown endpoint there (status %d); start it with --http-shutdown, or end process %d with a signal", answer.StatusCode, info.PID)
	}
	return awaitExit(info)
}

// shutdownTimeout is how long shutdown waits for the process to end: longer
// than the command's grace period.
const shutdownTimeout = 3 * commandGracePeriod

// awaitExit waits until the gate's process is gone. There is no event to wait
// for in a process that is not our child.
func awaitExit(info infofile.Info) (int, error) {
	for deadline := time.Now().Add(shutdownTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if !process.Runs(info.PID) {
			return caddy.ExitCodeSuccess, nil
		}
	}
	return caddy.ExitCodeFailedStartup, fmt.Errorf("process %d has not ended yet; it may be waiting for running requests", info.PID)
}

// runningGate reads the server-info file that the flags name and makes sure
// that its gate still runs, before its token is shown to anybody: whoever
// takes the port of a gate that was killed would like to be sent the token.
func runningGate(flags caddycmd.Flags) (infofile.Info, int, error) {
	path := flagPath(flags.String("server-info"))
	if path == "" {
		return infofile.Info{}, caddy.ExitCodeFailedStartup, errors.New("--server-info is missing; name the file that the gate was started with")
	}
	info, err := infofile.Read(path)
	if err != nil {
		return infofile.Info{}, caddy.ExitCodeFailedStartup, err
	}
	if !process.Runs(info.PID) {
		return infofile.Info{}, adminapi.ExitCodeNotRunning, fmt.Errorf("%s is stale: process %d is gone; start the gate again", path, info.PID)
	}
	if err := checkListener(info); err != nil {
		return infofile.Info{}, adminapi.ExitCodeNotRunning, fmt.Errorf("%s is stale: %w", path, err)
	}
	return info, caddy.ExitCodeSuccess, nil
}

// callTimeout bounds a verb's request; the gate answers these by itself.
const callTimeout = 10 * time.Second

// callGate sends a request with the token to the gate, and to nobody else: no
// proxy, no redirect.
func callGate(info infofile.Info, method, path string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), callTimeout)
	defer cancel()
	base, err := url.Parse(info.BaseURL)
	if err != nil {
		return nil, err
	}
	if base.Scheme != "http" {
		return nil, fmt.Errorf("it speaks TLS at %s; call it with a client that knows its certificate", info.BaseURL)
	}
	network, address := "tcp", base.Host
	if info.Socket != "" {
		network, address = "unix", info.Socket
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://"+base.Host+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("X-Proxy-Token", info.Token.Reveal())
	client := &http.Client{
		Transport: &http.Transport{
			Proxy: nil,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				conn, err := new(net.Dialer).DialContext(ctx, network, address)
				if err != nil {
					return nil, err
				}
				if err := infofile.CheckPeer(conn); err != nil {
					return nil, errors.Join(err, conn.Close())
				}
				return conn, nil
			},
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	response, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	return response, response.Body.Close() // status and headers are all we need
}
