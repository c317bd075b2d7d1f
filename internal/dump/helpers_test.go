//go:build !windows

package dump

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

// failingReader fails the test when it is read.
type failingReader struct{ t *testing.T }

func (f failingReader) Read([]byte) (int, error) {
	f.t.Error("more was read than the handler asked for")
	return 0, io.EOF
}

// newDumper dumps into a directory that is not there yet.
func newDumper(t *testing.T) (string, *Dumper, *observer.ObservedLogs) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "dumps")
	d, logs := openDumper(t, dir)
	return dir, d, logs
}

func openDumper(t *testing.T, dir string) (*Dumper, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	d, err := Open(dir, Secrets{}, zap.New(core))
	if err != nil {
		t.Fatal(err)
	}
	d.dir.timeout = time.Minute // (the race detector takes seconds for a long body)
	t.Cleanup(d.Close)
	return d, logs
}

// blockedDumper has a writer that does not write: none runs yet.
func blockedDumper(t *testing.T, room int) (*Dumper, *observer.ObservedLogs) {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	dir := newDirectory(filepath.Join(t.TempDir(), "dumps"))
	dir.queue = make(chan *Exchange, room)
	return &Dumper{dir: dir, logger: zap.New(core)}, logs
}

// waitForLosses waits until the writer has given up on so many exchanges.
func waitForLosses(t *testing.T, d *Dumper, want int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); runtime.Gosched() {
		d.dir.mu.Lock()
		lost := d.dir.lost
		d.dir.mu.Unlock()
		if lost >= want {
			return
		}
	}
	t.Fatalf("%d exchanges were not lost", want)
}

// assertLossLogged demands one line when dumps began to be lost and one, with
// their number, when that was over.
func assertLossLogged(t *testing.T, logs *observer.ObservedLogs, lost int, why string) {
	t.Helper()
	all := logs.All()
	if len(all) != 2 || all[0].Level != zap.ErrorLevel || all[1].Level != zap.WarnLevel {
		t.Fatalf("logged: %v; want one error and one warning", all)
	}
	if got := fmt.Sprint(all[0].ContextMap()["error"]); !strings.Contains(got, why) {
		t.Errorf("the reason: %q, want %q", got, why)
	}
	if got := all[1].ContextMap()["lost"]; got != int64(lost) {
		t.Errorf("lost: %v, want %d", got, lost)
	}
}

func newRequest(body string) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "/v1/responses", strings.NewReader(body))
	r.Host = "127.0.0.1:1"
	r.Header.Set("Authorization", "Bearer "+testToken)
	r.Header.Set("Content-Type", "application/json")
	return r
}

// dumpExchange does what the gate does with a request.
func dumpExchange(d *Dumper, r *http.Request, next http.HandlerFunc) *httptest.ResponseRecorder {
	answer := httptest.NewRecorder()
	e := d.Begin(r, r.Method == http.MethodConnect, testKey, testToken)
	defer e.Finish()
	next(e.Record(answer), r)
	return answer
}

func answerDumped(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

func echoBody(w http.ResponseWriter, r *http.Request) {
	w.WriteHeader(http.StatusOK)
	_, _ = io.Copy(w, r.Body)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func assertMode(t *testing.T, path string, want fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	must(t, err)
	if got := info.Mode().Perm(); got != want {
		t.Errorf("%s: mode %04o, want %04o", path, got, want)
	}
}

func dumpNames(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	must(t, err)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func readDumpFile(t *testing.T, dir, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	return string(text)
}

// readDumps is every file in dir, by name: requests before their responses.
func readDumps(t *testing.T, dir string) []string {
	t.Helper()
	var dumps []string
	for _, name := range dumpNames(t, dir) {
		dumps = append(dumps, readDumpFile(t, dir, name))
	}
	return dumps
}

func onlyDump(t *testing.T, dir string) (request, response string) {
	t.Helper()
	dumps := readDumps(t, dir)
	if len(dumps) != 2 {
		t.Fatalf("files: %q; want a request and a response", dumpNames(t, dir))
	}
	return dumps[0], dumps[1]
}

func bothDumps(request, response string) []string { return []string{request, response} }

// compactBody is a dump's body as JSON without white space.
func compactBody(t *testing.T, dump string) string {
	t.Helper()
	var parsed struct{ Body json.RawMessage }
	must(t, json.Unmarshal([]byte(dump), &parsed))
	var compact bytes.Buffer
	must(t, json.Compact(&compact, parsed.Body))
	return compact.String()
}

// textBody is the body of a dump that shows it as a string.
func textBody(t *testing.T, dump string) string {
	t.Helper()
	var parsed struct{ Body string }
	must(t, json.Unmarshal([]byte(dump), &parsed))
	return parsed.Body
}

func headerIn(t *testing.T, dump, name string) string {
	t.Helper()
	var parsed struct{ Headers []headerLine }
	must(t, json.Unmarshal([]byte(dump), &parsed))
	for _, header := range parsed.Headers {
		if header.Name == name {
			return header.Value
		}
	}
	t.Errorf("there is no header %s in:\n%s", name, dump)
	return ""
}
