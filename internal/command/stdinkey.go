package command

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"golang.org/x/term"
)

// stdinSecret is what is read from stdin.
type stdinSecret struct{ name, prompt, variable, flags string }

// wanted says what the flags want on stdin.
func (o *proxyOptions) wanted() stdinSecret {
	if o.oidc != nil {
		return stdinSecret{
			name: "the GitHub OIDC request token", prompt: "GitHub OIDC request token",
			variable: "ACTIONS_ID_TOKEN_REQUEST_TOKEN", flags: " --github-oidc",
		}
	}
	return stdinSecret{name: "the key", prompt: "OpenAI API key", variable: "OPENAI_API_KEY"}
}

// read reads it, once, and closes stdin.
func (s stdinSecret) read(stdin *os.File, prompt io.Writer) (secret.Secret, error) {
	defer stdin.Close()
	raw, err := s.readRaw(stdin, prompt)
	// Go may have made copies; at least this one is gone soon.
	defer clear(raw)
	if err != nil {
		return secret.Secret{}, fmt.Errorf("reading %s from stdin: %w", s.name, err)
	}
	// The original takes any number of newlines at the end.
	raw = bytes.TrimRight(raw, "\r\n")
	key, err := secret.Parse(string(raw))
	if err != nil {
		question := ""
		if len(raw) == 0 {
			question = fmt.Sprintf("is %s exported? ", s.variable)
		}
		return secret.Secret{}, fmt.Errorf("%s on stdin is not usable: %w; %srun: printenv %s | env -u %s caddy responses-proxy%s", s.name, err, question, s.variable, s.variable, s.flags)
	}
	return key, nil
}

func (s stdinSecret) readRaw(stdin *os.File, prompt io.Writer) ([]byte, error) {
	if term.IsTerminal(int(stdin.Fd())) {
		return s.ask(int(stdin.Fd()), prompt)
	}
	// Raw reads into one buffer: a buffered reader would keep a copy. There
	// is room for the longest key, some newlines, and a byte too many. The
	// newline ends the key: whoever sends it may keep stdin open.
	buffer := make([]byte, secret.MaxLength+8)
	n := 0
	for n < len(buffer) && bytes.IndexByte(buffer[:n], '\n') < 0 {
		read, err := stdin.Read(buffer[n:])
		n += read
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return buffer, err
		}
	}
	return buffer[:n], nil
}

// ask asks for it on a terminal, without echo. If that is
// interrupted, the terminal gets its echo back.
func (s stdinSecret) ask(fd int, prompt io.Writer) ([]byte, error) {
	state, err := term.GetState(fd)
	if err != nil {
		return nil, err
	}
	interrupted, answered := make(chan os.Signal, 1), make(chan struct{})
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(interrupted)
	defer close(answered)
	go func() {
		select {
		case <-interrupted:
			_ = term.Restore(fd, state)
			_, _ = fmt.Fprintln(prompt)
			os.Exit(1)
		case <-answered:
		}
	}()
	_, _ = fmt.Fprint(prompt, s.prompt+" (not shown): ")
	raw, err := term.ReadPassword(fd)
	_, _ = fmt.Fprintln(prompt)
	return raw, err
}
