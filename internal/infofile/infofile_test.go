package infofile

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// The token of the tests, easy to find wherever it should not be.
const sampleToken = "SeCrEt-token_that-must-not-be-seen-0123456789a"

func sampleInfo() Info {
	return Info{Port: 18080, PID: 4242, Token: secret.New(sampleToken), BaseURL: "http://127.0.0.1:18080/v1"}
}

// told is what the file of an Info says.
func told(i Info) string {
	line, _ := i.line()
	return string(line)
}

// safeDir is a directory that nobody else can write to, whatever the umask.
func safeDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func newFile(t *testing.T, path, owner string) *File {
	t.Helper()
	f, err := New(path, owner)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func mustWrite(t *testing.T, f *File, info Info) {
	t.Helper()
	if err := f.Check(); err != nil {
		t.Fatalf("check: %v", err)
	}
	if err := f.Write(info); err != nil {
		t.Fatalf("write: %v", err)
	}
}

// wantRefusal looks for the reason, the remedy and, above all, no token.
func wantRefusal(t *testing.T, err error, reason string) {
	t.Helper()
	if err == nil {
		t.Fatalf("no error, want one that says %q", reason)
	}
	if !strings.Contains(err.Error(), reason) || !strings.HasPrefix(err.Error(), "server_info") {
		t.Errorf("error %q does not say %q about server_info", err, reason)
	}
	if strings.Contains(err.Error(), "SeCrEt") {
		t.Errorf("the error shows the token: %q", err)
	}
}

// wantOnly fails if a directory has anything else in it, a temporary file above all.
func wantOnly(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	got := []string{}
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("%s holds %q, want %q", dir, got, want)
	}
}

func TestServerInfoIsOneLineOfJSONInAFixedOrder(t *testing.T) {
	for name, c := range map[string]struct {
		info Info
		want string
	}{
		"with a port": {
			sampleInfo(),
			`{"port":18080,"pid":4242,"auth_token":"` + sampleToken + `","base_url":"http://127.0.0.1:18080/v1"}` + "\n",
		},
		"with a socket, and characters that HTML would escape": {
			Info{Socket: "/run/g/s", PID: 1, Token: secret.New("a&b<c>"), BaseURL: "http://localhost/v1"},
			`{"socket":"/run/g/s","pid":1,"auth_token":"a&b<c>","base_url":"http://localhost/v1"}` + "\n",
		},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(safeDir(t), "gate.json")
			mustWrite(t, newFile(t, path, ""), c.info)
			got, err := os.ReadFile(path)
			if err != nil || string(got) != c.want {
				t.Errorf("got %q, %v; want %q", got, err, c.want)
			}
			back, err := Read(path)
			if err != nil || told(back) != told(c.info) {
				t.Errorf("reading it back: %v, %v", back, err)
			}
		})
	}
}

func TestPrintingServerInfoNeverShowsTheToken(t *testing.T) {
	info := sampleInfo()
	outputs := map[string]string{
		"in a slice":  fmt.Sprintf("%+v", []Info{info}),
		"in a field":  fmt.Sprintf("%#v", struct{ Info Info }{info}),
		"in an error": fmt.Errorf("failed: %v", info).Error(),
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "%t", "%08.3f"} {
		outputs[verb] = fmt.Sprintf(verb, info)
		outputs[verb+" of a pointer"] = fmt.Sprintf(verb, &info)
	}
	encoded, err := json.Marshal(info)
	if err != nil {
		t.Fatal(err)
	}
	outputs["json"] = string(encoded)
	var b bytes.Buffer
	slog.New(slog.NewJSONHandler(&b, nil)).Info("m", "info", info)
	outputs["slog"] = b.String()
	var z bytes.Buffer
	core := zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(&z), zap.DebugLevel)
	zap.New(core).Info("m", zap.Any("info", info), zap.Any("pointer", &info), zap.Reflect("reflected", info))
	outputs["zap"] = z.String()

	for how, out := range outputs {
		if !strings.Contains(out, secret.Redacted) {
			t.Errorf("%s does not say that something was left out: %s", how, out)
		}
	}
	// (fmt asks an unexported field for nothing)
	outputs["in a hidden field"] = fmt.Sprintf("%+v %#v %v", struct{ info Info }{info}, struct{ info Info }{info}, struct{ info *Info }{&info})
	hex := fmt.Sprintf("%x", "SeCrEt")
	for how, out := range outputs {
		if strings.Contains(out, "SeCrEt") || strings.Contains(strings.ToLower(out), hex) {
			t.Errorf("%s shows the token: %s", how, out)
		}
	}
}

func TestServerInfoPathMustNameAFile(t *testing.T) {
	for name, c := range map[string]struct{ path, reason string }{
		"the empty path":               {"", "the path is empty"},
		"a NUL character":              {"/run/gate\x00.json", "NUL"},
		"a slash at the end":           {"/run/gate.json/", "ends in a slash"},
		"the root directory":           {"/", "ends in a slash"},
		"a dot at the end":             {"/run/.", "does not end in the name of a file"},
		"the directory above":          {"/run/..", "does not end in the name of a file"},
		"only the directory above":     {"..", "does not end in the name of a file"},
		"only the directory we are in": {".", "does not end in the name of a file"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(c.path, "")
			wantRefusal(t, err, c.reason)
			_, err = Read(c.path)
			wantRefusal(t, err, c.reason)
		})
	}
}

func TestRelativePathIsTakenFromTheWorkingDirectory(t *testing.T) {
	dir := safeDir(t)
	t.Chdir(dir)
	f := newFile(t, "gate.json", "")
	if !filepath.IsAbs(f.path) {
		t.Errorf("path %q is not absolute", f.path)
	}
	mustWrite(t, f, sampleInfo())
	wantOnly(t, dir, "gate.json")
}

func TestUnchangedContentIsNotRewritten(t *testing.T) {
	path := filepath.Join(safeDir(t), "gate.json")
	f := newFile(t, path, "")
	mustWrite(t, f, sampleInfo())
	before, _ := os.Stat(path)
	mustWrite(t, f, sampleInfo())
	if after, err := os.Stat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the file was replaced although nothing changed (%v)", err)
	}
	changed := sampleInfo()
	changed.Port++
	mustWrite(t, f, changed)
	if after, err := os.Stat(path); err != nil || os.SameFile(before, after) {
		t.Errorf("the file was not replaced although the port changed (%v)", err)
	}
	wantOnly(t, filepath.Dir(path), "gate.json")
}

func TestWhatAKilledProcessLeftIsReplaced(t *testing.T) {
	dir := safeDir(t)
	path := filepath.Join(dir, "gate.json")
	f := newFile(t, path, "")
	stale := sampleInfo()
	stale.Token = secret.New(sampleToken + "-of-the-killed-process")
	mustWrite(t, f, stale)
	mustWrite(t, newFile(t, path, ""), sampleInfo())
	if got, err := Read(path); err != nil || told(got) != told(sampleInfo()) {
		t.Errorf("got %v, %v", got, err)
	}
}

func TestRemoveTakesAwayOurFileOnly(t *testing.T) {
	other := sampleInfo()
	other.PID++
	for name, c := range map[string]struct {
		disturb func(path string) error
		stays   bool
	}{
		"our own file goes":                        {func(string) error { return nil }, false},
		"a missing file is no error":               {os.Remove, false},
		"a missing directory is no error":          {func(p string) error { return os.RemoveAll(filepath.Dir(p)) }, false},
		"the file of a later launch stays":         {func(p string) error { l, _ := other.line(); return os.WriteFile(p, l, 0o600) }, true},
		"a file that goes on after our line stays": {func(p string) error { l, _ := sampleInfo().line(); return os.WriteFile(p, append(l, '\n'), 0o600) }, true},
		"an emptied file stays":                    {func(p string) error { return os.Truncate(p, 0) }, true},
		"a directory in its place stays":           {func(p string) error { _ = os.Remove(p); return os.Mkdir(p, 0o700) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(safeDir(t), "sub", "gate.json")
			f := newFile(t, path, "")
			mustWrite(t, f, sampleInfo())
			if err := c.disturb(path); err != nil {
				t.Fatal(err)
			}
			if err := f.Remove(sampleInfo()); err != nil {
				t.Errorf("remove: %v", err)
			}
			if _, err := os.Lstat(path); (err == nil) != c.stays {
				t.Errorf("stays: %v, want %v", err == nil, c.stays)
			}
		})
	}
}

func TestFailedWriteLeavesNoTemporaryFileAndTheOldContent(t *testing.T) {
	dir := safeDir(t)
	if err := os.MkdirAll(filepath.Join(dir, "gate.json", "old"), 0o700); err != nil {
		t.Fatal(err)
	}
	f := newFile(t, filepath.Join(dir, "gate.json"), "")
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	// As if the directory had been planted after inspect: the rename fails.
	line, _ := sampleInfo().line()
	wantRefusal(t, f.replace(root, line), "could not be written")
	wantOnly(t, dir, "gate.json")
	wantOnly(t, filepath.Join(dir, "gate.json"), "old")
}

func TestReadRefusesWhatTheGateDidNotWrite(t *testing.T) {
	const good = `{"port":18080,"pid":4242,"auth_token":"SeCrEt","base_url":"http://127.0.0.1:18080/v1"}`
	for name, c := range map[string]struct{ content, reason string }{
		"nothing":                      {"", "does not hold the JSON object"},
		"no JSON":                      {"SeCrEt", "does not hold the JSON object"},
		"another type of token":        {strings.Replace(good, `"SeCrEt"`, `1234567`, 1), "does not hold the JSON object"},
		"a field nobody knows":         {strings.Replace(good, `"pid"`, `"SeCrEt":1,"pid"`, 1), "does not hold the JSON object"},
		"a second object":              {good + good, "something beside it"},
		"text after the object":        {good + "\nSeCrEt", "something beside it"},
		"more than 64 KiB":             {good + strings.Repeat("\n", 64<<10), "larger than 64 KiB"},
		"both port and socket":         {strings.Replace(good, `"pid"`, `"socket":"/s","pid"`, 1), "either port or socket"},
		"neither port nor socket":      {strings.Replace(good, `"port":18080,`, ``, 1), "either port or socket"},
		"a port that is none":          {strings.Replace(good, `18080,`, `65536,`, 1), "between 1 and 65535"},
		"a negative port":              {strings.Replace(good, `18080,`, `-1,`, 1), "between 1 and 65535"},
		"a socket with a NUL":          {strings.Replace(good, `"port":18080`, `"socket":"/s\u0000"`, 1), "not a path"},
		"pid zero":                     {strings.Replace(good, `4242`, `0`, 1), "pid"},
		"a negative pid":               {strings.Replace(good, `4242`, `-5`, 1), "pid"},
		"no token, as the original":    {`{"port":18080,"pid":4242}`, "auth_token is empty"},
		"a token with a space":         {strings.Replace(good, `SeCrEt`, `SeCrEt x`, 1), "visible ASCII"},
		"a token with a line break":    {strings.Replace(good, `SeCrEt`, `SeCrEt\r\nX: y`, 1), "visible ASCII"},
		"a token with a letter é":      {strings.Replace(good, `SeCrEt`, `SeCrEt\u00e9`, 1), "visible ASCII"},
		"no base address":              {strings.Replace(good, `http://127.0.0.1:18080/v1`, ``, 1), "base_url"},
		"a remote base address":        {strings.Replace(good, `127.0.0.1`, `192.0.2.1`, 1), "base_url"},
		"a remote name":                {strings.Replace(good, `127.0.0.1`, `127.0.0.1.example`, 1), "base_url"},
		"a remote host behind a user":  {strings.Replace(good, `127.0.0.1:18080`, `127.0.0.1:18080@example`, 1), "base_url"},
		"a user name":                  {strings.Replace(good, `127.0.0.1`, `u@127.0.0.1`, 1), "base_url"},
		"a query":                      {strings.Replace(good, `/v1`, `/v1?x`, 1), "base_url"},
		"a fragment":                   {strings.Replace(good, `/v1`, `/v1#x`, 1), "base_url"},
		"the address of all":           {strings.Replace(good, `127.0.0.1`, `0.0.0.0`, 1), "base_url"},
		"another scheme":               {strings.Replace(good, `http:`, `file:`, 1), "base_url"},
		"an address that cannot parse": {strings.Replace(good, `http:`, `http://[SeCrEt`, 1), "base_url"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(safeDir(t), "gate.json")
			writePrivate(t, path, c.content)
			got, err := Read(path)
			wantRefusal(t, err, c.reason)
			if got != (Info{}) {
				t.Errorf("a refused file must give nothing, got %v", got)
			}
		})
	}
	for _, host := range []string{"localhost:1", "127.8.9.10", "[::1]:18080"} {
		path := filepath.Join(safeDir(t), "gate.json")
		writePrivate(t, path, strings.Replace(good, "127.0.0.1:18080", host, 1))
		if _, err := Read(path); err != nil {
			t.Errorf("%s is on this host: %v", host, err)
		}
	}
}

// writePrivate puts any content where only we can read it, the way the gate would.
func writePrivate(t *testing.T, path, content string) {
	t.Helper()
	root, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if err := newFile(t, path, "").replace(root, []byte(content)); err != nil {
		t.Fatal(err)
	}
}

func TestReadingAMissingFileAsksWhetherTheGateRuns(t *testing.T) {
	_, err := Read(filepath.Join(t.TempDir(), "none.json"))
	wantRefusal(t, err, "is the gate running")
}
