// Package dump records what was said through the gate, for an operator who
// looks for a fault: one file with the request and one with the response,
// named and shaped as `codex responses-api-proxy --dump-dir` does, without the
// credentials. It comes second to the exchange itself: no request waits for a
// disk.
package dump

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

// The bounds of dumps. A caller decides how much is sent and how often, so
// each thing that is kept for a dump needs one.
const (
	maxBody      = 4 << 20   // of one body, in bytes
	maxHeld      = 128 << 20 // of all bodies that are in memory for a directory
	maxIndented  = 256 << 10 // of JSON that is indented for people to read, if that doubles it: it can make it 250 times as long
	maxDepth     = 127       // of JSON; the original reads deeper bodies as text too
	maxQueue     = 64        // exchanges that wait to be written
	closeTimeout = 3 * time.Second
)

// redacted stands in a dump wherever a secret was.
const redacted = "[" + secret.Redacted + "]"

// Dumper is one gate's access to its dump directory. A nil one dumps nothing.
type Dumper struct {
	dir     *directory
	secrets Secrets
	logger  *zap.Logger
	closed  sync.Once
}

// Open checks the directory, and makes nothing yet: Provision also runs
// for `caddy validate`. Each success needs one Close.
func Open(path string, secrets Secrets, logger *zap.Logger) (*Dumper, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := infofile.CheckPrivateDir(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir, _, err := directories.LoadOrNew(path, func() (caddy.Destructor, error) {
		d := newDirectory(path)
		go d.writeQueued()
		return d, nil
	})
	if err != nil {
		return nil, err
	}
	return &Dumper{dir: dir.(*directory), secrets: secrets, logger: logger}, nil
}

// Prepare makes the directory if it is missing. Without it, the first dump does.
func (d *Dumper) Prepare() error {
	if d == nil {
		return nil
	}
	root, err := infofile.OpenPrivateDir(d.dir.path)
	if err != nil {
		return err
	}
	return root.Close()
}

// Close gives the directory back. The last gate to do so waits, for a while,
// until what is queued has been written.
func (d *Dumper) Close() {
	if d != nil {
		d.closed.Do(func() { _, _ = directories.Delete(d.dir.path) })
	}
}

// Begin takes down a request as its caller sent it. Call it before the
// caller's credentials are dropped and the operator's key is injected, and
// Finish when the request is done. The body is not read here: it is copied as
// the next handler reads it. The body of a WebSocket's handshake is the
// WebSocket, and is not recorded. The secrets are hidden wherever they appear,
// answer included.
func (d *Dumper) Begin(r *http.Request, webSocket bool, secrets ...string) *Exchange {
	if d == nil {
		return nil
	}
	e := &Exchange{
		dumper:        d,
		sequence:      d.dir.sequence.Add(1),
		began:         time.Now(),
		method:        r.Method,
		url:           r.RequestURI,
		requestHeader: r.Header.Clone(),
		secrets:       secrets,
		tunnel:        webSocket,
	}
	if r.Host != "" { // net/http keeps it apart from the other headers
		e.requestHeader["Host"] = []string{r.Host}
	}
	// (http.NoBody must stay what it is: it says that there is no body.)
	if r.Body != nil && r.Body != http.NoBody && !e.tunnel {
		r.Body = &recordedBody{ReadCloser: r.Body, exchange: e}
	}
	return e
}

// Exchange is one request and its answer. A nil one records nothing.
type Exchange struct {
	dumper        *Dumper
	sequence      uint64
	began         time.Time
	method        string
	url           string
	requestHeader http.Header
	secrets       []string // of this exchange
	tunnel        bool     // a WebSocket: once it is open, there is no body to record

	mu             sync.Mutex // reverse_proxy may still read the body when the handler is done
	finished       bool
	request        bodyText
	status         int // 0: not answered
	responseHeader http.Header
	response       bodyText
}

// Record makes what is written to the writer that it returns part of e.
func (e *Exchange) Record(w http.ResponseWriter) http.ResponseWriter {
	if e == nil {
		return w
	}
	return &recordedWriter{ResponseWriter: w, exchange: e}
}

// Finish queues the exchange for writing. It does not wait: if the writer is
// behind, the dump is lost, not the time of a request.
func (e *Exchange) Finish() {
	if e == nil {
		return
	}
	e.mu.Lock()
	again := e.finished
	e.finished = true
	e.mu.Unlock()
	if again {
		return
	}
	if err := e.dumper.dir.enqueue(e); err != nil {
		e.dumper.dir.discard(e, err)
	}
}

// wroteHeader records the final status and headers of the answer.
func (e *Exchange) wroteHeader(status int, header http.Header) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.status != 0 || e.finished {
		return
	}
	e.status = status
	e.responseHeader = header.Clone()
	e.tunnel = e.tunnel && (status == http.StatusSwitchingProtocols || status/100 == 2)
}

// read records a part of the request's body.
func (e *Exchange) read(data []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keep(&e.request, data)
}

// wrote records a part of the answer's body.
func (e *Exchange) wrote(data []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.tunnel {
		e.keep(&e.response, data)
	}
}

// keep adds data to text, up to the bounds: behind the first byte that was
// left out there must be none. It keeps a little more than will be shown, so
// that a secret across the cut is known for what it is.
func (e *Exchange) keep(text *bodyText, data []byte) {
	if e.finished {
		return
	}
	whole := text.total == len(text.kept)
	text.total += len(data)
	if !whole {
		return
	}
	data = data[:min(len(data), maxBody+e.overhang()-len(text.kept))]
	if held := &e.dumper.dir.held; held.Add(int64(len(data))) > maxHeld {
		held.Add(-int64(len(data)))
		return
	}
	text.kept = append(text.kept, data...)
}

// overhang is how far a secret, or a character, can go on behind a cut. The
// longest escape of one character is eight bytes.
func (e *Exchange) overhang() int {
	longest := 2 * tokenLength
	for _, text := range e.secrets {
		longest = max(longest, len(text))
	}
	return 8 * longest
}

// bodyText is a body, or its beginning.
type bodyText struct {
	kept  []byte
	total int
}

// body is what a dump shows of text: its JSON if it is JSON, else a string.
func (e *Exchange) body(text bodyText, m *matcher) any {
	end := len(text.kept)
	if text.total > len(text.kept) {
		end = max(0, end-e.overhang())
	}
	end = min(end, maxBody)
	if end == text.total {
		shown := m.hide(text.kept, end)
		if isPrintableJSON(shown) {
			return json.RawMessage(shown)
		}
		return string(shown)
	}
	for i := 1; i < utf8.UTFMax && end > 0 && !utf8.RuneStart(text.kept[end]); i++ {
		end-- // not through the middle of a character
	}
	return fmt.Sprintf("%s…[cut: %d bytes in all]", m.hide(text.kept, end), text.total)
}

// isPrintableJSON reports whether body is JSON that is shown as such.
func isPrintableJSON(body []byte) bool {
	if !json.Valid(body) || !utf8.Valid(body) {
		return false
	}
	depth, _ := indented(body)
	return depth <= maxDepth
}

// indented is how deep JSON is nested, and how long it would be if it were
// indented. Deeply nested lists get long: each element has a line of its own,
// which begins with two spaces for each level.
func indented(body []byte) (deepest, size int) {
	depth, inString := 1, false
	size = len(body)
	for i := 0; i < len(body); i++ {
		switch c := body[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case inString:
		case c == '{' || c == '[':
			depth++
			size += 1 + 2*depth
		case c == '}' || c == ']':
			depth--
			size += 1 + 2*depth
		case c == ',':
			size += 1 + 2*depth
		case c == ':':
			size++
		}
		deepest = max(deepest, depth)
	}
	return deepest, size
}

// recordedBody copies a request's body into its exchange as it is read.
type recordedBody struct {
	io.ReadCloser
	exchange *Exchange
}

// Read implements io.Reader.
func (b *recordedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.exchange.read(p[:n])
	return n, err
}

// recordedWriter copies an answer into its exchange as it goes to the caller.
type recordedWriter struct {
	http.ResponseWriter
	exchange *Exchange
	answered bool
}

// WriteHeader implements http.ResponseWriter.
func (w *recordedWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.answered = true
		w.exchange.wroteHeader(status, w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *recordedWriter) Write(data []byte) (int, error) {
	if !w.answered {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(data)
	w.exchange.wrote(data[:n])
	return n, err
}

// FlushError is what http.ResponseController calls to flush, which may be
// what sends the headers.
func (w *recordedWriter) FlushError() error {
	if !w.answered {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (w *recordedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Interface guards
var (
	_ http.ResponseWriter = (*recordedWriter)(nil)
	_ io.ReadCloser       = (*recordedBody)(nil)
)
