//go:build unix

package responsesproxygate

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
)

func TestOneClientsFileIsNoFaultOfTheOthers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	const contractor = 65534
	for name, spoil := range map[string]func(path string) error{
		"everybody may read it":             func(path string) error { return os.Chmod(path, 0o644) },
		"a directory is in its place":       func(path string) error { _ = os.Remove(path); return os.Mkdir(path, 0o700) },
		"a link is in its place":            func(path string) error { _ = os.Remove(path); return os.Symlink("/etc/passwd", path) },
		"everybody may write its directory": func(path string) error { return os.Chmod(filepath.Dir(path), 0o777) },
	} {
		t.Run(name, func(t *testing.T) {
			home := filepath.Join(t.TempDir(), "sam")
			if err := os.Mkdir(home, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chown(home, contractor, contractor); err != nil {
				t.Fatal(err)
			}
			theirs, ours := filepath.Join(home, "gate.json"), filepath.Join(t.TempDir(), "ours.json")
			gate := strings.ReplaceAll(t.Name(), "/", "-")[:60]
			clients := fmt.Sprintf(`, "client": [{"name": "contractor", "server_info": {"path": %q, "owner": "%d:%[2]d"}}, {"name": "codex", "server_info": {"path": %[3]q}}]`,
				theirs, contractor, ours)
			start := func() *Handler {
				h, err := newConfiguration(t).load(gate, clients)
				if err != nil {
					t.Fatalf("the gate does not start: %v", err)
				}
				for _, c := range h.callers {
					c.start(h.config)
				}
				return h
			}
			publish := func(h *Handler) (errs []error) {
				for _, c := range h.callers {
					errs = append(errs, h.publishTo(c, infofile.Info{Port: 1, PID: 1, BaseURL: "http://127.0.0.1/v1"}))
				}
				return errs
			}
			h := start()
			if errs := publish(h); errs[0] != nil || errs[1] != nil {
				t.Fatal(errs)
			}
			if err := spoil(theirs); err != nil {
				t.Fatal(err)
			}
			_, before := readInfo(t, ours)
			r := httptest.NewRequest(http.MethodPost, "/", http.NoBody)
			r.SetPathValue("gate", gate)
			answer, err := (&adminAPI{logger: zap.NewNop()}).rotateGate(r)
			if status, ok := answer.(adminapi.Gate); !ok || len(status.Clients) != 1 || len(status.NotRotated) != 1 || !strings.Contains(status.NotRotated[0], theirs) {
				t.Errorf("all are rotated: %+v, %v", answer, err)
			}
			if _, after := readInfo(t, ours); after == before {
				t.Error("the other client's token is the same")
			}
			next := start() // a reload
			if errs := publish(next); errs[0] == nil || errs[1] != nil {
				t.Errorf("after a reload: %v", errs)
			}
			registry := prometheus.NewRegistry()
			if err := registerMetrics(registry); err != nil {
				t.Fatal(err)
			}
			if got := series(t, registry, gate); got["server_info_faults_total contractor"] == 0 {
				t.Errorf("the fault is not counted: %v", got)
			}
		})
	}
}

// The operator's own slip is not the client's: it is refused at the start.
func TestAPlaceThatTheOperatorChoseBadlyIsStillRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	open := filepath.Join(t.TempDir(), "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err := newConfiguration(t).load("chosen-badly",
		fmt.Sprintf(`, "client": [{"name": "contractor", "server_info": {"path": %q, "owner": "65534:65534"}}]`, filepath.Join(open, "gate.json")))
	if err == nil || !strings.Contains(err.Error(), "chmod go-w "+open) {
		t.Errorf("it is taken: %v", err)
	}
}

func readInfo(t *testing.T, path string) (infofile.Info, string) {
	t.Helper()
	info, err := infofile.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	return info, info.Token.Reveal()
}

// On Windows, a path below a file is one of a file that is gone.
func TestAnExpiredClientsFileIsRemovedWhenItIsPossible(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := rotating(t, publication{ends: time.Now().Add(time.Hour)})
		last := c.inFile(t)
		move := func(to *infofile.File) {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.current.file = to
		}
		elsewhere, err := infofile.New(filepath.Join(c.file.Path(), "below-a-file", "info.json"), "")
		if err != nil {
			t.Fatal(err)
		}
		move(elsewhere)
		time.Sleep(time.Hour)
		synctest.Wait()
		if c.takes(last) {
			t.Error("the token outlives the access")
		}
		move(c.file)
		time.Sleep(retryAfter)
		synctest.Wait()
		if c.inFile(t) != "" {
			t.Error("the file is not removed once it can be")
		}
	})
}
