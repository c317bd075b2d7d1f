package responsesproxygate

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

// stopped does what Caddy does to a config whose ports it is about to close.
func stopped(t *testing.T, h *Handler) {
	t.Helper()
	if err := (stoppingHook{handler: h}).Handle(t.Context(), caddy.Event{}); err != nil {
		t.Error(err)
	}
}

// published loads a gate as Caddy would, listening, and has it tell its callers.
func published(t *testing.T, c *configuration, name, path, members string) *Handler {
	t.Helper()
	h := c.mustLoad(t, name, `, "server_info": {"path": `+string(mustJSON(t, path))+`}`+members)
	for _, caller := range h.callers {
		caller.start(h.config)
		if err := h.publishTo(caller, infofile.Info{Port: 1, PID: 1, BaseURL: "http://127.0.0.1/v1"}); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

func mustJSON(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func isThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestTheFileGoesBeforeThePortDoes(t *testing.T) {
	path := filepath.Join(t.TempDir(), "info.json")
	h := published(t, newConfiguration(t), "stopped", path, "")
	stopped(t, h)
	if isThere(path) {
		t.Fatal("the file outlives the port")
	}
	c := h.callers[0]
	former := c.told()
	if err := c.rotate(time.Hour); err == nil {
		t.Error("a rotation while the gate stops says that callers were told")
	}
	if _, ok := h.policy.tokens.match(markOf(former.Reveal())); !ok {
		t.Error("a rotation that told nobody ended the token of streams under way")
	}
	if err := c.publishAgain(); err == nil {
		t.Error("the caller is told again")
	}
	if err := c.revoke(); err != nil {
		t.Errorf("access cannot be ended while the gate stops: %v", err)
	}
	if _, ok := h.policy.tokens.match(markOf(former.Reveal())); ok {
		t.Error("a revoked token is still good")
	}
	if isThere(path) {
		t.Error("a verb has written the file again")
	}
}

func TestNoTimerWritesTheFileWhileTheGateStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "info.json")
		h := published(t, newConfiguration(t), "stopping", path, `, "rotate_every": {"interval": "1m"}`)
		time.Sleep(2*time.Minute + time.Second)
		if !isThere(path) {
			t.Fatal("there is no file")
		}
		stopped(t, h)
		time.Sleep(time.Hour)
		if isThere(path) {
			t.Error("a rotation has written the file again")
		}
	})
}

func TestAReloadLeavesTheFileThere(t *testing.T) {
	path := filepath.Join(t.TempDir(), "info.json")
	running := newConfiguration(t)
	h := published(t, running, "reloading", path, "")
	for range 3 {
		next := newConfiguration(t)
		second := published(t, next, "reloading", path, "")
		stopped(t, h)
		running.discard()
		if !isThere(path) {
			t.Fatal("a reload has removed the file")
		}
		if err := second.callers[0].rotate(0); err != nil {
			t.Errorf("after a reload: %v", err)
		}
		running, h = next, second
	}
	// A config that was loaded and never started does not keep it.
	unstarted := newConfiguration(t)
	unstarted.mustLoad(t, "reloading", "")
	stopped(t, h)
	if isThere(path) {
		t.Error("a config that does not run has kept the file")
	}
}

// In a container every launch may have the same process id, port and token.
func TestWhatTheNextLaunchWroteStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "info.json")
	running := newConfiguration(t)
	h := published(t, running, "followed", path, "")
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	stopped(t, h)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	running.discard()
	if !isThere(path) {
		t.Error("the end of one launch has removed the file of the next")
	}
}

func TestAGateWhoseFileWasReplacedSaysSoOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "info.json")
		core, logs := observer.New(zap.ErrorLevel)
		h := published(t, newConfiguration(t), "replaced", path, "")
		c := h.callers[0]
		c.mu.Lock()
		c.current.logger = zap.New(core)
		c.mu.Unlock()
		said := func(want int) {
			t.Helper()
			time.Sleep(time.Hour)
			if got := logs.FilterMessageSnippet("not the one that this gate wrote").Len(); got != want {
				t.Errorf("it was said %d times, want %d", got, want)
			}
		}
		said(0)
		if err := os.WriteFile(path, []byte("{}\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		said(1)
		if err := c.rotate(0); err != nil {
			t.Fatal(err)
		}
		said(1)
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
		said(2)
		if err := c.revoke(); err != nil { // there is no file to miss
			t.Fatal(err)
		}
		said(2)
		if err := c.rotate(0); err != nil {
			t.Fatal(err)
		}
		stopped(t, h)
		said(2)
	})
}
