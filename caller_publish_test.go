package responsesproxygate

import (
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// For a disk that is full when the gate starts or reloads: callers are told as
// soon as it is not, without another reload.
func TestCallersWhoCouldNotBeToldAreToldWhenItIsPossible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{rotation: &rotation{interval: time.Hour, grace: time.Minute}})
		former := c.inFile(t)
		next := c.current
		next.info.Port++
		var err error
		if next.file, err = infofile.New(filepath.Join(t.TempDir(), "next.json"), ""); err != nil {
			t.Fatal(err)
		}
		next.path = next.file.Path()
		if err := os.Mkdir(next.path, 0o700); err != nil {
			t.Fatal(err)
		}
		c.configs[1].path = next.path
		if c.publish(1, next) == nil {
			t.Fatal("published over a directory")
		}
		time.Sleep(10 * publishAgainAfter)
		synctest.Wait()
		if c.inFile(t) != former || !c.takes(former) {
			t.Error("what callers have does not hold any more")
		}
		if _, err := publishedInfo(c.id.gate); err == nil && c.id.client == "" {
			t.Error("nobody can see that callers are not told")
		}
		if err := os.Remove(next.path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(publishAgainAfter)
		synctest.Wait()
		if c.inFile(t) != "" {
			t.Error("the former file is still there")
		}
		if info, err := infofile.Read(next.path); err != nil || info.Port != next.info.Port || !c.takes(info.Token.Reveal()) {
			t.Errorf("callers are not told: %v, %v", info, err)
		}
		time.Sleep(time.Hour)
		synctest.Wait()
		if info, err := infofile.Read(next.path); err != nil || info.Token.Reveal() == former {
			t.Errorf("rotations do not go on: %v, %v", info, err)
		}
	})
}

// While a reload is under way, only it says what callers are told.
func TestAFormerConfigDoesNotSpeakUpAgainDuringAReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{})
		blocked := c.current
		blocked.info.Port++
		if err := os.Remove(c.file.Path()); err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(c.file.Path(), 0o700); err != nil {
			t.Fatal(err)
		}
		if c.publish(1, blocked) == nil {
			t.Fatal("published over a directory")
		}
		if _, err := openCaller(c.id, 2); err != nil { // a reload begins
			t.Fatal(err)
		}
		if err := os.Remove(c.file.Path()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * publishAgainAfter)
		synctest.Wait()
		if c.inFile(t) != "" {
			t.Error("the running config's file came during the reload")
		}
		if err := closeCaller(2, c.caller); err != nil { // it fails
			t.Fatal(err)
		}
		time.Sleep(publishAgainAfter)
		synctest.Wait()
		if info, err := infofile.Read(c.file.Path()); err != nil || info.Port != blocked.info.Port {
			t.Errorf("after the failed reload callers are not told: %v, %v", info, err)
		}
	})
}
