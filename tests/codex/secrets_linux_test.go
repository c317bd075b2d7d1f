package codex

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestNoSecretIsWhereOtherProgramsLook(t *testing.T) {
	upstream := newUpstream(t)
	p := startOurs(t, upstream.responsesURL(), "--access-log", "--websocket", "--http-shutdown")
	turn("Authorization: Bearer "+operatorKey).exchange(t, p, patience) // a caller who has the key
	call{target: "/elsewhere", headers: likeCodex}.exchange(t, p, patience)
	bearer := turn("Authorization: Bearer " + p.token)
	bearer.noToken = true
	bearer.exchange(t, p, patience)
	for range 2 { // both turns are in the access log
		p.awaitAccess(t, http.MethodPost, http.StatusOK)
	}

	places := map[string][]byte{"stderr": []byte(p.printed())}
	for _, file := range []string{"cmdline", "environ", "comm", "status"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.PID(), file))
		if os.IsPermission(err) && os.Geteuid() != 0 {
			continue // hardened, and we are not root: so much the better
		}
		if err != nil {
			t.Fatal(err)
		}
		places["/proc/PID/"+file] = content
	}
	err := filepath.WalkDir(p.Cmd.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			places["the file "+path], err = os.ReadFile(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for place, content := range places {
		for name, secret := range map[string]string{"key": operatorKey, "token": p.token} {
			if bytes.Contains(content, []byte(secret)) {
				t.Errorf("%s has the %s", place, name)
			}
		}
	}
}

func TestTheProxyKeepsNothingOnDisk(t *testing.T) {
	p := startOurs(t, newUpstream(t).responsesURL())
	p.stop(t)
	err := filepath.WalkDir(p.Cmd.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			t.Errorf("in its home, the proxy has left %s", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheProxyStartsNoOtherProgram(t *testing.T) {
	p := startOurs(t, newUpstream(t).responsesURL())
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", p.PID()))
	if err != nil || len(tasks) == 0 {
		t.Fatalf("no threads: %v", err)
	}
	for _, task := range tasks {
		if children, err := os.ReadFile(task); err == nil && len(children) > 0 {
			t.Errorf("the proxy has children: %s", children)
		}
	}
}

// cpuTicks is the CPU time of a process so far, user and system, in the
// kernel's ticks of 10 ms (proc_pid_stat(5)).
func cpuTicks(t *testing.T, pid int) int {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	// The name before the last parenthesis may have anything in it.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const user, system = 11, 12 // fields 14 and 15, from 1, less the three cut off
	ticks := 0
	for _, field := range []int{user, system} {
		n, err := strconv.Atoi(fields[field])
		if err != nil {
			t.Fatal(err)
		}
		ticks += n
	}
	return ticks
}

func TestCPUTimeFromStartToReadyIsReported(t *testing.T) {
	const launches = 20
	upstream := newUpstream(t)
	cpu := func(launch func() *proxy) (milliseconds float64) {
		ticks := 0
		for range launches {
			p := launch()
			ticks += cpuTicks(t, p.PID())
			p.Kill()
		}
		return float64(ticks) * 10 / launches
	}
	ours := cpu(func() *proxy { return startOurs(t, upstream.responsesURL()) })
	t.Logf("ours: %.0f ms from start to ready, mean of %d launches (wanted: less than 150 ms)", ours, launches)
	gatetest.CodexBinary(t)
	original := cpu(func() *proxy { return startOriginal(t, upstream.responsesURL()) })
	t.Logf("the original: %.0f ms; ours takes %.1f times as long", original, ours/max(original, 1))
}
