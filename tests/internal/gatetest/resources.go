//go:build unix

package gatetest

import (
	"fmt"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"testing"
)

// Resources are what a process holds.
type Resources struct {
	Goroutines, Files int
	Heap              int // bytes
}

var (
	goroutineTotal = regexp.MustCompile(`goroutine profile: total (\d+)`)
	heapAlloc      = regexp.MustCompile(`# HeapAlloc = (\d+)`)
)

// ResourcesOf is what a gate with an admin socket holds, after a collection of
// its garbage.
func ResourcesOf(t testing.TB, g *Gate) Resources {
	t.Helper()
	number := func(pattern *regexp.Regexp, path string) int {
		profile := g.AdminDo(t, http.MethodGet, path, "", "")
		found := pattern.FindStringSubmatch(profile.Body)
		if found == nil {
			t.Fatalf("%s: %d %.200s", path, profile.Status, profile.Body)
		}
		n, _ := strconv.Atoi(found[1])
		return n
	}
	r := Resources{
		Heap:       number(heapAlloc, "/debug/pprof/heap?gc=1&debug=1"),
		Goroutines: number(goroutineTotal, "/debug/pprof/goroutine?debug=1"),
	}
	if runtime.GOOS == "linux" {
		files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", g.PID()))
		Must(t, err)
		r.Files = len(files)
	}
	return r
}

// Some of Caddy's and net/http's goroutines, connections and buffers come and
// go; one leaked by each of a hundred reloads is far above these.
const (
	goroutineSlack = 20
	fileSlack      = 20
	heapSlack      = 16 << 20
)

// MustComeBack waits until the process holds no more than it did.
func (before Resources) MustComeBack(t testing.TB, g *Gate) {
	t.Helper()
	var now Resources
	back := false
	defer func() {
		t.Logf("before, the process held %+v, and now %+v", before, now)
		if !back {
			t.Logf("%.8000s", g.AdminDo(t, http.MethodGet, "/debug/pprof/goroutine?debug=1", "", "").Body)
		}
	}()
	Until(t, "the process to hold no more than before", func() bool {
		now = ResourcesOf(t, g)
		back = now.Goroutines <= before.Goroutines+goroutineSlack && now.Files <= before.Files+fileSlack && now.Heap <= before.Heap+heapSlack
		return back
	})
}
