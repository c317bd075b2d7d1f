package responsesproxygate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

// Dumps are what was said through the gate, for an operator who looks for a
// fault: one file with the request and one with the response, named and shaped
// as `codex responses-api-proxy --dump-dir` does, without the credentials.
// They come second to the exchange itself: no request waits for a disk.

// The bounds of dumps. A caller decides how much is sent and how often, so
// each thing that is kept for a dump needs one.
const (
	maxDumpBody  = 4 << 20   // of one body, in bytes
	maxDumpHeld  = 128 << 20 // of all bodies that are in memory for a directory
	maxDumpJSON  = 32 << 20  // of one body that is printed as JSON: indenting can make it 250 times as long
	maxDumpDepth = 127       // of JSON; the original reads deeper bodies as text too
	maxDumpQueue = 64        // exchanges that wait to be written
	dumpPatience = 3 * time.Second
)

// minBodySecret is the least length of a secret that is looked for in bodies.
// A shorter one would be found where it only looks like one.
const minBodySecret = 16

// dumpRedacted stands in a dump wherever a secret was.
const dumpRedacted = "[" + secret.Redacted + "]"

// dumper is one gate's access to its dump directory. A nil one dumps nothing.
type dumper struct {
	dir    *dumpDir
	logger *zap.Logger
	closed sync.Once
}

// newDumper checks the directory, and makes nothing yet: Provision also runs
// for `caddy validate`. Each success needs one close.
func newDumper(path string, logger *zap.Logger) (*dumper, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if _, err := infofile.CheckPrivateDir(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir, _, err := dumpDirs.LoadOrNew(path, func() (caddy.Destructor, error) {
		d := newDumpDir(path)
		go d.writeQueued()
		return d, nil
	})
	if err != nil {
		return nil, err
	}
	return &dumper{dir: dir.(*dumpDir), logger: logger}, nil
}

// prepare makes the directory if it is missing. Without it, the first dump does.
func (d *dumper) prepare() error {
	if d == nil {
		return nil
	}
	root, err := infofile.OpenPrivateDir(d.dir.path)
	if err != nil {
		return err
	}
	return root.Close()
}

// close gives the directory back. The last gate to do so waits, for a while,
// until what is queued has been written.
func (d *dumper) close() {
	if d != nil {
		d.closed.Do(func() { _, _ = dumpDirs.Delete(d.dir.path) })
	}
}

// begin takes down a request as its caller sent it. Call it before the
// caller's credentials are dropped and the operator's key is injected, and
// finish when the request is done. The body is not read here: it is copied as
// the next handler reads it. The secrets, and the token that the request
// presents, are hidden wherever they appear, answer included.
func (d *dumper) begin(r *http.Request, secrets ...string) *exchange {
	if d == nil {
		return nil
	}
	if token, refused := presentedToken(r.Header); refused == nil {
		secrets = append(slices.Clip(secrets), token)
	}
	forms := secretForms(secrets)
	e := &exchange{
		dumper:   d,
		sequence: d.dir.sequence.Add(1),
		began:    time.Now(),
		method:   r.Method,
		url:      string(hideSecrets([]byte(r.RequestURI), len(r.RequestURI), forms)),
		forms:    forms,
		secrets:  secrets,
		tunnel:   isWebSocketUpgrade(r),
	}
	e.requestHeader = dumpHeader(r.Header, secrets, isSecretHeader)
	if r.Host != "" { // net/http keeps it apart from the other headers
		host := dumpHeader(http.Header{"Host": {r.Host}}, secrets, isSecretHeader)
		e.requestHeader = append(e.requestHeader, host...)
		slices.SortStableFunc(e.requestHeader, compareHeaders)
	}
	// (http.NoBody must stay what it is: it says that there is no body.)
	if r.Body != nil && r.Body != http.NoBody && !e.tunnel {
		r.Body = &dumpedBody{ReadCloser: r.Body, exchange: e}
	}
	return e
}

// exchange is one request and its answer. A nil one records nothing.
type exchange struct {
	dumper        *dumper
	sequence      uint64
	began         time.Time
	method        string
	url           string
	requestHeader []dumpedHeader
	forms         []string // the secrets as they may stand in a body
	secrets       []string
	tunnel        bool // a WebSocket: once it is open, there is no body to record

	mu             sync.Mutex // reverse_proxy may still read the body when the handler is done
	finished       bool
	request        dumpedText
	status         int // 0: not answered
	responseHeader []dumpedHeader
	response       dumpedText
}

// record makes what is written to the writer that it returns part of e.
func (e *exchange) record(w http.ResponseWriter) http.ResponseWriter {
	if e == nil {
		return w
	}
	return &dumpedWriter{ResponseWriter: w, exchange: e}
}

// finish queues the exchange for writing. It does not wait: if the writer is
// behind, the dump is lost, not the time of a request.
func (e *exchange) finish() {
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
func (e *exchange) wroteHeader(status int, header http.Header) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.status != 0 || e.finished {
		return
	}
	e.status = status
	e.responseHeader = dumpHeader(header, e.secrets, isSecretResponseHeader)
	for i := range e.responseHeader {
		e.responseHeader[i].Name = strings.ToLower(e.responseHeader[i].Name)
	}
	e.tunnel = e.tunnel && (status == http.StatusSwitchingProtocols || status/100 == 2)
}

// read records a part of the request's body.
func (e *exchange) read(data []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.keep(&e.request, data)
}

// wrote records a part of the answer's body.
func (e *exchange) wrote(data []byte) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.tunnel {
		e.keep(&e.response, data)
	}
}

// keep adds data to text, up to the bounds: behind the first byte that was
// left out there must be none. It keeps a little more than will be shown, so
// that a secret across the cut is known for what it is.
func (e *exchange) keep(text *dumpedText, data []byte) {
	if e.finished {
		return
	}
	whole := text.total == len(text.kept)
	text.total += len(data)
	if !whole {
		return
	}
	data = data[:min(len(data), maxDumpBody+e.overhang()-len(text.kept))]
	if held := &e.dumper.dir.held; held.Add(int64(len(data))) > maxDumpHeld {
		held.Add(-int64(len(data)))
		return
	}
	text.kept = append(text.kept, data...)
}

// overhang is how far a secret, or a character, can go on behind a cut.
func (e *exchange) overhang() int {
	longest := utf8.UTFMax
	for _, form := range e.forms {
		longest = max(longest, len(form)-1)
	}
	return longest
}

// dumpedText is a body, or its beginning.
type dumpedText struct {
	kept  []byte
	total int
}

// body is what a dump shows of text: its JSON if it is JSON, else a string.
func (e *exchange) body(text dumpedText) any {
	end := len(text.kept)
	if text.total > len(text.kept) {
		end = max(0, end-e.overhang())
	}
	end = min(end, maxDumpBody)
	if end == text.total {
		shown := hideSecrets(text.kept, end, e.forms)
		if isPrintableJSON(shown) {
			return json.RawMessage(shown)
		}
		return string(shown)
	}
	for i := 1; i < utf8.UTFMax && end > 0 && !utf8.RuneStart(text.kept[end]); i++ {
		end-- // not through the middle of a character
	}
	return fmt.Sprintf("%s…[cut: %d bytes in all]", hideSecrets(text.kept, end, e.forms), text.total)
}

// isPrintableJSON tells whether body is JSON that stays of a sane size when
// it is indented. Deeply nested lists do not: each element has a line of its
// own, which begins with two spaces for each level.
func isPrintableJSON(body []byte) bool {
	if !json.Valid(body) || !utf8.Valid(body) {
		return false
	}
	size, depth, inString := len(body), 1, false
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
		if depth > maxDumpDepth || size > maxDumpJSON {
			return false
		}
	}
	return true
}

// dumpedBody copies a request's body into its exchange as it is read.
type dumpedBody struct {
	io.ReadCloser
	exchange *exchange
}

// Read implements io.Reader.
func (b *dumpedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.exchange.read(p[:n])
	return n, err
}

// dumpedWriter copies an answer into its exchange as it goes to the caller.
type dumpedWriter struct {
	http.ResponseWriter
	exchange *exchange
	answered bool
}

// WriteHeader implements http.ResponseWriter.
func (w *dumpedWriter) WriteHeader(status int) {
	if status >= 200 || status == http.StatusSwitchingProtocols {
		w.answered = true
		w.exchange.wroteHeader(status, w.Header())
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *dumpedWriter) Write(data []byte) (int, error) {
	if !w.answered {
		w.WriteHeader(http.StatusOK)
	}
	n, err := w.ResponseWriter.Write(data)
	w.exchange.wrote(data[:n])
	return n, err
}

// FlushError is what http.ResponseController calls to flush, which may be
// what sends the headers.
func (w *dumpedWriter) FlushError() error {
	if !w.answered {
		w.WriteHeader(http.StatusOK)
	}
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (w *dumpedWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// Interface guards
var (
	_ http.ResponseWriter = (*dumpedWriter)(nil)
	_ io.ReadCloser       = (*dumpedBody)(nil)
)
