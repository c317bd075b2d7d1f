//go:build !windows

package dump

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"go.uber.org/zap"
)

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
