// Command modproxy makes a module proxy of a directory: it writes the module
// at a commit there as the public proxy would serve it. A file that no Go
// client could download is an error. With it, a build of a published version
// can be tried before there is one:
//
//	go run ./tests/modproxy -version v0.1.0 /tmp/proxy
//	GOPROXY=file:///tmp/proxy,https://proxy.golang.org GONOSUMDB=github.com/responses-proxy-gate \
//		xcaddy build --with github.com/responses-proxy-gate/caddy-responses-proxy-gate@v0.1.0
//
// A version that Go's module cache has of another commit is refused: Go would
// build that, and never look into the directory.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/sumdb/dirhash"
	"golang.org/x/mod/zip"
)

func main() {
	log.SetFlags(0)
	log.SetPrefix("modproxy: ")
	commit := flag.String("commit", "HEAD", "what is published")
	version := flag.String("version", "v0.0.0", "as which version")
	flag.Parse()
	if flag.NArg() != 1 {
		log.Fatal("usage: modproxy [-commit REVISION] -version VERSION DIRECTORY")
	}
	// The clone may belong to another user, for whom git would not speak.
	for name, value := range map[string]string{"COUNT": "1", "KEY_0": "safe.directory", "VALUE_0": "*"} {
		if err := os.Setenv("GIT_CONFIG_"+name, value); err != nil {
			log.Fatal(err)
		}
	}
	if err := publish(*commit, *version, flag.Arg(0)); err != nil {
		log.Fatal(err)
	}
}

// publish writes the module at a commit into dir, in the layout of
// https://go.dev/ref/mod#goproxy-protocol.
func publish(commit, version, dir string) error {
	commit, err := git("rev-parse", "--verify", commit+"^{commit}")
	if err != nil {
		return err
	}
	goMod, err := git("show", commit+":go.mod")
	if err != nil {
		return err
	}
	repository, err := git("rev-parse", "--path-format=absolute", "--git-common-dir")
	if err != nil {
		return err
	}
	published := module.Version{Path: modfile.ModulePath([]byte(goMod)), Version: version}
	escaped, err := module.EscapePath(published.Path)
	if err != nil {
		return err
	}
	dir = filepath.Join(dir, filepath.FromSlash(escaped), "@v")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	info, err := json.Marshal(map[string]any{"Version": version, "Time": time.Now().UTC()})
	if err != nil {
		return err
	}
	for name, content := range map[string][]byte{"list": []byte(version + "\n"), version + ".info": info, version + ".mod": []byte(goMod + "\n")} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return err
		}
	}
	archive, err := os.Create(filepath.Join(dir, version+".zip"))
	if err != nil {
		return err
	}
	if err := zip.CreateFromVCS(archive, published, filepath.Dir(repository), commit, ""); err != nil {
		return err
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return checkCache(escaped, version, archive.Name())
}

// checkCache refuses a version of which Go's module cache has other content
// than the archive.
func checkCache(escaped, version, archive string) error {
	out, err := exec.Command("go", "env", "GOMODCACHE").Output()
	if err != nil {
		return fmt.Errorf("go env GOMODCACHE: %w", err)
	}
	kept, err := os.ReadFile(filepath.Join(strings.TrimSpace(string(out)), "cache", "download", filepath.FromSlash(escaped), "@v", version+".ziphash"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	hash, err := dirhash.HashZip(archive, dirhash.DefaultHash)
	if err == nil && hash != strings.TrimSpace(string(kept)) {
		err = fmt.Errorf("%s is in Go's module cache of another commit, and Go would build that; take another version", version)
	}
	return err
}

// git runs git, and returns what it prints, without the last newline.
func git(args ...string) (string, error) {
	out, err := exec.Command("git", args...).Output()
	if err != nil {
		return "", fmt.Errorf("git %s: %w", strings.Join(args, " "), err)
	}
	return strings.TrimSuffix(string(out), "\n"), nil
}
