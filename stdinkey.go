package responsesproxygate

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"

	"golang.org/x/term"
)

// commandKey is the key that "caddy responses-proxy" has read from stdin. It
// is handed to the gate here, beside the config, and has to outlive a reload.
var commandKey atomic.Pointer[secret]

// commandKeyPlaceholder stands for commandKey in the command's config.
const commandKeyPlaceholder = "{responses_proxy.key}"

// readKey reads the operator's key from stdin, once, and closes it.
func readKey(stdin *os.File, prompt io.Writer) (secret, error) {
	defer stdin.Close()
	raw, err := readRawKey(stdin, prompt)
	// Go may have made copies; at least this one is gone soon.
	defer clear(raw)
	if err != nil {
		return secret{}, fmt.Errorf("reading the key from stdin: %w", err)
	}
	key, err := parseSecret(string(raw))
	if err != nil {
		return secret{}, fmt.Errorf("the key on stdin is not usable: %w; run: printenv OPENAI_API_KEY | env -u OPENAI_API_KEY caddy responses-proxy", err)
	}
	return key, nil
}

func readRawKey(stdin *os.File, prompt io.Writer) ([]byte, error) {
	fd := int(stdin.Fd())
	if term.IsTerminal(fd) {
		_, _ = fmt.Fprint(prompt, "OpenAI API key (not shown): ")
		raw, err := term.ReadPassword(fd)
		_, _ = fmt.Fprintln(prompt)
		return raw, err
	}
	// Raw reads into one buffer: a buffered reader would keep a copy. There
	// is room for the longest key, its newline, and one byte too many.
	buffer := make([]byte, maxSecretLength+3)
	n, err := io.ReadFull(stdin, buffer)
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return buffer[:n], nil
	}
	return buffer, err
}
