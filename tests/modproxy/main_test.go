package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// Go never asks a proxy for a version that its cache has: a release would be
// built, and tried, of an earlier commit that had the same name.
func TestAVersionThatIsPublishedAgainIsNotTakenFromTheCache(t *testing.T) {
	cache := t.TempDir()
	t.Setenv("GOMODCACHE", cache)
	for _, path := range []string{
		"cache/download/example.com/gate/@v/v0.1.0.zip", "cache/download/example.com/gate/@v/v0.1.0.ziphash", "cache/download/example.com/gate/@v/v0.1.1.zip",
		"example.com/gate@v0.1.0/internal/x.go", "example.com/gate@v0.1.1/x.go",
	} {
		path = filepath.Join(cache, filepath.FromSlash(path))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, 0o444); err != nil {
			t.Fatal(err)
		}
	}
	for _, dir := range []string{"example.com/gate@v0.1.0/internal", "example.com/gate@v0.1.0"} { // as Go leaves them
		if err := os.Chmod(filepath.Join(cache, filepath.FromSlash(dir)), 0o555); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 { // the second time, there is nothing to forget
		if err := forget("example.com/gate", "v0.1.0"); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	for _, pattern := range []string{"cache/download/example.com/gate/@v/*", "example.com/*/*"} {
		found, err := filepath.Glob(filepath.Join(cache, filepath.FromSlash(pattern)))
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range found {
			left = append(left, filepath.Base(path))
		}
	}
	if want := []string{"v0.1.1.zip", "x.go"}; !slices.Equal(left, want) {
		t.Errorf("the cache has %v, want %v", left, want)
	}
}
