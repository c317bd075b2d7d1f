package command

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/spf13/cobra"
)

// keyVariable is where run finds the key, and where the command finds its token.
const keyVariable = "OPENAI_API_KEY"

// The exit codes of env(1) and of shells.
const (
	exitCodeNotRunnable = 126
	exitCodeNotFound    = 127
	exitCodeSignal      = 128 // and the signal's number
)

// addRunVerb adds what runs a gate for one command.
func addRunVerb(parent *cobra.Command) {
	cmd := &cobra.Command{
		Use:   "run [--key-file FILE] [--as USER] [--codex] [flags] -- COMMAND [ARGUMENT...]",
		Short: "Runs one command with a gate of its own",
		Long: `
Runs a command that may use the key and never gets it. The proxy runs for as
long as the command does; both end together, and nothing is left.

	caddy responses-proxy run --key-file /run/secrets/key -- python agent.py
	caddy responses-proxy run --codex -- codex

The key is read from --key-file, or else from OPENAI_API_KEY; with --github-oidc
there is none, and the request token is read from ACTIONS_ID_TOKEN_REQUEST_TOKEN.
The command's environment has OPENAI_BASE_URL, the proxy's token in
OPENAI_API_KEY, and NO_PROXY; a variable with the key in it, or with the request
token, is left out. (A key of fewer than 16
characters is no more than a word: then, only a variable that is just the key.)
The command gets stdin, stdout and stderr, and no other open file. It cannot
read the proxy's memory.

The command runs as your user, so it can still read your shell's environment.
Use --key-file with a file that the command cannot read. Or, as root, use --as:
the command then runs as another user, with that user's HOME. Of your
environment it gets only PATH, TERM, COLORTERM, TZ, LANG, LC_* and the variables
for proxies, but none of these with a user or a password (an @) in it.

Signals are passed on. The exit code is the command's; 128 and more, if a signal
ended it; 126 or 127, if it cannot be run or found. All other flags of "caddy
responses-proxy" mean the same here, but --admin-socket and --rotate-every are
refused.
`,
		Args: cobra.MinimumNArgs(1),
		RunE: caddycmd.WrapCommandFuncForCobra(runCommand),
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows the command's name is the command's
	addGateFlags(cmd)
	addOIDCFlags(flags)
	flags.String("key-file", "", "File with the key, which others must not be able to read (default: the key is in OPENAI_API_KEY)")
	flags.String("as", "", "User whom the command runs as (needs root)")
	flags.Bool("codex", false, "The command is Codex: add the provider for this proxy to its arguments")
	parent.AddCommand(cmd)
}

// runCommand runs a command with a gate of its own, and ends with its exit code.
func runCommand(flags caddycmd.Flags) (int, error) {
	options, err := runOptions(flags)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	child, code, err := newChild(flags)
	if err != nil {
		return code, err
	}
	if err := options.check(); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if err := process.KeepDescriptors(); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	// Before the key is in memory once more. (A loader's variables are the
	// command's to have.)
	environment := os.Environ()
	if err := process.Harden(); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	keys, err := options.takeKeys()
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	token := secret.NewToken()
	gate.UseToken(token)
	process.TuneMemory()
	process.TuneThreads()
	signals := make(chan os.Signal, 8)
	child.notify(signals)
	if err := options.start(); err != nil {
		return caddy.ExitCodeFailedStartup, plain(err, flags)
	}
	info, err := gate.Published(commandGate)
	if err == nil {
		code, err = child.run(withToken(child.environment(withoutKeys(environment, keys)), info.BaseURL, token), info.BaseURL, signals)
	} else {
		code = caddy.ExitCodeFailedStartup
	}
	if err = errors.Join(err, caddy.Stop()); err != nil {
		fmt.Fprintln(os.Stderr, "caddy responses-proxy run:", err)
	}
	os.Exit(code) // (Caddy would take 1 without an error for 0)
	return code, nil
}

// runOptions are the flags, as far as run can have them.
func runOptions(flags caddycmd.Flags) (*proxyOptions, error) {
	options, err := proxyOptionsFrom(flags)
	if err != nil {
		return nil, err
	}
	switch {
	case options.adminSocket != "":
		return nil, errors.New("--admin-socket: the command could use it, and so read the key; leave it out")
	case options.rotateEvery != nil:
		return nil, errors.New("--rotate-every: the command's environment has one token for as long as it runs; leave it out")
	}
	options.keyFile, options.fixedToken = flagPath(flags.String("key-file")), true
	if options.oidc, err = oidcFrom(flags, options.upstreamURL); err != nil {
		return nil, err
	}
	if options.oidc != nil && options.keyFile != "" {
		return nil, errors.New("--github-oidc needs no key, and --key-file has one; leave one of the two out")
	}
	// When the command has ended, what still uses the gate is none of anybody's.
	options.grace = time.Millisecond
	return options, nil
}

// takeKeys takes the key, or GitHub's request token, out of the environment, and
// hands it to the gate if no file has one. It returns what the command must not
// find in its environment: these, and the file's key.
func (o *proxyOptions) takeKeys() ([]string, error) {
	wanted := o.wanted()
	inherited, key := os.Getenv(wanted.variable), os.Getenv(keyVariable)
	if err := errors.Join(os.Unsetenv(wanted.variable), os.Unsetenv(keyVariable)); err != nil {
		return nil, err
	}
	if o.keyFile != "" {
		inFile, err := gate.ReadKeyFile("--key-file", o.keyFile)
		return []string{strings.TrimSpace(key), inFile.Reveal()}, err
	}
	if inherited == "" {
		other := "set it, or name a file: --key-file"
		if o.oidc != nil {
			other = "the job needs the permission id-token: write"
		}
		return nil, fmt.Errorf("there is no %s: %s is not set (is it exported?); %s", strings.TrimPrefix(wanted.name, "the "), wanted.variable, other)
	}
	parsed, err := secret.Parse(inherited)
	if err != nil {
		return nil, fmt.Errorf("%s in %s is not usable: %w", wanted.name, wanted.variable, err)
	}
	gate.UseKey(parsed)
	return []string{parsed.Reveal(), strings.TrimSpace(key)}, nil
}

// shortestFound is how long a key is that no other text has in it by chance, in
// bytes. Placeholders for servers that need no key are shorter (local, x).
const shortestFound = 16

// withoutKeys is an environment without the variables that have a key in them.
func withoutKeys(environment, keys []string) []string {
	return slices.DeleteFunc(slices.Clone(environment), func(variable string) bool {
		name, value, _ := strings.Cut(variable, "=")
		return isVariable(name, keyVariable) || slices.ContainsFunc(keys, func(key string) bool {
			return key != "" && strings.TrimSpace(value) == key || len(key) >= shortestFound && strings.Contains(value, key)
		})
	})
}

// withToken is an environment with what a client of the gate needs. Requests to
// the gate must not go to a proxy: the token is in them.
func withToken(environment []string, baseURL string, token secret.Secret) []string {
	here := []string{"127.0.0.1", "localhost", "::1"}
	set := map[string]string{
		"OPENAI_BASE_URL": baseURL,
		keyVariable:       token.Reveal(),
	}
	for _, name := range []string{"NO_PROXY", "no_proxy"} {
		set[name] = strings.Join(here, ",")
	}
	var kept []string
	for _, variable := range environment {
		name, value, _ := strings.Cut(variable, "=")
		switch {
		case isVariable(name, "NO_PROXY") || name == "no_proxy":
			if value != "" {
				set[name] = value + "," + strings.Join(here, ",")
			}
		case !isVariable(name, "OPENAI_BASE_URL"):
			kept = append(kept, variable)
		}
	}
	for name, value := range set {
		kept = append(kept, name+"="+value)
	}
	return kept
}

// isVariable reports whether a variable of the environment has this name.
func isVariable(name, wanted string) bool {
	return name == wanted || runtime.GOOS == "windows" && strings.EqualFold(name, wanted)
}

// child is the command.
type child struct {
	path      string
	arguments []string // the command's own name first
	codex     bool
	user      *childUser // nil: as this process
	apart     bool       // it has no part in the terminal's signals
}

// newChild finds the command.
func newChild(flags caddycmd.Flags) (c *child, code int, err error) {
	c = &child{arguments: flags.Args(), codex: flags.Bool("codex")}
	if c.codex && codexArgument(c.arguments) < 0 {
		return nil, caddy.ExitCodeFailedStartup, errors.New("--codex: none of the command's words is codex; leave it out, or write: -- codex")
	}
	if name := flags.String("as"); name != "" {
		if err := c.actAs(name); err != nil {
			return nil, caddy.ExitCodeFailedStartup, fmt.Errorf("--as %s: %w", name, err)
		}
	}
	if c.user == nil && os.Geteuid() == 0 {
		fmt.Fprintln(os.Stderr, "caddy responses-proxy run: the command runs as root, who can read the key in this process; name another user: --as")
	}
	if c.path, err = exec.LookPath(c.arguments[0]); err != nil {
		return nil, exitCodeOfStart(err), err
	}
	return c, caddy.ExitCodeSuccess, nil
}

func exitCodeOfStart(err error) int {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return exitCodeNotFound
	}
	return exitCodeNotRunnable
}

// run runs the command to its end, and passes signals on to it.
func (c *child) run(environment []string, baseURL string, signals <-chan os.Signal) (code int, err error) {
	arguments := c.arguments
	if c.codex {
		arguments = withCodexProvider(arguments, baseURL)
	}
	cmd := &exec.Cmd{
		Path: c.path, Args: arguments, Env: environment,
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr,
		SysProcAttr: c.attributes(),
	}
	runtime.LockOSThread() // the command ends with the thread that has started it
	if err := cmd.Start(); err != nil {
		return exitCodeOfStart(err), err
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case received := <-signals:
			if c.wants(received) {
				_ = cmd.Process.Signal(received) // one that has just ended needs none
			}
		case err := <-ended:
			if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
				return caddy.ExitCodeFailedStartup, err
			}
			return exitCodeOfEnd(cmd.ProcessState), nil
		}
	}
}

// notify has signals come to the channel, but for those that this process was
// started to ignore, as by nohup: the command ignores them, too.
func (c *child) notify(signals chan<- os.Signal) {
	for _, s := range c.signals() {
		if !signal.Ignored(s) {
			signal.Notify(signals, s)
		}
	}
}

// codexArgument is the index of the word that names Codex, or -1.
func codexArgument(arguments []string) int {
	return slices.IndexFunc(arguments, func(word string) bool {
		name := filepath.Base(word)
		name, _, _ = strings.Cut(name, "@") // npx @openai/codex@latest
		return strings.TrimSuffix(name, filepath.Ext(name)) == "codex"
	})
}

// withCodexProvider puts the provider for the gate into Codex's arguments, in
// front of a subcommand's.
func withCodexProvider(arguments []string, baseURL string) []string {
	const name = "responses-proxy"
	at := codexArgument(arguments) + 1
	return slices.Insert(slices.Clone(arguments), at,
		"-c", fmt.Sprintf("model_provider=%q", name),
		// A server of Codex's that goes on in the background would keep this
		// launch's token for the next.
		"-c", "features.daemon_auto_start=false",
		"-c", fmt.Sprintf("model_providers.%s={name=%q,base_url=%q,env_key=%q,wire_api=%q}",
			name, "OpenAI through caddy responses-proxy", baseURL, keyVariable, "responses"))
}
