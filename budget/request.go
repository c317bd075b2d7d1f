package budget

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"net/http"
	"path"
	"slices"
	"strings"
	"sync/atomic"

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

	// tokensPerSecond is how fast a stream is taken to grow that nobody saw
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
	reserve   amount
	maxOutput int64 // tokens
	body      countedBody
	held      heldBody
	free      bool // the API takes nothing for it, whatever its answer tells

	price   *Price           // nil: none is needed
	fees    map[string]Money // by tool
	offered Money            // for one call of each tool that is offered
}

// input is what the request's bytes are taken for, in tokens.
func (r *request) input() int64 {
	return (r.body.count() + bytesPerToken - 1) / bytesPerToken
}

// inspect finds out what a request may cost. Where tokens are limited, it
// reads the body whole, and refuses what cannot be counted.
func (found *request) inspect(r *http.Request, limits *limits) *refusal.Answer {
	// What is compressed cannot be read as it passes. (Set, not deleted: the
	// transport would ask for gzip by itself.)
	r.Header["Accept-Encoding"] = []string{"identity"}
	webSocket := isWebSocket(r)
	if !webSocket {
		delete(r.Header, "Upgrade") // nor what is not HTTP
	}
	found.maxOutput, found.free = defaultOutput, webSocket || isFree(r)
	if refused := limits.rules.judgePath(r.Method, r.URL.Path); refused != nil {
		return refused
	}
	if !limits.capsTokens() && !limits.rules.judges() {
		found.body.watch(r)
		return nil
	}
	switch {
	case webSocket:
		return errWebSocket
	case found.free:
		found.body.watch(r)
		return nil
	case !isCounted(r):
		return errRoute
	case !isPlain(r.Header):
		return errEncoding
	}
	content, refused := readBody(r)
	if refused != nil {
		return refused
	}
	asked, err := readAsked(content, isCompact(r))
	if err != nil {
		return errBody
	}
	if refused := limits.rules.judge(&asked, found); refused != nil {
		return refused
	}
	pieces := bodyPieces{content}
	if limit := limits.rules.maxOutput; limit > 0 && asked.maxOutput == 0 && !asked.compact {
		pieces = asked.withCeiling(content, limit)
	}
	found.body.length = found.held.give(r, pieces)
	found.reserve = found.estimate(found.maxOutput)
	return nil
}

// isPlain reports whether a body is what its bytes say: neither compressed nor
// in another form or alphabet than JSON in UTF-8.
func isPlain(header http.Header) bool {
	for _, encoding := range header["Content-Encoding"] {
		if !strings.EqualFold(encoding, "identity") {
			return false
		}
	}
	for _, contentType := range header["Content-Type"] {
		if contentType == "application/json" {
			continue
		}
		mediaType, parameters, err := mime.ParseMediaType(contentType)
		if err != nil || mediaType != "application/json" {
			return false
		}
		if charset := parameters["charset"]; charset != "" && !strings.EqualFold(charset, "utf-8") {
			return false
		}
	}
	return true
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
		(strings.HasSuffix(r.URL.Path, "/responses") || isCompact(r))
}

func isCompact(r *http.Request) bool { return strings.HasSuffix(r.URL.Path, "/responses/compact") }

// isWebSocket reports whether r is an opening handshake, in HTTP/1.1 (RFC 6455)
// or later (RFC 8441, 9220). That is no POST, which the API would answer.
func isWebSocket(r *http.Request) bool {
	return r.Method == http.MethodConnect ||
		r.Method == http.MethodGet && httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// readBody reads a body whole. Room for what it says to have is made in steps,
// each when a part has come: a claim alone takes no memory.
func readBody(r *http.Request) ([]byte, *refusal.Answer) {
	claimed := max(r.ContentLength, 0)
	if claimed > maxBody {
		return nil, errTooLarge
	}
	first := min(claimed, firstBuffer) + 1 // (the end is seen by reading on)
	if claimed == 0 {
		first = bytes.MinRead
	}
	content := make([]byte, 0, first)
	for {
		if len(content) == cap(content) {
			room := 2 * cap(content)
			if claimed > int64(cap(content)) && claimed <= 4*int64(cap(content)) {
				room = int(claimed) + 1 // the last step
			}
			content = slices.Grow(content, room-len(content))
		}
		n, err := r.Body.Read(content[len(content):cap(content)])
		content = content[:len(content)+n]
		tooLarge := (*http.MaxBytesError)(nil)
		switch {
		case errors.As(err, &tooLarge), len(content) > maxBody:
			return nil, errTooLarge
		case err == io.EOF:
			return content, nil
		case err != nil:
			return nil, errBrokenBody
		}
	}
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

// Read implements io.Reader.
func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.passed.Add(int64(n))
	return n, err
}
