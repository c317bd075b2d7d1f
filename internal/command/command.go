// Package command is `caddy responses-proxy`: a gate in one command, in place of
// `codex responses-api-proxy`, and the verbs for its callers and operators. It
// knows the gate by its JSON config and by what Register is given.
package command

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/spf13/cobra"
)

// Gate is what the command needs of the gate beside its JSON config.
type Gate struct {
	// UseKey hands over the operator's key, which no config has.
	UseKey func(secret.Secret)

	// KeyPlaceholder stands for that key in the config.
	KeyPlaceholder string

	// ReadKeyFile reads the key in a file, as the gate does. Its errors begin with
	// the option that names the file.
	ReadKeyFile func(option, path string) (secret.Secret, error)

	// UseToken hands over a fixed token in the same way.
	UseToken func(secret.Secret)

	// TokenPlaceholder stands for that token in the config.
	TokenPlaceholder string

	// ReadRoutes reads the words of an allow_route, into the list of routes that
	// the gate's JSON has.
	ReadRoutes func(words []string) (json.RawMessage, error)

	// Published is what callers of the gate of a name are told, or why they are not.
	Published func(name string) (infofile.Info, error)

	// Sampling bounds the lines of a log that callers can make it write.
	Sampling caddy.LogSampling
}

// gate is the one of this binary.
var gate Gate

// Register adds the command to Caddy's.
func Register(g Gate) {
	gate = g
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "responses-proxy",
		Usage: "[--port N] [--server-info FILE] [--http-shutdown] [--upstream-url URL] [--dump-dir DIR] | token | status | shutdown | run | clients | refusals | rotate | revoke | disable | enable | client | usage",
		Short: "Lets local programs use the OpenAI Responses API without seeing the key",
		Long: `
Runs a proxy on loopback (127.0.0.1, and [::1] where there is IPv6) that holds
an OpenAI API key for programs that must not see it. It takes the place of
"codex responses-api-proxy" and, unlike it, answers only callers who have the
token of this launch: no web page, no other user of this machine, no other host.

The key is read from stdin, never from an argument:

	printenv OPENAI_API_KEY | env -u OPENAI_API_KEY caddy responses-proxy \
		--server-info ~/.local/state/responses-proxy.json

A job of GitHub Actions that may have an identity (permissions: id-token: write)
needs no key: with --github-oidc and the four flags that belong to it, stdin has
the job's ACTIONS_ID_TOKEN_REQUEST_TOKEN, and OpenAI gives tokens that live for
an hour or so.

In PowerShell:

	$env:OPENAI_API_KEY | caddy responses-proxy --server-info gate.json

On a terminal, the command asks for the key and does not show what you type.
Callers find port and token in the server-info file, which only its owner can
read. Without --server-info, the token is printed once to stderr.

The process is hardened: it leaves no core dumps, other processes of its user
cannot read its memory (on Windows, they can), and it has no admin endpoint.
With --admin-socket it has one on a unix socket, for the operator's verbs
(clients, rotate, usage …; --address unix/PATH). Other programs of the same user
can then reconfigure the proxy, and so read the key.
`,
		CobraFunc: func(cmd *cobra.Command) {
			addGateFlags(cmd)
			addOIDCFlags(cmd.Flags())
			cmd.Args = cobra.NoArgs
			cmd.RunE = caddycmd.WrapCommandFuncForCobra(runProxyCommand)
			addVerbs(cmd)
			addRunVerb(cmd)
			addAdminVerbs(cmd)
			addSharedVerbs(cmd)
			addUsageVerb(cmd)
		},
	})
}

// addGateFlags adds the flags that say what the gate is to be.
func addGateFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.Uint16("port", 0, "Port on 127.0.0.1 and [::1]; 0 picks one that is free on both")
	flags.String("server-info", "", "File to write port, pid, token and base URL to, readable by its owner only")
	flags.String("owner", "", "User, or user:group, who owns the server-info file (needs root; not on Windows)")
	flags.Bool("http-shutdown", false, "Let callers with the token end the proxy at /shutdown")
	flags.Bool("http-health", false, "Answer GET /healthz without a token: 200, or 503 while the upstream refuses the key")
	flags.String("upstream-url", defaultUpstreamURL, "Where POST /v1/responses goes; may have a path and a query")
	flags.String("upstream-header", "", "Header that carries the key upstream, such as api-key (default Authorization: Bearer)")
	flags.String("dump-dir", "", "Directory for a copy of every exchange, without its secrets (not on Windows)")
	flags.StringArray("allow-origin", nil, "Web origin whose pages may call the proxy, with the token (repeatable)")
	flags.StringArray("allow-route", nil, "Further route, as \"METHOD PATH\", behind which any_query and multipart may stand, or \"codex\" for all that Codex uses (repeatable)")
	flags.StringArray("allow-host", nil, "Further Host by which callers may address the proxy, such as host.docker.internal (repeatable)")
	flags.StringArray("allow-header", nil, "Caller's header that chooses whose account the key works for and may go upstream: OpenAI-Organization, OpenAI-Project (repeatable)")
	flags.StringArray("budget", nil, "What may be spent, as \"200000 tokens per 24h\", \"50 requests per 1h\", \"20 cost per 24h\" or \"4 at once\" (repeatable, once for each limit; docs/budgets.md)")
	flags.String("budget-dir", "", "Directory for the counts of --budget, which outlive a launch (default: responses-proxy in Caddy's data directory)")
	addRuleFlags(cmd)
	flags.Bool("websocket", false, "Allow WebSocket on /v1/responses")
	flags.Bool("access-log", false, "Log every request to stderr, without its secrets")
	flags.String("rotate-every", "", "Replace the token regularly, as \"INTERVAL\" or \"INTERVAL GRACE\", such as \"12h 5m\" (needs --server-info)")
	flags.String("admin-socket", "", "Unix socket for the operator's verbs (clients, rotate, usage …); only the proxy's own user can use it (on Windows, whoever can use its folder)")
	flags.StringArray("insecure-allow", nil, "Risk that you take knowingly: plaintext_upstream lets the key go to another host without TLS (repeatable)")
}

// runProxyCommand runs the proxy until it is told to stop.
func runProxyCommand(flags caddycmd.Flags) (int, error) {
	options, err := proxyOptionsFrom(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if options.oidc, err = oidcFrom(flags, options.upstreamURL); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if err := options.check(); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	// Before the key is in memory.
	if err := process.Harden(); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if options.adminSocket != "" {
		if err := process.MakeFilesPrivate(); err != nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("--admin-socket: %w", err)
		}
	}
	key, err := options.wanted().read(os.Stdin, os.Stderr)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	gate.UseKey(key)
	process.TuneMemory()
	process.TuneThreads()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if !signal.Ignored(syscall.SIGHUP) { // as under nohup
		// Its terminal has closed. (Caddy alone would go on.)
		signal.Notify(signals, syscall.SIGHUP)
	}
	caddy.TrapSignals()
	if err := options.start(); err != nil {
		return caddy.ExitCodeFailedStartup, plain(err, flags)
	}
	if options.budget != nil {
		fmt.Fprintf(os.Stderr, "responses-proxy counts what is spent in %s\n", options.budget.dir)
	}
	info, err := gate.Published(commandGate)
	if err != nil {
		// Caddy only logs it; but nobody could find or use this proxy.
		return caddy.ExitCodeFailedStartup, errors.Join(plain(err, flags), caddy.Stop())
	}
	if written := flags.String("upstream-url"); written != options.upstreamURL {
		fmt.Fprintf(os.Stderr, "--upstream-url %s: POST /v1/responses goes to %s\n", written, options.upstreamURL)
	}
	fmt.Fprintf(os.Stderr, "responses-proxy listening on 127.0.0.1:%d\n", info.Port)
	<-signals
	seeThrough(syscall.SIGTERM)
	select {} // Caddy ends the process
}

// check refuses what would fail later, before there is a key in memory.
func (o *proxyOptions) check() error {
	if _, err := o.config(); err != nil {
		return err
	}
	if err := o.checkPortIsFree(); err != nil {
		return err
	}
	return process.RefuseDebugOutput()
}

// seeThrough sees to it that Caddy exits. It handles signals itself, but from
// goroutines that may not have come to that yet when the first one arrives,
// right after the start: that one would be lost.
func seeThrough(again os.Signal) {
	self, err := os.FindProcess(os.Getpid())
	for ; err == nil && !caddy.Exiting(); time.Sleep(10 * time.Millisecond) {
		_ = self.Signal(again)
	}
}

// proxyOptions are the command's flags.
type proxyOptions struct {
	hosts          []string
	port           uint16
	serverInfo     string
	owner          string
	httpShutdown   bool
	httpHealth     bool
	upstreamURL    string
	upstreamHeader string
	dumpDir        string
	allowOrigin    []string
	allowRoute     []string
	allowHost      []string
	allowHeader    []string
	websocket      bool
	accessLog      bool
	rotateEvery    object
	adminSocket    string
	insecureAllow  []string
	budget         *budgetOptions
	oidc           *githubOIDC // nil: there is a key

	// Set by run alone:
	keyFile    string
	fixedToken bool
	grace      time.Duration
}

func proxyOptionsFrom(flags caddycmd.Flags) (*proxyOptions, error) {
	port, portErr := flags.GetUint16("port")
	origins, originErr := flags.GetStringArray("allow-origin")
	routes, routeErr := flags.GetStringArray("allow-route")
	hosts, hostErr := flags.GetStringArray("allow-host")
	headers, headerErr := flags.GetStringArray("allow-header")
	risks, riskErr := flags.GetStringArray("insecure-allow")
	budgets, budgetErr := flags.GetStringArray("budget")
	err := errors.Join(portErr, originErr, routeErr, hostErr, headerErr, riskErr, budgetErr)
	if err != nil {
		return nil, err
	}
	options := &proxyOptions{
		hosts:          loopbackHosts(),
		port:           port,
		serverInfo:     flagPath(flags.String("server-info")),
		owner:          flags.String("owner"),
		httpShutdown:   flags.Bool("http-shutdown"),
		httpHealth:     flags.Bool("http-health"),
		upstreamURL:    completeUpstream(flags.String("upstream-url")),
		upstreamHeader: flags.String("upstream-header"),
		dumpDir:        flagPath(flags.String("dump-dir")),
		allowOrigin:    origins,
		allowRoute:     routes,
		allowHost:      hosts,
		allowHeader:    headers,
		websocket:      flags.Bool("websocket"),
		accessLog:      flags.Bool("access-log"),
		insecureAllow:  risks,
		grace:          commandGracePeriod,
	}
	if options.owner != "" && options.serverInfo == "" {
		return nil, errors.New("--owner says who owns the server-info file; it needs --server-info")
	}
	rules, err := ruleFlags(flags)
	if err != nil {
		return nil, err
	}
	if options.budget, err = budgetFlags(budgets, rules, flags.String("budget-dir")); err != nil {
		return nil, err
	}
	if options.rotateEvery, err = rotationFlag(flags.String("rotate-every")); err != nil {
		return nil, err
	}
	if options.rotateEvery != nil && options.serverInfo == "" {
		return nil, errors.New("--rotate-every: callers learn the next token from the server-info file; it needs --server-info")
	}
	if options.adminSocket, err = adminSocketFlag(flags.String("admin-socket")); err != nil {
		return nil, fmt.Errorf("--admin-socket: %w", err)
	}
	return options, nil
}

// rotationFlag reads --rotate-every, which has the words of rotate_every.
func rotationFlag(flag string) (object, error) {
	if flag == "" {
		return nil, nil
	}
	words := strings.Fields(flag)
	durations := make([]caddy.Duration, len(words))
	for i, word := range words {
		duration, err := caddy.ParseDuration(word)
		if err != nil || len(words) > 2 {
			return nil, fmt.Errorf("--rotate-every %q: write \"INTERVAL\" or \"INTERVAL GRACE\", such as \"12h 5m\"", flag)
		}
		durations[i] = caddy.Duration(duration)
	}
	if len(words) == 0 {
		return nil, errors.New("--rotate-every is blank; write an interval, such as 12h")
	}
	rotation := object{"interval": durations[0]}
	if len(words) == 2 {
		rotation["grace"] = durations[1]
	}
	return rotation, nil
}

// adminSocketFlag checks the place of the admin socket as that of a server-info
// file: who could replace the socket could answer in the proxy's name. Caddy
// removes what it finds at the path, so there must not be anything but a socket.
func adminSocketFlag(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	// Not filepath.Abs, which turns link/../x into x.
	if !filepath.IsAbs(path) {
		dir, err := os.Getwd()
		if err != nil {
			return "", fmt.Errorf("%s: the working directory is unknown (%w); write an absolute path", path, err)
		}
		path = dir + string(os.PathSeparator) + path
	}
	if strings.ContainsAny(path, "|{}") {
		return "", fmt.Errorf("%s: Caddy gives the characters | { } a meaning of their own; name another path", path)
	}
	switch exists, err := infofile.CheckWritable(path); {
	case err != nil:
		return "", err
	case !exists:
		return "", fmt.Errorf("the directory %s does not exist; make it, for its owner alone", filepath.Dir(path))
	}
	if found, err := os.Lstat(path); err == nil && found.Mode()&fs.ModeSocket == 0 {
		return "", fmt.Errorf("%s exists and is not a socket; remove it, or name another path", path)
	}
	if conn, err := net.Dial("unix", path); err == nil {
		return "", errors.Join(fmt.Errorf("%s is in use by another process; end it, or name another path", path), conn.Close())
	}
	return path, nil
}
