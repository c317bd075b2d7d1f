//go:build unix

package browser

import (
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coder/websocket"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// treasure is what the upstream answers: what a page must never read.
const treasure = "an answer that the operator pays for"

// fromUpstream is a header by which answers of the upstream are known.
const fromUpstream = "X-From-Upstream"

// newUpstream stands in for the OpenAI API. It lets every page read its
// answers, as permissively as CORS can, so that nothing but the proxy before
// it stands in a page's way.
func newUpstream(t *testing.T) *gatetest.Upstream {
	t.Helper()
	return gatetest.NewUpstream(t, func(w http.ResponseWriter, r *http.Request) {
		allowAll(w, r)
		w.Header().Set(fromUpstream, "yes")
		w.Header().Set("Cache-Control", "no-store") // each request is to be seen
		switch {
		case r.Method == http.MethodOptions && r.Header.Get("Access-Control-Request-Method") != "":
			w.WriteHeader(http.StatusNoContent)
		case r.Header.Get("Upgrade") == "websocket":
			conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
			if err != nil {
				return
			}
			_ = conn.Write(r.Context(), websocket.MessageText, []byte(treasure))
			_ = conn.Close(websocket.StatusNormalClosure, "")
		case strings.Contains(r.Header.Get("Accept"), "text/event-stream"):
			w.Header().Set("Content-Type", "text/event-stream")
			_, _ = io.WriteString(w, "data: "+treasure+"\n\n")
		default:
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"output":"`+treasure+`"}`)
		}
	})
}

// control is a proxy without a gate, and its upstream.
type control struct {
	name string
	addr string
	fate func(vector) fate
}

// startStock starts what people write who want Caddy to add their key.
func startStock(t *testing.T) *control {
	t.Helper()
	up := newUpstream(t)
	dir := gatetest.TempDir(t)
	port := gatetest.FreePort(t)
	config := filepath.Join(dir, "Caddyfile")
	gatetest.WriteFile(t, config, fmt.Sprintf(`{
	admin off
	persist_config off
}
http://:%d {
	bind 127.0.0.1
	reverse_proxy %s {
		header_up Authorization "Bearer %s"
	}
}
`, port, up.URL, gatetest.OperatorKey))
	caddy := gatetest.Start(t, gatetest.Launch{Dir: dir, Args: []string{"run", "--adapter", "caddyfile", "--config", config}})
	caddy.WaitOutput(gatetest.ReadyLog, 1)
	return &control{"reverse_proxy alone", fmt.Sprintf("127.0.0.1:%d", port), func(v vector) fate { return v.stock }}
}

// startOriginal starts the program that the gate replaces. Without it the rest
// of a battle is worth having: it is then one skipped test.
func startOriginal(t *testing.T) []*control {
	t.Helper()
	installed := false
	t.Run("the original proxy is there to be attacked", func(t *testing.T) {
		gatetest.CodexBinary(t)
		installed = true
	})
	if !installed {
		return nil
	}
	original := gatetest.StartOriginal(t, newUpstream(t), gatetest.Site{}, gatetest.Launch{})
	return []*control{{"the original proxy", original.Addr, func(v vector) fate { return v.original }}}
}
