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
)

// Everything that Caddy writes anywhere, at its most talkative, after every
// kind of request: neither the token nor the key may be in it.
func TestNoSecretIsWrittenAnywhere(t *testing.T) {
	t.Parallel()
	for _, header := range []string{"Authorization", "api-key"} {
		t.Run("the key in "+header, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			format := "format filter {\nrequest>headers>X-Proxy-Token delete\nrequest>headers>Api-Key delete\n}\n"
			g := startGate(t, newUpstream(t, nil), site{
				dir: dir, admin: "unix",
				address: fmt.Sprintf("http://:%d", freePort(t)),
				global:  "debug\nlog {\n" + format + "}",
				before:  "log {\noutput file " + filepath.Join(dir, "access.log") + "\n" + format + "}\nrequest_body {\nmax_size 100KB\n}",
				gate:    "upstream_header " + header + "\nallow_origin " + page + "\nallow_route POST /v1/responses\nallow_route GET /v1/responses\nshutdown_endpoint",
				proxy:   "transport http {\nresponse_header_timeout 300ms\n}",
			})
			g.exerciseEverything(t)
			config := g.adminDo(t, "GET", "/config/", "", "")
			if config.status != 200 {
				t.Errorf("GET /config/: %d", config.status)
			}
			sources := map[string]string{"GET /config/": config.body}
			for _, profile := range []string{"goroutine?debug=2", "cmdline"} {
				sources["/debug/pprof/"+profile] = g.adminDo(t, "GET", "/debug/pprof/"+profile, "", "").body
			}
			if runtime.GOOS == "linux" {
				sources["/proc/PID/cmdline"] = readFile(t, fmt.Sprintf("/proc/%d/cmdline", g.pid()))
			}
			// A reload and a failing one log too.
			changed := g.site
			changed.gate += "\nallow_host other.example"
			g.mustReload(t, changed)
			g.reload(t, site{dir: dir, admin: g.site.admin, address: g.site.address, key: "upstream_bearer {env.OPENAI_API_KEY}{env.OPENAI_API_KEY}"})
			g.do(t)
			token := g.token
			adapt := g.site.launch(t)
			adapt.args = append([]string{"adapt", "--pretty"}, adapt.args[1:]...)
			sources["caddy adapt"], _ = run(t, adapt)
			g.signal(syscall.SIGTERM)
			g.wait()
			sources["stderr"] = g.out.String()

			for _, want := range []string{`"level":"debug"`, "http.handlers.reverse_proxy", `"logger":"http.handlers.responses_proxy_gate"`} {
				if !strings.Contains(sources["stderr"], want) {
					t.Errorf("the log has no %s: the scan would prove nothing", want)
				}
			}
			if access := readFile(t, filepath.Join(dir, "access.log")); strings.Count(access, "handled request") < 10 {
				t.Errorf("the access log has too little for a scan to prove anything: %s", access)
			}
			if missing(filepath.Join(dir, "config", "caddy", "autosave.json")) {
				t.Error("there is no autosave: the scan would prove nothing")
			}
			for name, text := range sources {
				findSecrets(t, name, []byte(text), token)
			}
			must(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
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
		"the token": token, "the key": operatorKey, "half of the token": token[:22],
		"the other half of the token": token[22:], "part of the key": operatorKey[7:22],
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
func (g *gate) exerciseEverything(t *testing.T) {
	t.Helper()
	both := func(r *http.Request) { r.Header.Set("X-Proxy-Token", g.token) }
	key := func(r *http.Request) { r.Header.Set("X-Custom", "no secret") }
	for _, e := range []edits{
		{},
		{both},
		{key, both},
		{both, setHeader("Origin", "https://attacker.example")},
		{both, setHeader("Sec-Fetch-Site", "cross-site")},
		{both, host("attacker.example")},
		{both, setHeader("Content-Type", "text/plain")},
		{setHeader("X-Proxy-Token", g.token+"x")},
		{both, func(r *http.Request) { r.URL.Path = "/v1/files" }},
		{both, setHeader("Origin", page)},
	} {
		g.do(t, e...)
	}
	large := strings.Repeat("x", 200<<10)
	for _, length := range []int64{int64(len(large)), -1} {
		r := g.post(both)
		r.Body, r.ContentLength, r.GetBody = http.NoBody, length, nil
		replaced, err := http.NewRequest(http.MethodPost, "http://x", strings.NewReader(large))
		must(t, err)
		r.Body = replaced.Body
		g.try(r)
	}
	token := []string{"Authorization: Bearer TOKEN"}
	for _, raw := range []string{
		g.rawRequest(postLine, append(rawGood("X-Proxy-Token: TOKEN"), token...), rawBody),
		g.rawRequest(postLine, append(without(rawGood(), "Host"), "Host: local host"), rawBody),
		g.rawRequest(postLine, append(without(rawGood(), "Host"), "Host:"), rawBody),
		g.rawRequest(postLine, append(without(rawGood(), "Host"), "Host: 127.0.0.1:x:y"), rawBody),
		g.rawRequest(postLine, append(without(rawGood(), "X-Proxy"), "X-Proxy-Token : TOKEN"), rawBody),
		g.rawRequest(postLine, append(without(rawGood(), "X-Proxy"), "X-Proxy-Token: TOKEN\x00"), rawBody),
		g.rawRequest("POST /v1/TOKENless HTTP/1.1", rawGood(), rawBody),
		g.rawRequest("GET /v1/responses HTTP/1.1", rawUpgrade, ""),
		g.rawRequest(postLine, rawGood("Connection: authorization, x-proxy-token"), rawBody),
		g.rawRequest(postLine, append(without(rawGood(), "Content-Length"), "Content-Length: 99"), rawBody), // a body that breaks off
	} {
		conn := g.dial(t)
		conn.send(raw)
		if strings.Contains(raw, "Content-Length: 99") {
			_ = conn.Close()
			continue
		}
		conn.maybeAnswer()
		_ = conn.Close()
	}
	for _, answer := range []http.HandlerFunc{
		answerUnauthorized,
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
		g.up.setAnswer(answer)
		g.try(g.post(both))
		g.try(g.post())
	}
	// A client that leaves in the middle of a stream, and a dead upstream.
	stream := newEventStream()
	g.up.setAnswer(stream.serve)
	response, reader := openStream(t, g.http, g.post(both, withDeadline(t)))
	stream.send(t)
	readEvent(t, reader, 1)
	_ = response.Body.Close()
	awaitClosed(t, "the upstream request to be cancelled", stream.gone)
	g.up.CloseClientConnections()
	_ = g.up.Listener.Close()
	g.try(g.post(both))
	g.try(g.post())
}

// try sends a request of which any outcome will do.
func (g *gate) try(r *http.Request) {
	if response, err := g.http.Do(r); err == nil {
		_ = response.Body.Close()
	}
}
