//go:build unix

package e2e

import (
	"bytes"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// Everything that Caddy writes anywhere, at its most talkative, after every
// kind of request: neither the token nor the key may be in it.
func TestNoSecretIsWrittenAnywhere(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"Authorization", "api-key"} {
		t.Run("the key in "+header, func(t *testing.T) {
			t.Parallel()
			dir := gatetest.TempDir(t)
			format := "format filter {\nrequest>headers>X-Proxy-Token delete\nrequest>headers>Api-Key delete\n}\n"
			g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
				Dir: dir, Admin: "unix",
				Address: fmt.Sprintf("http://:%d", gatetest.FreePort(t)),
				Global:  "debug\nlog {\n" + format + "}",
				Before:  "log {\noutput file " + filepath.Join(dir, "access.log") + "\n" + format + "}\nrequest_body {\nmax_size 100KB\n}",
				Gate:    "upstream_header " + header + "\nallow_origin " + page + "\nallow_route POST /v1/responses\nallow_route GET /v1/responses\nshutdown_endpoint",
				Proxy:   "transport http {\nresponse_header_timeout 300ms\n}",
			})
			exerciseEverything(t, g)
			config := g.AdminDo(t, "GET", "/config/", "", "")
			if config.Status != 200 {
				t.Errorf("GET /config/: %d", config.Status)
			}
			sources := map[string]string{"GET /config/": config.Body}
			for _, profile := range []string{"goroutine?debug=2", "cmdline"} {
				sources["/debug/pprof/"+profile] = g.AdminDo(t, "GET", "/debug/pprof/"+profile, "", "").Body
			}
			if runtime.GOOS == "linux" {
				sources["/proc/PID/cmdline"] = gatetest.ReadFile(t, fmt.Sprintf("/proc/%d/cmdline", g.PID()))
			}
			// A reload and a failing one log too.
			changed := g.Site
			changed.Gate += "\nallow_host other.example"
			g.MustReload(t, changed)
			g.Reload(t, gatetest.Site{Dir: dir, Admin: g.Site.Admin, Address: g.Site.Address, Key: "upstream_bearer {env.OPENAI_API_KEY}{env.OPENAI_API_KEY}"})
			g.Do(t)
			token := g.Token
			adapt := g.Site.Launch(t)
			adapt.Args = append([]string{"adapt", "--pretty"}, adapt.Args[1:]...)
			sources["caddy adapt"], _ = gatetest.Run(t, adapt)
			g.Signal(syscall.SIGTERM)
			g.Wait()
			sources["stderr"] = g.Output.String()

			for _, want := range []string{`"level":"debug"`, "http.handlers.reverse_proxy", `"logger":"http.handlers.responses_proxy_gate"`} {
				if !strings.Contains(sources["stderr"], want) {
					t.Errorf("the log has no %s: the scan would prove nothing", want)
				}
			}
			if access := gatetest.ReadFile(t, filepath.Join(dir, "access.log")); strings.Count(access, "handled request") < 10 {
				t.Errorf("the access log has too little for a scan to prove anything: %s", access)
			}
			if gatetest.Missing(filepath.Join(dir, "config", "caddy", "autosave.json")) {
				t.Error("there is no autosave: the scan would prove nothing")
			}
			for name, text := range sources {
				findSecrets(t, name, []byte(text), token)
			}
			gatetest.Must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || !entry.Type().IsRegular() {
					return err
				}
				content, err := os.ReadFile(path)
				findSecrets(t, path, content, token)
				return err
			}))
		})
	}
}

// findSecrets fails the test if content has the token, the key, or so much
// of either that a person would know it.
func findSecrets(t *testing.T, where string, content []byte, token string) {
	t.Helper()
	for name, secret := range map[string]string{
		"the token": token, "the key": gatetest.OperatorKey, "half of the token": token[:22],
		"the other half of the token": token[22:], "part of the key": gatetest.OperatorKey[7:22],
	} {
		if i := bytes.Index(content, []byte(secret)); i >= 0 {
			start := bytes.LastIndexByte(content[:i], '\n') + 1
			line, _, _ := bytes.Cut(content[start:], []byte("\n"))
			t.Errorf("%s has %s: %.700s", where, name, line)
		}
	}
}

// exerciseEverything has Caddy log whatever it can: good, refused, malformed
// and failing requests, each with both token headers where it can be.
func exerciseEverything(t *testing.T, g *gatetest.Gate) {
	t.Helper()
	both := func(r *http.Request) { r.Header.Set("X-Proxy-Token", g.Token) }
	key := func(r *http.Request) { r.Header.Set("X-Custom", "no secret") }
	for _, e := range []edits{
		{},
		{both},
		{key, both},
		{both, gatetest.SetHeader("Origin", "https://attacker.example")},
		{both, gatetest.SetHeader("Sec-Fetch-Site", "cross-site")},
		{both, host("attacker.example")},
		{both, gatetest.SetHeader("Content-Type", "text/plain")},
		{gatetest.SetHeader("X-Proxy-Token", g.Token+"x")},
		{both, func(r *http.Request) { r.URL.Path = "/v1/files" }},
		{both, gatetest.SetHeader("Origin", page)},
	} {
		g.Do(t, e...)
	}
	large := strings.Repeat("x", 200<<10)
	for _, length := range []int64{int64(len(large)), -1} {
		r := g.Post(both)
		r.Body, r.ContentLength, r.GetBody = http.NoBody, length, nil
		replaced, err := http.NewRequest(http.MethodPost, "http://x", strings.NewReader(large))
		gatetest.Must(t, err)
		r.Body = replaced.Body
		try(g, r)
	}
	token := []string{"Authorization: Bearer TOKEN"}
	for _, raw := range []string{
		g.RawRequest(postLine, append(gatetest.RawGood("X-Proxy-Token: TOKEN"), token...), gatetest.RawBody),
		g.RawRequest(postLine, append(gatetest.Without(gatetest.RawGood(), "Host"), "Host: local host"), gatetest.RawBody),
		g.RawRequest(postLine, append(gatetest.Without(gatetest.RawGood(), "Host"), "Host:"), gatetest.RawBody),
		g.RawRequest(postLine, append(gatetest.Without(gatetest.RawGood(), "Host"), "Host: 127.0.0.1:x:y"), gatetest.RawBody),
		g.RawRequest(postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "X-Proxy-Token : TOKEN"), gatetest.RawBody),
		g.RawRequest(postLine, append(gatetest.Without(gatetest.RawGood(), "X-Proxy"), "X-Proxy-Token: TOKEN\x00"), gatetest.RawBody),
		g.RawRequest("POST /v1/TOKENless HTTP/1.1", gatetest.RawGood(), gatetest.RawBody),
		g.RawRequest("GET /v1/responses HTTP/1.1", gatetest.RawUpgrade, ""),
		g.RawRequest(postLine, gatetest.RawGood("Connection: authorization, x-proxy-token"), gatetest.RawBody),
		g.RawRequest(postLine, append(gatetest.Without(gatetest.RawGood(), "Content-Length"), "Content-Length: 99"), gatetest.RawBody), // a body that breaks off
	} {
		conn := g.Dial(t)
		conn.Send(raw)
		if strings.Contains(raw, "Content-Length: 99") {
			_ = conn.Close()
			continue
		}
		conn.MaybeAnswer()
		_ = conn.Close()
	}
	for _, answer := range []http.HandlerFunc{
		hangUp(""),
		// (An upstream that has the key in malformed bytes gets it into
		// reverse_proxy's own DEBUG log; see TestAnUpstreamThatHangsUp… for the
		// gate's.)
		hangUp("garbage\r\n\r\n"),
		hangUp("HTTP/1.1 200 OK\r\nno colon\r\n\r\n"),
		hangUp("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n"),
		hangUp("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\ncut off"),
		hangUp("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n"),
		func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }, // until the gate's timeout
		func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
	} {
		g.Up.SetAnswer(answer)
		try(g, g.Post(both))
		try(g, g.Post())
	}
	// A client that leaves in the middle of a stream, and a dead upstream.
	stream := gatetest.NewEventStream()
	g.Up.SetAnswer(stream.Serve)
	response, reader := gatetest.OpenStream(t, g.HTTP, g.Post(both, gatetest.WithDeadline(t)))
	stream.Send(t)
	gatetest.ReadEvent(t, reader, 1)
	_ = response.Body.Close()
	gatetest.AwaitClosed(t, "the upstream request to be cancelled", stream.Gone)
	g.Up.SetAnswer(answerUnauthorized)
	try(g, g.Post(both))
	try(g, g.Post())
	g.Up.SetAnswer(gatetest.AnswerJSON)
	gatetest.Until(t, "the key to be tried again", func() bool { return g.Do(t).Status == http.StatusOK })
	g.Up.CloseClientConnections()
	_ = g.Up.Listener.Close()
	try(g, g.Post(both))
	try(g, g.Post())
}

// try sends a request of which any outcome will do.
func try(g *gatetest.Gate, r *http.Request) {
	if response, err := g.HTTP.Do(r); err == nil {
		_ = response.Body.Close()
	}
}
