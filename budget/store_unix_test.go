//go:build unix

package budget

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"
)

func TestCountsThatOthersCouldChangeAreNotBelieved(t *testing.T) {
	const nobody = 65534
	for name, loosen := range map[string]func(folder, record string) error{
		"the folder is everybody's":   func(folder, _ string) error { return os.Chmod(folder, 0o777) },
		"the budget's is":             func(_, record string) error { return os.Chmod(filepath.Dir(record), 0o777) },
		"the record is":               func(_, record string) error { return os.Chmod(record, 0o666) },
		"the folder is another's":     func(folder, _ string) error { return os.Chown(folder, nobody, nobody) },
		"the budget's is another's":   func(_, record string) error { return os.Chown(filepath.Dir(record), nobody, nobody) },
		"the record is another's":     func(_, record string) error { return os.Chown(record, nobody, nobody) },
		"the record is a pipe":        func(_, record string) error { return errors.Join(os.Remove(record), syscall.Mkfifo(record, 0o600)) },
		"the record leads to another": func(_, record string) error { return errors.Join(os.Remove(record), os.Symlink("/dev/zero", record)) },
	} {
		t.Run(name, func(t *testing.T) {
			// (Here: what is skipped in a bubble counts as passed.)
			if os.Getuid() != 0 && strings.HasSuffix(name, "is another's") {
				t.Skip("only root gives files to others")
			}
			synctest.Test(t, func(t *testing.T) {
				folder := filepath.Join(t.TempDir(), "caddy")
				h := open(t, folder, daily)
				call(t, h, "codex", "{}", costs(1, 2))
				stop(t, h)
				again := open(t, folder, daily) // (a control)
				if got := spentBy(t, again, "codex", "1d").Tokens(); got != 3 {
					t.Fatalf("%d are known", got)
				}
				if err := loosen(folder, records(t, folder)[0]); err != nil {
					t.Fatal(err)
				}
				saved() // the running one goes on with what it knows
				if got := spentBy(t, again, "codex", "1d").Tokens(); got != 3 {
					t.Errorf("the running one knows of %d", got)
				}
				_, err := openBook(&certmagic.FileStorage{Path: folder}, "default", zap.NewNop())
				if err == nil || strings.Contains(err.Error(), "has not answered") {
					t.Errorf("it starts, or waits: %v", err)
				}
			})
		})
	}
}
