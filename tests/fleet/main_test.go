//go:build unix

// Package fleet tests, from the outside, that replicas have the same clients:
// two Caddy processes on one storage, which are killed, cut off and brought
// back.
package fleet

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestMain(m *testing.M) { os.Exit(gatetest.Main(m)) }

// replica starts a gate with shared clients on a folder as its storage.
func replica(t *testing.T, up *gatetest.Upstream, folder string) *gatetest.Gate {
	t.Helper()
	return gatetest.StartReloadable(t, up, gatetest.Site{
		Global: "storage file_system " + folder,
		Gate:   "shared_clients 1s\nallow_route POST /v1/responses\nallow_route GET /v1/responses\n",
	})
}

// newToken makes a token and its digest, as the command line does.
func newToken() (token, digest string) {
	raw := make([]byte, 32)
	_, _ = rand.Read(raw)
	token = base64.RawURLEncoding.EncodeToString(raw)
	sum := sha256.Sum256([]byte(token))
	return token, hex.EncodeToString(sum[:])
}

// ask has a replica's admin endpoint change a shared client. Unlike AdminDo, it
// may be used while the replica is being killed: what comes of that is an error.
func ask(client *http.Client, method, path, body string) (status int, answer string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*gatetest.Patience)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, "http://127.0.0.1/responses_proxy_gate/gates/default/shared/"+path, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	response, err := client.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer response.Body.Close()
	content, err := io.ReadAll(response.Body)
	return response.StatusCode, string(content), err
}

func adminOf(t *testing.T, g *gatetest.Gate) *http.Client {
	return gatetest.UnixClient(t, g.Site.AdminSocket())
}

// does fails the test unless the change is made.
func does(t *testing.T, g *gatetest.Gate, method, path, body string) {
	t.Helper()
	if status, answer, err := ask(adminOf(t, g), method, path, body); err != nil || status != http.StatusOK {
		t.Fatalf("%s %s: %d %s, %v", method, path, status, answer, err)
	}
}

// adds adds a client, and returns its token.
func adds(t *testing.T, g *gatetest.Gate, name string) (token string) {
	t.Helper()
	token, digest := newToken()
	does(t, g, http.MethodPut, name, fmt.Sprintf(`{"sha256":%q}`, digest))
	return token
}

// statusWith is what a request with a token gets.
func statusWith(t *testing.T, g *gatetest.Gate, token string) int {
	t.Helper()
	return g.Do(t, gatetest.SetHeader("Authorization", "Bearer "+token)).Status
}

// awaitStatus waits until a request with a token gets this status.
func awaitStatus(t *testing.T, what string, g *gatetest.Gate, token string, want int) {
	t.Helper()
	began := time.Now()
	gatetest.Until(t, fmt.Sprintf("%d with a token: %s", want, what), func() bool { return statusWith(t, g, token) == want })
	t.Logf("%s: %d after %v", what, want, time.Since(began).Round(time.Millisecond))
}

// wantStatus fails the test unless a request with a token gets this status now.
func wantStatus(t *testing.T, what string, g *gatetest.Gate, token string, want int) {
	t.Helper()
	if got := statusWith(t, g, token); got != want {
		t.Errorf("%s: the token gets %d, want %d", what, got, want)
	}
}

// run runs "caddy responses-proxy" with a verb for a replica, and returns what
// it writes to stdout.
func run(t *testing.T, g *gatetest.Gate, args ...string) (stdout string) {
	t.Helper()
	dir := gatetest.TempDir(t)
	cmd := gatetest.Launch{Dir: dir, Args: append([]string{"responses-proxy"}, append(args, "--address", "unix/"+g.Site.AdminSocket())...)}.Command()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %v\n%s%s", args, err, out.String(), errs.String())
	}
	return out.String()
}
