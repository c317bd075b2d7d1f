//go:build unix

package e2e

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAChangedTokenFileIsTakenUpWithoutAReload(t *testing.T) {
	t.Parallel()
	dir := gatetest.TempDir(t)
	path := filepath.Join(dir, "token")
	old, next := strings.Repeat("o", 43), strings.Repeat("n", 43)
	gatetest.WriteFile(t, path, old+"\n")
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: dir, Gate: "token {file." + path + "}"})
	with := func(token string) int { return g.Do(t, gatetest.SetHeader("X-Proxy-Token", token)).Status }
	if with(old) != http.StatusOK || with(next) != http.StatusUnauthorized {
		t.Fatal("the file's token is not the gate's")
	}
	replace(t, path, "short\n")
	g.WaitOutput("token has changed and has nothing that can be used", 1)
	if with(old) != http.StatusOK {
		t.Error("a broken file ends the old token")
	}
	replace(t, path, next+"\n")
	gatetest.Until(t, "the new token to be taken", func() bool { return with(next) == http.StatusOK })
	if with(old) != http.StatusOK {
		t.Error("the former token has no grace")
	}
	if out := g.Output.String(); strings.Contains(out, old) || strings.Contains(out, next) {
		t.Error("a token is in the log")
	}
}
