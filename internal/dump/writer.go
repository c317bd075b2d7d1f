package dump

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"go.uber.org/zap"
)

// directories holds the directories that gates dump into, by absolute path: a
// *directory. It outlives a reload, so that numbers go on and streams that end
// after it are written.
var directories = caddy.NewUsagePool()

// directory is a directory, and the goroutine that writes into it.
type directory struct {
	path     string
	sequence atomic.Uint64
	held     atomic.Int64 // bytes of bodies in memory
	timeout  time.Duration
	done     chan struct{} // closed when nothing is written any more
	hurry    atomic.Bool   // the timeout is over: drop what is queued

	mu     sync.Mutex // for a moment only, never while something is written
	closed bool
	queue  chan *Exchange
	lost   int // since dumps were last known to work

	quota
}

func newDirectory(path string) *directory {
	return &directory{
		path:    path,
		timeout: closeTimeout,
		queue:   make(chan *Exchange, maxQueue),
		done:    make(chan struct{}),
		quota:   quota{limit: maxDirectory, space: diskSpace},
	}
}

var (
	errQueueFull = errors.New("the disk is slower than the requests")
	errClosed    = errors.New("the gate has been closed")
)

// enqueue hands e to the writer, or says at once why it cannot.
func (d *directory) enqueue(e *Exchange) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return errClosed
	}
	select {
	case d.queue <- e:
		return nil
	default:
		return errQueueFull
	}
}

// discard gives up on e. The first loss is logged, the others are counted
// until dumps work again: a full disk must not fill the log as well.
func (d *directory) discard(e *Exchange, why error) {
	e.release()
	d.mu.Lock()
	d.lost++
	first := d.lost == 1
	d.mu.Unlock()
	if first {
		e.dumper.logger.Error("an exchange could not be dumped; requests go on, and later losses are only counted",
			zap.String("dump_dir", d.path), zap.Error(why))
	}
}

// recovered logs the end of a time in which dumps were lost.
func (d *directory) recovered(logger *zap.Logger) {
	if len(d.queue) > 0 {
		return // a queue that was full may be so again in a moment
	}
	d.mu.Lock()
	lost := d.lost
	d.lost = 0
	d.mu.Unlock()
	if lost > 0 {
		logger.Warn("exchanges are dumped again", zap.String("dump_dir", d.path), zap.Int("lost", lost))
	}
}

// writeQueued writes until the queue is closed and empty.
func (d *directory) writeQueued() {
	defer close(d.done)
	for e := range d.queue {
		err := errClosed
		if !d.hurry.Load() {
			err = d.write(e)
		}
		if err != nil {
			d.discard(e, err)
			continue
		}
		e.release()
		d.recovered(e.dumper.logger)
	}
}

// Destruct implements caddy.Destructor: no gate dumps here any more. A disk
// that hangs must not hang a reload or the exit.
func (d *directory) Destruct() error {
	d.mu.Lock()
	d.closed = true
	close(d.queue)
	d.mu.Unlock()
	timeout := time.NewTimer(d.timeout)
	defer timeout.Stop()
	select {
	case <-d.done:
	case <-timeout.C:
		d.hurry.Store(true)
	}
	return nil
}

// release gives back the memory that the bodies were allowed to take.
func (e *Exchange) release() {
	e.dumper.dir.held.Add(-int64(len(e.request.kept) + len(e.response.kept)))
	e.request, e.response = bodyText{}, bodyText{}
}

// dumpFile is one file of an exchange.
type dumpFile struct {
	suffix  string
	content []byte
}

// files are the exchange's request and, if there was one, its response.
func (e *Exchange) files() ([]dumpFile, error) {
	texts := e.secrets
	if e.dumper.secrets.Texts != nil {
		texts = slices.Concat(texts, e.dumper.secrets.Texts())
	}
	m := newMatcher(texts, e.dumper.secrets.IsToken)
	requestBody := e.body(e.request, m)
	request, err := encode(struct {
		Method  string       `json:"method"`
		URL     string       `json:"url"`
		Headers []headerLine `json:"headers"`
		Body    any          `json:"body"`
	}{e.method, string(m.hide([]byte(e.url), len(e.url))), m.headerLines(e.requestHeader, isSecretHeader), requestBody}, requestBody)
	if err != nil {
		return nil, err
	}
	files := []dumpFile{{"-request.json", request}}
	if e.status == 0 {
		return files, nil // abandoned; the original has no response file either
	}
	responseBody, headers := e.body(e.response, m), m.headerLines(e.responseHeader, isSecretResponseHeader)
	for i := range headers {
		headers[i].Name = strings.ToLower(headers[i].Name)
	}
	response, err := encode(struct {
		Status  int          `json:"status"`
		Headers []headerLine `json:"headers"`
		Body    any          `json:"body"`
	}{e.status, headers, responseBody}, responseBody)
	if err != nil {
		return nil, err
	}
	return append(files, dumpFile{"-response.json", response}), nil
}

// encode is the JSON of v, for people to read: indented, unless its body would
// grow out of all proportion.
func encode(v, body any) ([]byte, error) {
	var out bytes.Buffer
	encoder := json.NewEncoder(&out)
	encoder.SetEscapeHTML(false)
	raw, isJSON := body.(json.RawMessage)
	if _, size := indented(raw); !isJSON || size <= max(maxIndented, 2*len(raw)) {
		encoder.SetIndent("", "  ")
	}
	err := encoder.Encode(v)
	return out.Bytes(), err
}

// write writes an exchange's files. The directory is opened each time: it is
// checked again, and may have been cleared away and made anew.
func (d *directory) write(e *Exchange) error {
	files, err := e.files()
	if err != nil {
		return err
	}
	root, err := infofile.OpenPrivateDir(d.path)
	if err != nil {
		return err
	}
	defer root.Close()
	size := sizeOf(files)
	if err := d.checkRoom(root, size); err != nil {
		return err
	}
	for range 100 {
		prefix := fmt.Sprintf("%06d-%d", e.sequence, e.began.UnixMilli())
		if err = writeFiles(root, prefix, files); !errors.Is(err, fs.ErrExist) {
			if err == nil {
				d.used += size
			}
			return err
		}
		e.sequence = d.sequence.Add(1) // somebody has that name
	}
	return err
}

// writeFiles writes all of files, or none. A listing of the directory shows
// whole ones only. Nothing that is there already is followed or replaced: a
// temporary name is taken by one writer, who alone may then take the real one.
func writeFiles(root *os.Root, prefix string, files []dumpFile) (err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, name := range made {
				_ = root.Remove(name)
			}
		}
	}()
	for _, file := range files {
		temporary := "." + prefix + file.suffix + ".partial"
		out, err := root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return err
		}
		made = append(made, temporary)
		_, err = out.Write(file.content)
		// (an umask can take permissions from the owner too)
		if err := errors.Join(err, out.Chmod(0o600), out.Close()); err != nil {
			return err
		}
		if _, err := root.Lstat(prefix + file.suffix); err == nil {
			return fs.ErrExist
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	for i, file := range files {
		if err := root.Rename(made[i], prefix+file.suffix); err != nil {
			return err
		}
		made[i] = prefix + file.suffix
	}
	return nil
}

// Interface guard
var _ caddy.Destructor = (*directory)(nil)
