//go:build unix

package responsesproxygate

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/certmagic"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/sharedstore"
)

func TestAStorageInWhichOthersCanPutClientsIsRefused(t *testing.T) {
	for name, loosen := range map[string]func(t *testing.T, folder string) string{
		"the folder": func(t *testing.T, folder string) string { return folder },
		"one within": func(t *testing.T, folder string) string { return filepath.Join(folder, "responses_proxy_gate") },
		"one above":  func(t *testing.T, folder string) string { return filepath.Dir(folder) },
	} {
		folder := filepath.Join(t.TempDir(), "data", "caddy")
		loose := loosen(t, folder)
		for _, dir := range []string{folder, loose} {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Chmod(loose, 0o777); err != nil {
			t.Fatal(err)
		}
		_, err := withStorage(t, folder).load(t.Name(), sharing)
		if err == nil || !strings.Contains(err.Error(), "shared_clients") || !strings.Contains(err.Error(), "chmod go-w "+loose) {
			t.Errorf("others can write to %s: %v", name, err)
		}
	}
}

func TestRecordsInAFolderAreForTheirOwnerOnly(t *testing.T) {
	folder := t.TempDir()
	h := withStorage(t, folder).starts(t, t.Name(), sharing)
	addsTo(t, h, "ci")
	for path, want := range map[string]os.FileMode{
		"responses_proxy_gate":                                  os.ModeDir | 0o700,
		"responses_proxy_gate/" + t.Name() + ".clients":         os.ModeDir | 0o700,
		"responses_proxy_gate/" + t.Name() + ".clients/ci.json": 0o600,
		"responses_proxy_gate/" + t.Name() + ".clients/changed": 0o600,
	} {
		info, err := os.Stat(filepath.Join(folder, path))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
}

func TestARecordThatOthersCanWriteLetsNobodyIn(t *testing.T) {
	folder := t.TempDir()
	h := withStorage(t, folder).starts(t, t.Name(), sharing)
	addsTo(t, h, "ci")
	record := filepath.Join(folder, "responses_proxy_gate", t.Name()+".clients", "ci.json")
	store := sharedstore.New(&certmagic.FileStorage{Path: folder}, t.Name())
	if found, err := store.Read(t.Context(), ""); err != nil || found.Records["ci"] == nil {
		t.Fatalf("as the gate made it: %v, %v", found, err)
	}
	if err := os.Chmod(record, 0o666); err != nil {
		t.Fatal(err)
	}
	found, err := store.Read(t.Context(), "")
	if err != nil || found.Records["ci"] != nil || found.Damaged["ci"] == nil || !strings.Contains(found.Damaged["ci"].Error(), "chmod go-w "+record) {
		t.Errorf("others can write it: %v, %v", found, err)
	}
	if err := os.Chmod(filepath.Join(filepath.Dir(record), "changed"), 0o666); err != nil {
		t.Fatal(err)
	}
	if found, err := store.Read(t.Context(), ""); err == nil && found.BadMark == nil {
		t.Errorf("others can write the mark: %v", found)
	}
}
