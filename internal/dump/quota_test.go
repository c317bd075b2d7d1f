//go:build !windows

package dump

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestNestedListsDoNotGrowInADump(t *testing.T) {
	dir, d, _ := newDumper(t)
	body := `{"input":[` + strings.Repeat(strings.Repeat("[", 100)+strings.Repeat("]", 100)+",", 1380) + `0]}` // 276 KB
	dumpExchange(d, newRequest(body), echoBody)
	d.Close()
	request, _ := onlyDump(t, dir)
	if len(request) > 2*len(body) {
		t.Errorf("a body of %d bytes became %d", len(body), len(request))
	}
	if got := compactBody(t, request); got != body {
		t.Errorf("the body is not what it was: %.100s", got)
	}
}

func TestABodyOfOrdinaryShapeIsIndentedAtAnySize(t *testing.T) {
	dir, d, _ := newDumper(t)
	dumpExchange(d, newRequest(`{"input":[`+strings.Repeat(`{"role":"user","content":"`+strings.Repeat("a", 200)+`"},`, 5000)+`{}]}`), echoBody)
	d.Close()
	if request, _ := onlyDump(t, dir); !strings.Contains(request, "\n  \"body\": {\n    \"input\": [\n") {
		t.Errorf("dumped: %.300s", request)
	}
}

func TestDumpsTakeNoMoreThanTheirShareOfADirectory(t *testing.T) {
	dir, d, logs := newDumper(t)
	must(t, d.Prepare())
	must(t, os.WriteFile(filepath.Join(dir, "of-another-launch"), make([]byte, 100_000), 0o600))
	d.dir.limit = 200_000
	for range 40 { // two files each
		dumpExchange(d, newRequest(`{}`), answerDumped)
	}
	waitForLosses(t, d, 29)
	if names := dumpNames(t, dir); len(names) != 2*11+1 {
		t.Errorf("%d files, want 23", len(names))
	}
	must(t, os.Remove(filepath.Join(dir, "of-another-launch")))
	d.dir.counted = time.Time{} // a second has passed
	dumpExchange(d, newRequest(`{}`), answerDumped)
	d.Close()
	if names := dumpNames(t, dir); len(names) != 2*12 {
		t.Errorf("%d files once there is room, want 24", len(names))
	}
	assertLossLogged(t, logs, 29, "move or delete some")
}

func TestDumpsLeaveRoomOnTheDisk(t *testing.T) {
	dir, d, logs := newDumper(t)
	d.dir.space = func(string) (free, total uint64, known bool) { return 51_000, 1_000_000, true }
	dumpExchange(d, newRequest(`{}`), answerDumped)
	d.Close() // (the loss is counted before it is logged)
	if names := dumpNames(t, dir); len(names) != 0 {
		t.Errorf("files: %q", names)
	}
	if all := logs.All(); len(all) != 1 || !strings.Contains(all[0].ContextMap()["error"].(string), "are kept for others") {
		t.Errorf("logged: %v", all)
	}
}

func TestTheSizeOfADiskIsKnown(t *testing.T) {
	if free, total, known := diskSpace(t.TempDir()); !known || free == 0 || total < free {
		t.Errorf("%d of %d are free, known: %t", free, total, known)
	}
	if _, _, known := diskSpace(filepath.Join(t.TempDir(), "nowhere")); known {
		t.Error("a disk that is not there has a size")
	}
}
