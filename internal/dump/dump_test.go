//go:build !windows

package dump

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
)

const (
	testToken = "gate-token-0123456789-0123456789-0123456789"
	testKey   = "sk-proj-0123456789abcdef0123456789abcdef"
)

func TestDumpsHaveTheShapeOfTheOriginals(t *testing.T) {
	dir, d, _ := newDumper(t)
	r := newRequest(`{"model":"gpt-5.4"}`)
	r.Host = "" // the original's own example has no more headers than these
	dumpExchange(d, r, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "text/event-stream")
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "data: hello\n\n")
	})
	d.Close()
	wantRequest := `{
  "method": "POST",
  "url": "/v1/responses",
  "headers": [
    {
      "name": "Authorization",
      "value": "[REDACTED]"
    },
    {
      "name": "Content-Type",
      "value": "application/json"
    }
  ],
  "body": {
    "model": "gpt-5.4"
  }
}
`
	wantResponse := `{
  "status": 200,
  "headers": [
    {
      "name": "content-type",
      "value": "text/event-stream"
    }
  ],
  "body": "data: hello\n\n"
}
`
	request, response := onlyDump(t, dir)
	if request != wantRequest {
		t.Errorf("request dump:\n%s\nwant:\n%s", request, wantRequest)
	}
	if response != wantResponse {
		t.Errorf("response dump:\n%s\nwant:\n%s", response, wantResponse)
	}
}

func TestDumpsAreNamedAsTheOriginals(t *testing.T) {
	dir, d, _ := newDumper(t)
	before := time.Now().UnixMilli()
	for range 2 {
		dumpExchange(d, newRequest(`{}`), answerDumped)
	}
	d.Close()
	names := dumpNames(t, dir)
	if len(names) != 4 {
		t.Fatalf("files: %q; want a request and a response of each of two exchanges", names)
	}
	pattern := regexp.MustCompile(`^(\d{6})-(\d{13})-(request|response)\.json$`)
	for i, name := range names {
		found := pattern.FindStringSubmatch(name)
		if found == nil {
			t.Fatalf("%s: is not <6 digits>-<unix ms>-<request|response>.json", name)
		}
		if want := fmt.Sprintf("%06d", i/2+1); found[1] != want {
			t.Errorf("%s: number %s, want %s", name, found[1], want)
		}
		if ms, _ := strconv.ParseInt(found[2], 10, 64); ms < before || ms > time.Now().UnixMilli() {
			t.Errorf("%s: %d is not when the exchange began", name, ms)
		}
		if want := []string{"request", "response"}[i%2]; found[3] != want {
			t.Errorf("%s: want a %s", name, want)
		}
	}
	if strings.TrimSuffix(names[0], "request.json") != strings.TrimSuffix(names[1], "response.json") {
		t.Errorf("%s and %s do not share their prefix", names[0], names[1])
	}
}

func TestBodiesAreDumpedAsTheyWere(t *testing.T) {
	deep := strings.Repeat("[", 200) + strings.Repeat("]", 200)
	wide := strings.Repeat("[", 100) + "0" + strings.Repeat(",0", 1<<20) + strings.Repeat("]", 100)
	for _, test := range []struct{ name, body, want string }{
		{"numbers keep all their digits", `{"n":[1.0,12345678901234567890,1e400]}`, `{"n":[1.0,12345678901234567890,1e400]}`},
		{"a repeated key stays repeated", `{"a":1,"a":2}`, `{"a":1,"a":2}`},
		{"angle brackets are not escaped", `{"a":"<b>&\u00e9"}`, `{"a":"<b>&\u00e9"}`},
		{"an empty body is an empty string", ``, `""`},
		{"spaces alone are text", `  `, `"  "`},
		{"what is not JSON is text", `{"a":`, `"{\"a\":"`},
		{"bytes that are not UTF-8 are replaced", "a\xffb", `"a\ufffdb"`},
		{"JSON that is not UTF-8 is text", "\"a\xffb\"", `"\"a\ufffdb\""`},
		{"JSON that is nested too deeply is text, as for the original", deep, strconv.Quote(deep)},
		{"JSON that indenting would blow up is not indented", wide, wide},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			dumpExchange(d, newRequest(test.body), echoBody)
			d.Close()
			for _, dump := range bothDumps(onlyDump(t, dir)) {
				if got := compactBody(t, dump); got != test.want {
					t.Errorf("body: %.200s, want %.200s", got, test.want)
				}
			}
		})
	}
}

func TestDumpsAreForTheirOwnerAloneWhateverTheUmask(t *testing.T) {
	for _, umask := range []int{0, 0o277} {
		t.Run(fmt.Sprintf("umask %04o", umask), func(t *testing.T) {
			parent := t.TempDir()
			if umask != 0 { // (such a umask would make directories that cannot be used)
				must(t, os.Mkdir(filepath.Join(parent, "dumps"), 0o700))
			}
			defer syscall.Umask(syscall.Umask(umask))
			dir := filepath.Join(parent, "dumps")
			d, _ := openDumper(t, dir)
			dumpExchange(d, newRequest(`{}`), answerDumped)
			d.Close()
			assertMode(t, dir, 0o700)
			for _, name := range dumpNames(t, dir) {
				assertMode(t, filepath.Join(dir, name), 0o600)
			}
		})
	}
}

func TestDumpDirectoriesThatOthersCouldReadOrRedirectAreRefused(t *testing.T) {
	for _, test := range []struct {
		name string
		make func(t *testing.T, path string) string // returns the path to use
		want string
	}{
		{"a symlink, even to a directory that would do", func(t *testing.T, path string) string {
			must(t, os.Mkdir(path+"-target", 0o700))
			must(t, os.Symlink(path+"-target", path))
			return path
		}, "is a symlink"},
		{"a symlink with a slash behind it", func(t *testing.T, path string) string {
			must(t, os.Mkdir(path+"-target", 0o700))
			must(t, os.Symlink(path+"-target", path))
			return path + "/"
		}, "is a symlink"},
		{"a symlink to nowhere", func(t *testing.T, path string) string {
			must(t, os.Symlink(path+"-nowhere", path))
			return path
		}, "is a symlink"},
		{"a file", func(t *testing.T, path string) string {
			must(t, os.WriteFile(path, nil, 0o600))
			return path
		}, "is not a directory"},
		{"a path below a file", func(t *testing.T, path string) string {
			must(t, os.WriteFile(path, nil, 0o600))
			return filepath.Join(path, "dumps")
		}, "not a directory"},
		{"a directory that every user can read", func(t *testing.T, path string) string {
			must(t, os.Mkdir(path, 0o700))
			must(t, os.Chmod(path, 0o755))
			return path
		}, "run: chmod 700 "},
		{"a directory that the group can write to", func(t *testing.T, path string) string {
			must(t, os.Mkdir(path, 0o700))
			must(t, os.Chmod(path, 0o720))
			return path
		}, "run: chmod 700 "},
		{"a directory of another user", func(t *testing.T, path string) string {
			must(t, os.Mkdir(path, 0o700))
			if err := os.Chown(path, 54321, -1); err != nil {
				t.Skip("only root can give a directory away")
			}
			return path
		}, "belongs to another user"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path := test.make(t, filepath.Join(t.TempDir(), "dumps"))
			d, err := Open(path, Secrets{}, zap.NewNop())
			if err == nil {
				d.Close()
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), strings.TrimSuffix(path, "/")) {
				t.Errorf("error %q does not name the path and say %q", err, test.want)
			}
			if root, err := infofile.OpenPrivateDir(filepath.Clean(path)); err == nil {
				_ = root.Close()
				t.Error("the writer would have opened it")
			}
		})
	}
}

func TestTheDumpDirectoryIsMadeOnlyWhenTheGateRuns(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a", "b")
	d, _ := openDumper(t, dir)
	if _, err := os.Lstat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("caddy validate would have made a directory")
	}
	must(t, d.Prepare())
	assertMode(t, filepath.Dir(dir), 0o700)
	assertMode(t, dir, 0o700)
}

func TestSecretsInHeadersDoNotReachDumps(t *testing.T) {
	for _, test := range []struct{ name, header, value, wantRequest, wantResponse string }{
		{"the caller's token", "Authorization", "Bearer x", "[REDACTED]", "[REDACTED]"},
		{"the caller's token in its own header", "X-Proxy-Token", "x", "[REDACTED]", "[REDACTED]"},
		{"a proxy's password", "Proxy-Authorization", "Basic eDp4", "[REDACTED]", "[REDACTED]"},
		{"cookies of the caller", "Cookie", "a=b", "[REDACTED]", "[REDACTED]"},
		{"cookies of the upstream", "Set-Cookie", "a=b", "[REDACTED]", "[REDACTED]"},
		{"an API key", "Api-Key", "x", "[REDACTED]", "[REDACTED]"},
		{"an API key, the other name", "X-Api-Key", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with token in it", "X-Amz-Security-Token", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with secret in it", "X-Client-Secret", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with key in it", "Ocp-Apim-Subscription-Key", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with password in it", "X-Password", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with credential in it", "X-Credential-Id", "x", "[REDACTED]", "[REDACTED]"},
		{"a name with session in it", "Session_id", "x", "[REDACTED]", "[REDACTED]"},
		{"the operator's key anywhere", "X-Harmless", "a " + testKey + " b", "[REDACTED]", "[REDACTED]"},
		{"the gate's token anywhere", "User-Agent", "x" + testToken, "[REDACTED]", "[REDACTED]"},
		{"a key among the subprotocols", "Sec-Websocket-Protocol", "realtime,OpenAI-insecure-api-key.sk-x, v1", "realtime, [REDACTED], v1", "realtime, [REDACTED], v1"},
		{"a key in a subprotocol with quotes", "Sec-Websocket-Protocol", `realtime,"openai-insecure-api-key.sk-x"`, "realtime, [REDACTED]", "realtime, [REDACTED]"},
		{"subprotocols without a key stay", "Sec-Websocket-Protocol", "realtime,v1", "realtime,v1", "realtime,v1"},
		{"a challenge stays", "Www-Authenticate", "Bearer", "Bearer", "Bearer"},
		{"the number of tokens left stays in the answer", "X-Ratelimit-Remaining-Tokens", "7", "[REDACTED]", "7"},
		{"what is not secret stays", "Accept", "text/event-stream", "text/event-stream", "text/event-stream"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			r := newRequest(`{}`)
			r.Header[test.header] = []string{test.value}
			dumpExchange(d, r, func(w http.ResponseWriter, _ *http.Request) {
				w.Header()[test.header] = []string{test.value}
				w.WriteHeader(http.StatusOK)
			})
			d.Close()
			request, response := onlyDump(t, dir)
			if got := headerIn(t, request, test.header); got != test.wantRequest {
				t.Errorf("request: %q, want %q", got, test.wantRequest)
			}
			if got := headerIn(t, response, strings.ToLower(test.header)); got != test.wantResponse {
				t.Errorf("response: %q, want %q", got, test.wantResponse)
			}
			if got := headerIn(t, request, "Host"); got != "127.0.0.1:1" {
				t.Errorf("Host: %q", got)
			}
		})
	}
}

func TestSecretsInBodiesDoNotReachDumps(t *testing.T) {
	odd := `k"ey\with/all<of>them`
	oddJSON, _ := json.Marshal(odd)
	for _, test := range []struct{ name, body, want string }{
		{"the operator's key in an error", `{"error":"bad key ` + testKey + `."}`, `{"error":"bad key [REDACTED]."}`},
		{"the gate's token", `{"a":"` + testToken + `"}`, `{"a":"[REDACTED]"}`},
		{"every one of several", testKey + testKey + "," + testToken, `"[REDACTED][REDACTED],[REDACTED]"`},
		{"two that overlap are one", testKey + "-tail-of-another", `"[REDACTED]"`},
		{"a secret that JSON has to escape", `{"a":` + strings.ReplaceAll(string(oddJSON), `/`, `\/`) + `}`, ``},
		{"a secret that Go's JSON escapes", `{"a":` + string(oddJSON) + `}`, `{"a":"[REDACTED]"}`},
		{"a stream that breaks off in the middle of a secret", "data: " + testKey[:30], `"data: [REDACTED]"`},
		{"the first letters alone are not secret", "data: sk-proj", `"data: sk-proj"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			r := newRequest(test.body)
			r.RequestURI = "/v1/responses?a=" + testKey
			e := d.Begin(r, false, testKey, testToken, "0123456789abcdef-tail-of-another", testKey[20:]+"-tail-of-another", testKey[5:25], odd)
			w := e.Record(httptest.NewRecorder())
			_, _ = io.Copy(w, r.Body)
			e.Finish()
			d.Close()
			for _, dump := range bothDumps(onlyDump(t, dir)) {
				for _, secret := range []string{testKey, testToken, testKey[:20], odd, string(oddJSON)} {
					if strings.Contains(dump, secret) {
						t.Errorf("%q is in the dump:\n%s", secret, dump)
					}
				}
				if got := compactBody(t, dump); test.want != "" && got != test.want {
					t.Errorf("body: %s, want %s", got, test.want)
				}
			}
		})
	}
}

func TestALongBodyIsCutAndSaysSo(t *testing.T) {
	for _, test := range []struct {
		name, body, want string
	}{
		{"a body at the bound is whole", strings.Repeat("a", maxBody), strings.Repeat("a", maxBody)},
		{
			"a body one byte longer is cut", strings.Repeat("a", maxBody+1),
			strings.Repeat("a", maxBody) + "…[cut: 4194305 bytes in all]",
		},
		{
			"JSON that is cut is text", `["` + strings.Repeat("a", maxBody*2) + `"]`,
			`["` + strings.Repeat("a", maxBody-2) + "…[cut: 8388612 bytes in all]",
		},
		{
			"no character is cut in two", "a" + strings.Repeat("é", maxBody),
			"a" + strings.Repeat("é", maxBody/2-1) + "…[cut: 8388609 bytes in all]",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			dumpExchange(d, newRequest(test.body), func(w http.ResponseWriter, r *http.Request) {
				if n, err := io.Copy(w, r.Body); err != nil || n != int64(len(test.body)) {
					t.Errorf("the body itself was cut: %d bytes, %v", n, err)
				}
			})
			d.Close()
			for _, dump := range bothDumps(onlyDump(t, dir)) {
				if got := textBody(t, dump); got != test.want {
					t.Errorf("body: %d bytes ending in %q, want %d bytes ending in %q",
						len(got), got[max(0, len(got)-40):], len(test.want), test.want[len(test.want)-40:])
				}
			}
			if held := d.dir.held.Load(); held != 0 {
				t.Errorf("%d bytes are still accounted for", held)
			}
		})
	}
}

func TestNoPartOfASecretIsLeftAtTheCut(t *testing.T) {
	for _, test := range []struct {
		name string
		free int // bytes of memory
	}{{"at the bound of one body", maxHeld}, {"at the bound of memory", 1000}} {
		t.Run(test.name, func(t *testing.T) {
			for before := -1; before <= len(testKey)+1; before++ {
				d, _ := blockedDumper(t, 1)
				d.dir.held.Store(int64(maxHeld - test.free))
				e := d.Begin(newRequest(""), false, testKey)
				cut := min(maxBody, test.free-e.overhang())
				e.wrote(bytes.Repeat([]byte("."), cut-before))
				for _, c := range []byte(testKey + strings.Repeat(".", 2000)) {
					e.wrote([]byte{c})
				}
				got := e.body(e.response, newMatcher(e.secrets, nil)).(string)
				shown, _, marked := strings.Cut(got, "…[cut: ")
				if !marked {
					t.Fatalf("%d bytes before the cut: there is no marker", before)
				}
				if hidden := strings.Contains(shown, redacted); hidden != (before > 0) {
					t.Errorf("%d bytes before the cut: hidden: %t", before, hidden)
				}
				if left := strings.Trim(strings.Replace(shown, redacted, "", 1), "."); left != "" {
					t.Errorf("%d bytes before the cut: %q is left", before, left)
				}
			}
		})
	}
}

func TestBodiesInMemoryAreBoundedTogether(t *testing.T) {
	dir, d, _ := newDumper(t)
	d.dir.held.Store(maxHeld - 100)
	dumpExchange(d, newRequest(strings.Repeat("a", 5000)), func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if len(body) != 5000 {
			t.Errorf("the handler read %d bytes", len(body))
		}
		answerDumped(w, r)
	})
	d.Close()
	if held := d.dir.held.Load(); held > maxHeld {
		t.Errorf("%d bytes are held, of %d", held, maxHeld)
	}
	request, _ := onlyDump(t, dir)
	if got := textBody(t, request); !strings.HasSuffix(got, "…[cut: 5000 bytes in all]") {
		t.Errorf("body: %q", got)
	}
}

func TestPlantedFilesAreNeitherFollowedNorReplaced(t *testing.T) {
	for _, suffix := range []string{"-request.json", "-response.json"} {
		for _, test := range []struct {
			name        string
			planted     func(prefix string) string
			makePlanted func(victim, path string) error
		}{
			{"a symlink with the name", func(p string) string { return p + suffix }, os.Symlink},
			{"a hard link with the name", func(p string) string { return p + suffix }, os.Link},
			{"a symlink with the temporary name", func(p string) string { return "." + p + suffix + ".partial" }, os.Symlink},
			{"a dangling symlink with the temporary name", func(p string) string { return "." + p + suffix + ".partial" }, func(victim, path string) error {
				return os.Symlink(victim+"-nowhere", path)
			}},
		} {
			t.Run(test.name+suffix, func(t *testing.T) {
				dir, d, _ := newDumper(t)
				victim := filepath.Join(t.TempDir(), "victim")
				must(t, os.WriteFile(victim, []byte("precious"), 0o600))
				must(t, d.Prepare())
				e := d.Begin(newRequest(`{}`), false)
				prefix := fmt.Sprintf("%06d-%d", e.sequence, e.began.UnixMilli())
				planted := test.planted(prefix)
				must(t, test.makePlanted(victim, filepath.Join(dir, planted)))
				e.Record(httptest.NewRecorder()).WriteHeader(http.StatusOK)
				e.Finish()
				d.Close()
				if text, _ := os.ReadFile(victim); string(text) != "precious" {
					t.Errorf("the victim now has %q", text)
				}
				if entries := dumpNames(t, filepath.Dir(victim)); len(entries) != 1 {
					t.Errorf("beside the victim: %q", entries)
				}
				next := "000002" + prefix[6:]
				want := []string{planted, next + "-request.json", next + "-response.json"}
				slices.Sort(want)
				if got := dumpNames(t, dir); !slices.Equal(got, want) {
					t.Errorf("files: %q, want %q", got, want)
				}
			})
		}
	}
}

func TestAFullDiskLosesTheDumpAndNotTheRequest(t *testing.T) {
	if os.Geteuid() != 0 || runtime.GOOS != "linux" {
		t.Skip("only root can mount a small file system")
	}
	dir := t.TempDir()
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=32k,mode=0700", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("mount: %v: %s", err, out)
	}
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	d, logs := openDumper(t, dir)
	body := strings.Repeat("a", 100_000)
	for range 3 {
		if answer := dumpExchange(d, newRequest(body), echoBody); answer.Body.String() != body || answer.Code != http.StatusOK {
			t.Errorf("the request suffered: status %d, %d bytes", answer.Code, answer.Body.Len())
		}
	}
	waitForLosses(t, d, 3)
	if held := d.dir.held.Load(); held != 0 {
		t.Errorf("%d bytes of lost bodies are still accounted for", held)
	}
	if names := dumpNames(t, dir); len(names) != 0 {
		t.Errorf("left behind on the full disk: %q", names)
	}
	dumpExchange(d, newRequest(`{}`), answerDumped)
	d.Close()
	if names := dumpNames(t, dir); len(names) != 2 {
		t.Errorf("files once there is room: %q", names)
	}
	assertLossLogged(t, logs, 3, "no space left on device")
}

func TestDumpsGoOnOnceTheirDirectoryIsBack(t *testing.T) {
	dir, d, logs := newDumper(t)
	must(t, d.Prepare())
	must(t, os.Chmod(dir, 0o755))
	for range 2 {
		dumpExchange(d, newRequest(`{}`), answerDumped)
	}
	waitForLosses(t, d, 2)
	must(t, os.RemoveAll(dir))
	dumpExchange(d, newRequest(`{}`), answerDumped)
	d.Close()
	if names := dumpNames(t, dir); len(names) != 2 {
		t.Errorf("files: %q", names)
	}
	assertLossLogged(t, logs, 2, "chmod 700")
}

func TestDumpingDoesNotDelayTheStream(t *testing.T) {
	d, logs := blockedDumper(t, 1)
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		e := d.Begin(r, false)
		defer e.Finish()
		w = e.Record(w)
		for _, event := range []string{"data: 1\n\n", "data: 2\n\n"} {
			_, _ = io.WriteString(w, event)
			_ = http.NewResponseController(w).Flush()
			<-release
		}
	}))
	defer server.Close()
	for range 3 { // the queue has room for one
		response, err := http.Post(server.URL, "application/json", strings.NewReader(`{}`))
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(response.Body)
		if line, err := lines.ReadString('\n'); line != "data: 1\n" { // while the handler still waits
			t.Fatalf("first event: %q, %v", line, err)
		}
		release <- struct{}{}
		release <- struct{}{}
		if rest, err := io.ReadAll(lines); err != nil || string(rest) != "\ndata: 2\n\n" {
			t.Fatalf("the rest: %q, %v", rest, err)
		}
		_ = response.Body.Close()
	}
	server.Close()
	go d.dir.writeQueued()
	must(t, d.dir.Destruct())
	if names := dumpNames(t, d.dir.path); len(names) != 2 {
		t.Errorf("files: %q; want those of the first exchange", names)
	}
	assertLossLogged(t, logs, 2, errQueueFull.Error())
}

func TestDumpingDoesNotReadTheBodyByItself(t *testing.T) {
	dir, d, _ := newDumper(t)
	r := newRequest(`{"a":1}`)
	r.Body = io.NopCloser(io.MultiReader(strings.NewReader(`{"a`), failingReader{t}))
	dumpExchange(d, r, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.ReadFull(r.Body, make([]byte, 3))
		w.WriteHeader(http.StatusBadRequest)
	})
	d.Close()
	request, _ := onlyDump(t, dir)
	if got := textBody(t, request); got != `{"a` {
		t.Errorf("body: %q, want what was read", got)
	}
}

func TestABodyThatIsReadAfterTheHandlerIsLeftAlone(t *testing.T) {
	dir, d, _ := newDumper(t)
	var body io.Reader
	dumpExchange(d, newRequest(strings.Repeat("a", 1<<20)), func(w http.ResponseWriter, r *http.Request) {
		body = r.Body // as http.Transport does, when the answer comes before the request is sent
		answerDumped(w, r)
	})
	if n, err := io.Copy(io.Discard, body); n != 1<<20 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	d.Close()
	if request, _ := onlyDump(t, dir); textBody(t, request) != "" {
		t.Error("it was dumped")
	}
}

func TestEachOfManyExchangesHasItsOwnNumber(t *testing.T) {
	dir, d, _ := newDumper(t)
	const many = 50 // fewer than the queue takes
	var running sync.WaitGroup
	for i := range many {
		running.Go(func() {
			dumpExchange(d, newRequest(fmt.Sprintf(`{"i":%d}`, i)), echoBody)
		})
	}
	running.Wait()
	d.Close()
	names := dumpNames(t, dir)
	if len(names) != 2*many {
		t.Fatalf("%d files, want %d", len(names), 2*many)
	}
	seen := make(map[string]bool)
	for i := 0; i < len(names); i += 2 {
		if want := fmt.Sprintf("%06d-", i/2+1); !strings.HasPrefix(names[i], want) || !strings.HasPrefix(names[i+1], want) {
			t.Errorf("%s, %s: want number %s", names[i], names[i+1], want)
		}
		request, response := compactBody(t, readDumpFile(t, dir, names[i])), compactBody(t, readDumpFile(t, dir, names[i+1]))
		if request != response || seen[request] {
			t.Errorf("%s: request %s with response %s", names[i], request, response)
		}
		seen[request] = true
	}
}

func TestNumbersGoOnAfterAReload(t *testing.T) {
	dir, old, _ := newDumper(t)
	dumpExchange(old, newRequest(`{}`), answerDumped)
	longStream := old.Begin(newRequest(`{}`), false)
	reloaded, _ := openDumper(t, dir)
	old.Close()
	old.Close() // a second one must not take the directory from the new config
	dumpExchange(reloaded, newRequest(`{}`), answerDumped)
	longStream.Record(httptest.NewRecorder()).WriteHeader(http.StatusOK)
	longStream.Finish() // after its config has gone
	reloaded.Close()
	names := dumpNames(t, dir)
	if len(names) != 6 {
		t.Fatalf("files: %q, want those of three exchanges", names)
	}
	for i, name := range names {
		if want := fmt.Sprintf("%06d-", i/2+1); !strings.HasPrefix(name, want) {
			t.Errorf("%s: want number %s", name, want)
		}
	}
}

func TestAnAbandonedExchangeIsStillDumped(t *testing.T) {
	for _, test := range []struct {
		name         string
		next         http.HandlerFunc
		wantResponse string
	}{
		{"before it was answered", func(http.ResponseWriter, *http.Request) {
			panic(http.ErrAbortHandler)
		}, ""},
		{"in the middle of its answer", func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, "data: 1\n\n")
			panic(http.ErrAbortHandler)
		}, "data: 1\n\n"},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir, d, _ := newDumper(t)
			func() {
				defer func() {
					if recover() != http.ErrAbortHandler {
						t.Error("the panic was swallowed")
					}
				}()
				dumpExchange(d, newRequest(`{}`), test.next)
			}()
			d.Close()
			dumps := readDumps(t, dir)
			if test.wantResponse == "" {
				if len(dumps) != 1 {
					t.Errorf("%d files, want the request alone", len(dumps))
				}
				return
			}
			if _, response := onlyDump(t, dir); textBody(t, response) != test.wantResponse {
				t.Errorf("response:\n%s", response)
			}
		})
	}
}

func TestWebSocketsAreDumpedWithoutWhatGoesThrough(t *testing.T) {
	dir, d, _ := newDumper(t)
	finished := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(finished)
		e := d.Begin(r, true)
		defer e.Finish()
		w = e.Record(w)
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.WriteHeader(http.StatusSwitchingProtocols)
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		_, _ = io.WriteString(conn, "frames")
		_ = conn.Close()
	}))
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = io.WriteString(conn, "GET /v1/responses HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
	if all, err := io.ReadAll(conn); err != nil || !strings.HasSuffix(string(all), "frames") {
		t.Errorf("answer: %q, %v", all, err)
	}
	<-finished
	d.Close()
	request, response := onlyDump(t, dir)
	if !strings.Contains(request, `"GET"`) || textBody(t, request) != "" {
		t.Errorf("request:\n%s", request)
	}
	if !strings.Contains(response, `"status": 101`) || textBody(t, response) != "" {
		t.Errorf("response:\n%s", response)
	}
}

func TestAWebSocketOverHTTP2IsDumpedWithoutWhatGoesThrough(t *testing.T) {
	dir, d, _ := newDumper(t)
	r := newRequest("frames of the caller")
	r.Method, r.ProtoMajor = http.MethodConnect, 2
	r.Header[":protocol"] = []string{"websocket"}
	dumpExchange(d, r, echoBody)
	d.Close()
	for _, dump := range bothDumps(onlyDump(t, dir)) {
		if textBody(t, dump) != "" {
			t.Errorf("dump:\n%s", dump)
		}
	}
}

func TestInformationalAnswersAreNotTheAnswer(t *testing.T) {
	dir, d, _ := newDumper(t)
	dumpExchange(d, newRequest(`{}`), func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusEarlyHints)
		w.WriteHeader(http.StatusTeapot)
		w.WriteHeader(http.StatusOK) // too late
	})
	d.Close()
	if _, response := onlyDump(t, dir); !strings.Contains(response, `"status": 418,`) {
		t.Errorf("response:\n%s", response)
	}
}

func TestNoDumperChangesNothing(t *testing.T) {
	var d *Dumper
	must(t, d.Prepare())
	r := newRequest(`{}`)
	body, w := r.Body, httptest.NewRecorder()
	e := d.Begin(r, false, testKey)
	if e != nil || r.Body != body || e.Record(w) != http.ResponseWriter(w) {
		t.Error("something was wrapped")
	}
	e.Finish()
	d.Close()
}

func TestARequestWithoutBodyStaysOne(t *testing.T) {
	_, d, _ := newDumper(t)
	r := newRequest("")
	r.Body = http.NoBody
	d.Begin(r, false).Finish()
	if r.Body != http.NoBody {
		t.Error("http.NoBody was wrapped, and would be sent as a body of unknown length")
	}
}

func TestClosingLeavesNoGoroutine(t *testing.T) {
	_, d, _ := newDumper(t)
	dumpExchange(d, newRequest(`{}`), answerDumped)
	d.Close()
	<-d.dir.done
	stacks := make([]byte, 1<<20)
	for range 1000 { // (it closes done a moment before it is gone)
		if !bytes.Contains(stacks[:runtime.Stack(stacks, true)], []byte("directory).writeQueued")) {
			return
		}
		runtime.Gosched()
	}
	t.Error("the writer is still there")
}

func TestClosingDoesNotWaitForADiskThatHangs(t *testing.T) {
	d, logs := blockedDumper(t, 2)
	d.dir.timeout = time.Millisecond
	d.Begin(newRequest(`{}`), false).Finish()
	must(t, d.dir.Destruct())
	d.Begin(newRequest(`{}`), false).Finish() // a stream that outlives its gate
	d.dir.writeQueued()                       // the disk is back: too late
	if _, err := os.Lstat(d.dir.path); !errors.Is(err, fs.ErrNotExist) {
		t.Error("it was written after all")
	}
	if d.dir.lost != 2 || logs.FilterMessageSnippet("could not be dumped").Len() != 1 {
		t.Errorf("%d lost, logged: %v", d.dir.lost, logs.All())
	}
}

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
