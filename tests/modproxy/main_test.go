package main

import (
	"archive/zip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/dirhash"
)

// Go never asks a proxy for a version that its cache has: a release would be
// built, and tried, of an earlier commit that had the same name.
func TestAVersionThatTheCacheHasOfAnotherCommitIsRefused(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("GOMODCACHE", cache)
	archive := func(content string) string {
		file, err := os.Create(filepath.Join(t.TempDir(), "v0.1.0.zip"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		w := zip.NewWriter(file)
		entry, err := w.Create("example.com/gate@v0.1.0/x.go")
		if err == nil {
			_, err = entry.Write([]byte(content))
		}
		if err == nil {
			err = w.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		return file.Name()
	}
	former := archive("package a")
	hash, err := dirhash.HashZip(former, dirhash.DefaultHash)
	if err != nil {
		t.Fatal(err)
	}
	kept := filepath.Join(cache, "cache", "download", "example.com", "gate", "@v")
	if err := os.MkdirAll(kept, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(kept, "v0.1.0.ziphash"), []byte(hash+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := checkCache("example.com/gate", "v0.1.0", archive("package b")); err == nil || !strings.Contains(err.Error(), "another version") {
		t.Errorf("another commit: %v", err)
	}
	for version, file := range map[string]string{"v0.1.0": former, "v0.1.1": archive("package b")} {
		if err := checkCache("example.com/gate", version, file); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}
