//go:build unix

package admin

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// The command gathers small bodies before it sends them on. A request that is
// still being gathered when the access ends never leaves.
func TestABankedRequestOfTheCommandIsNotFinishedAfterARotation(t *testing.T) {
	t.Parallel()
	for name, size := range map[string]int{"gathered": 100, "sent on as it comes": 40 << 10} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := gatetest.TempDir(t)
			g := gatetest.StartCommand(t, gatetest.NewUpstream(t, nil), gatetest.Site{Dir: dir, Admin: "unix"},
				gatetest.Launch{Args: []string{"--admin-socket", filepath.Join(dir, "admin.sock")}})
			prompt := strings.Repeat("x", size)
			conn := g.Dial(t)
			conn.Send(fmt.Sprintf("POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Proxy-Token: %s\r\nContent-Length: %d\r\n\r\n%s",
				g.Token, size, prompt[:size-1]))
			awaitAccepted(t, g, "default")
			if out, code := run(t, atSocket(g, "rotate", "--grace", "0s")...); code != 0 {
				t.Fatalf("rotate: %d %s", code, out)
			}
			conn.Send(prompt[size-1:])
			if got := conn.Answer(); got.Status != http.StatusUnauthorized || !strings.Contains(got.Body, "access_ended") {
				t.Errorf("finished with %d %s", got.Status, got.Body)
			}
			for _, seen := range g.Up.Requests() {
				if len(seen.Body) >= size {
					t.Error("the upstream has the whole prompt")
				}
			}
		})
	}
}

func TestABankedRequestIsNotFinishedAfterItsClientHasExpired(t *testing.T) {
	t.Parallel()
	dir := gatetest.TempDir(t)
	file := filepath.Join(dir, "brief.json")
	g := gatetest.StartReloadable(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Dir: dir, Gate: client("codex", dir) + "client brief {\nserver_info " + file + "\nexpires 4s\n}\n",
	})
	token := tokenOf(t, g, "brief")
	conn := g.Dial(t)
	conn.Send("POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nX-Proxy-Token: " + token + "\r\nContent-Length: 2\r\n\r\n{")
	awaitAccepted(t, g, "brief")
	gatetest.Until(t, "the end of the file of the client that expires", func() bool { return gatetest.Missing(file) })
	conn.Send("}")
	if got := conn.Answer(); got.Status != http.StatusUnauthorized || !strings.Contains(got.Body, "access_ended") {
		t.Errorf("finished with %d %s", got.Status, got.Body)
	}
}

// awaitAccepted waits until the gate has let a client's first request in.
func awaitAccepted(t *testing.T, g *gatetest.Gate, client string) {
	t.Helper()
	gatetest.Until(t, "a request to be let in", func() bool { return list(t, g)[client].Requests > 0 })
}

// What looks at the last byte of a body loses and changes none.
func TestABodyOf64MiBPassesByteForByte(t *testing.T) {
	t.Parallel()
	body := bytes.Repeat([]byte("0123456789abcde\n"), 4<<20)
	want := sha256.Sum256(body)
	var wrong atomic.Int64
	up := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hash := sha256.New()
		if n, err := io.Copy(hash, r.Body); err != nil || n != int64(len(body)) || !bytes.Equal(hash.Sum(nil), want[:]) {
			wrong.Add(1)
		}
		gatetest.AnswerJSON(w, r)
	}))
	t.Cleanup(up.Close)
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{To: up.URL})
	for name, length := range map[string]int64{"with a length": int64(len(body)), "in chunks": -1} {
		got := g.Do(t, func(r *http.Request) { r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), length })
		if got.Status != http.StatusOK || wrong.Load() != 0 {
			t.Errorf("%s: %d %s, %d wrong", name, got.Status, got.Body, wrong.Load())
		}
	}
}
