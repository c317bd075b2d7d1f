// Package caddybuild finds the Caddy under test. It is apart from gatetest for
// the benchmarks, a program that is no test.
package caddybuild

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Build is how to build a Caddy.
type Build struct {
	Args []string // of go build
	Env  []string // beside the tests' own
}

// Find puts a Caddy into dir, under the name caddy: a copy of the one that
// CADDY_BINARY names (which other users may not be able to reach where it is),
// or one that it builds from cmd/caddy.
// A relative CADDY_BINARY begins at the repository's
// root or, if nothing is there, in the working directory.
func Find(ctx context.Context, dir string, how Build) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	caddy := filepath.Join(dir, "caddy")
	if binary := os.Getenv("CADDY_BINARY"); binary != "" {
		if fromRoot := filepath.Join(root, binary); !filepath.IsAbs(binary) && exists(fromRoot) {
			binary = fromRoot
		}
		if binary, err = filepath.Abs(binary); err != nil {
			return "", err
		}
		content, err := os.ReadFile(binary)
		if err != nil {
			return "", fmt.Errorf("CADDY_BINARY: %w", err)
		}
		return caddy, os.WriteFile(caddy, content, 0o755)
	}
	build := exec.CommandContext(ctx, "go", append(append([]string{"build", "-o", caddy}, how.Args...), "./cmd/caddy")...)
	build.Dir, build.Env = root, append(os.Environ(), how.Env...)
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building cmd/caddy: %w\n%s", err, out)
	}
	return caddy, nil
}

// Root is the module's directory: go test runs in the package's.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for !exists(filepath.Join(dir, "go.mod")) {
		parent := filepath.Dir(dir)
		if parent == dir {
			return "", errors.New("there is no go.mod above the working directory")
		}
		dir = parent
	}
	return dir, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}
