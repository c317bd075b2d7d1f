package budget

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"path"
	"strings"
	"sync/atomic"

	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/net/http/httpguts"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/refusal"
)

const (
	// bytesPerToken is what a request's bytes are taken for, divided by it:
	// English text has four in a token, JSON and code three.
	bytesPerToken = 3

	// defaultOutput is how many tokens an answer is expected to have at most
	// if nobody says.
	defaultOutput = 16_384

	// tokensPerSecond is how fast an answer is taken to grow that nobody saw
	// the end of.
	tokensPerSecond = 200

	// firstBuffer is how much room a body gets that says how long it is, in
	// bytes, before it has come.
	firstBuffer = 64 << 10

	// maxBody is how much of a body is held if the server has no limit of its
	// own (request_body max_size), in bytes.
	maxBody = 256 << 20
)

// request is what is known of a request before it is sent on.
type request struct {
	reserve   int64 // tokens
	maxOutput int64 // tokens
	body      *countedBody
	free      bool // the API takes nothing for it, whatever its answer tells
}

// input is what the request's bytes are taken for, in tokens.
func (r *request) input() int64 {
	return (r.body.count() + bytesPerToken - 1) / bytesPerToken
}

// inspect finds out what a request may cost. Where tokens are limited, it
// reads the body whole, and refuses what cannot be counted.
func (h *Handler) inspect(r *http.Request, limits *limits) (*request, *refusal.Answer) {
	// What is compressed cannot be read as it passes. (Set, not deleted: the
	// transport would ask for gzip by itself.)
	r.Header["Accept-Encoding"] = []string{"identity"}
	webSocket := isWebSocket(r)
	if !webSocket {
		delete(r.Header, "Upgrade") // nor what is not HTTP
	}
	found := &request{maxOutput: defaultOutput, body: &countedBody{}, free: webSocket || isFree(r)}
	if !limits.capsTokens() {
		found.body.watch(r)
		return found, nil
	}
	switch {
	case webSocket:
		return nil, errWebSocket
	case found.free:
		found.body.watch(r)
		return found, nil
	case !isCounted(r):
		return nil, errRoute
	case len(r.Header["Content-Encoding"]) > 0 && !strings.EqualFold(r.Header.Get("Content-Encoding"), "identity"):
		return nil, errEncoding
	}
	content, refused := readBody(r)
	if refused != nil {
		return nil, refused
	}
	if refused := found.read(content); refused != nil {
		return nil, refused
	}
	found.body.hold(r, content)
	found.reserve = found.input() + found.maxOutput
	return found, nil
}

// isFree reports whether the API takes nothing for a request: it reads, or ends
// something. (An answer that was paid for can be read again.)
func isFree(r *http.Request) bool {
	switch r.Method {
	case http.MethodGet, http.MethodHead, http.MethodDelete, http.MethodOptions:
		return true
	}
	before, ends := strings.CutSuffix(r.URL.Path, "/cancel")
	return ends && r.Method == http.MethodPost && strings.HasSuffix(path.Dir(before), "/responses")
}

// isCounted reports whether an answer tells its tokens.
func isCounted(r *http.Request) bool {
	return r.Method == http.MethodPost &&
		(strings.HasSuffix(r.URL.Path, "/responses") || strings.HasSuffix(r.URL.Path, "/responses/compact"))
}

// isWebSocket reports whether r is an opening handshake, in HTTP/1.1 (RFC 6455)
// or later (RFC 8441, 9220).
func isWebSocket(r *http.Request) bool {
	return r.Method == http.MethodConnect || httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// readBody reads a body whole.
func readBody(r *http.Request) ([]byte, *refusal.Answer) {
	var read bytes.Buffer
	read.Grow(int(min(max(r.ContentLength, 0), firstBuffer)) + bytes.MinRead)
	_, err := read.ReadFrom(io.LimitReader(r.Body, maxBody+1))
	content := read.Bytes()
	tooLarge := (*http.MaxBytesError)(nil)
	switch {
	case errors.As(err, &tooLarge), len(content) > maxBody:
		return nil, errTooLarge
	case err != nil:
		return nil, errBrokenBody
	}
	return content, nil
}

// read finds what matters in a body. It is strict, so that no other parser can
// read something else: one object, in which no name stands twice, at any depth.
func (r *request) read(content []byte) *refusal.Answer {
	// Half of a surrogate pair, which texts that were cut have, is no harm in a value.
	decoder := jsontext.NewDecoder(newBytesReader(content), jsontext.AllowInvalidUTF8(true))
	if token, err := decoder.ReadToken(); err != nil || token.Kind() != '{' {
		return errBody
	}
	for decoder.PeekKind() == '"' {
		name, err := decoder.ReadToken()
		if err != nil {
			return errBody
		}
		key := name.String()
		if isAmbiguous(key) {
			return errBody
		}
		value, err := decoder.ReadValue()
		if err != nil {
			return errBody
		}
		switch key {
		case "max_output_tokens":
			if value.Kind() == 'n' {
				continue
			}
			n, ok := tokens(string(value))
			if !ok || n < 1 {
				return errBody
			}
			r.maxOutput = n
		case "background":
			switch value.Kind() {
			case 'f', 'n':
			case 't':
				return errBackground
			default:
				return errBody
			}
		}
	}
	if token, err := decoder.ReadToken(); err != nil || token.Kind() != '}' {
		return errBody
	}
	if _, err := decoder.ReadToken(); err != io.EOF {
		return errBody // a second value
	}
	return nil
}

// isAmbiguous reports whether another parser may take a name for one that
// matters: Go's ignores case, and some drop what is no UTF-8.
func isAmbiguous(name string) bool {
	for _, known := range []string{"max_output_tokens", "background"} {
		if name != known && strings.EqualFold(name, known) {
			return true
		}
	}
	return strings.ContainsRune(name, '\ufffd')
}

// countedBody counts a body's bytes.
type countedBody struct {
	io.ReadCloser
	length int64 // less than 0: see read
	passed atomic.Int64
}

// count is how long the body is, as far as that is known.
func (b *countedBody) count() int64 { return max(b.length, b.passed.Load()) }

// watch counts the body as it is read, if nobody says how long it is.
func (b *countedBody) watch(r *http.Request) {
	b.length = r.ContentLength
	if r.ContentLength < 0 && r.Body != nil && r.Body != http.NoBody {
		b.ReadCloser, r.Body = r.Body, b
	}
}

// hold gives the body back that was read.
func (b *countedBody) hold(r *http.Request, content []byte) {
	b.length = int64(len(content))
	r.ContentLength, r.Body = b.length, io.NopCloser(newBytesReader(content))
	r.TransferEncoding = nil
}

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.passed.Add(int64(n))
	return n, err
}

// bytesReader is a bytes.Reader that lets go of what has been read to its end:
// an answer can take many minutes.
type bytesReader struct{ left []byte }

func newBytesReader(content []byte) *bytesReader { return &bytesReader{content} }

// Read implements io.Reader.
func (b *bytesReader) Read(p []byte) (int, error) {
	if len(b.left) == 0 {
		b.left = nil
		return 0, io.EOF
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}
