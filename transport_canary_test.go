package responsesproxygate

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/fcgi"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
)

// asEverywhere is what an upstream answers to have the key printed, should there
// be a template engine on the way.
const asEverywhere = "{{.Req.Header}} {{.OriginalReq.Header}} {{.Req.Header.Get `Api-Key`}} {{placeholder `http.request.header.Api-Key`}} {{.Req.Context}}"

// printing is a placeholder for the key, wherever it is in a request.
const printing = "{http.request.header.Api-Key}{http.request.orig.header.Api-Key}{http.reverse_proxy.header.Api-Key}"

// shippedHandlers are directives for the handlers that Caddy has, each as
// curious about the key as it can be.
var shippedHandlers = map[string][]string{
	"acme_server":           {"acme_server"},
	"authentication":        {"basic_auth {\nuser $2a$04$L7JVfVnTiWCZwIDQ2yS6a.k4FWuG0bBjz9FQ5oR5NqFyZ0KpYQSG6\n}", "forward_auth OTHER {\nuri /\ncopy_headers Api-Key\n}"},
	"copy_response":         {"reverse_proxy /other/* OTHER {\nhandle_response {\ncopy_response\n}\n}", "reverse_proxy /v1/* OTHER {\nmethod GET\nhandle_response {\nheader X-Key \"" + printing + "\"\nrespond \"" + printing + "\"\n}\n}"},
	"copy_response_headers": {"reverse_proxy /v1/* OTHER {\nmethod GET\nhandle_response {\ncopy_response_headers\nrespond 200\n}\n}"},
	"encode":                {"encode"},
	"error":                 {"error \"" + printing + "\" 500"},
	"file_server":           {"file_server {\nroot DIR\npass_thru\n}", "file_server browse {\nroot DIR\n}"},
	"headers":               {"header X-Key \"" + printing + "\"", "header >X-Key \"" + printing + "\"", "request_header X-Key \"" + printing + "\""},
	"intercept":             {"intercept {\nhandle_response {\nrespond \"" + printing + "\"\n}\n}"},
	"invoke":                {"invoke up"},
	"log_append":            {"log_append key {http.request.uri}", "log_append <key {http.request.uri}"},
	"map":                   {"map \"" + printing + "\" {found} {\ndefault none\n~(.*) \"${1}\"\n}\nheader X-Key {found}"},
	"metrics":               {"metrics /metrics", "metrics"},
	"push":                  {"push / {\nGET /x\nheaders {\nX-Key \"" + printing + "\"\n}\n}"},
	"request_body":          {"request_body {\nmax_size 1MB\n}", "request_body {\nset \"" + printing + "\"\n}"},
	"reverse_proxy":         {"reverse_proxy /other/* OTHER", "reverse_proxy /v1/* FASTCGI {\ntransport fastcgi\n}"},
	"rewrite":               {"rewrite * \"?key=" + printing + "\"", "uri query key \"" + printing + "\""},
	"static_response":       {"respond \"" + printing + "\"", "respond /other \"" + printing + "\""},
	"subroute":              {"handle {\nheader X-Key \"" + printing + "\"\n}"},
	"timeouts":              {"timeouts {\nread_timeout 5s\n}"},
	"tracing":               {"tracing {\nspan \"" + printing + "\"\n}"},
	"vars":                  {"vars key \"" + printing + "\"\nheader X-Key {vars.key}"},
}

// The key comes out of Caddy at the upstream, and nowhere else.
func TestNoHandlerThatCaddyShipsTellsTheKey(t *testing.T) {
	// templates is refused: TestTemplatesThatWouldRunAnAnswerAreRefused.
	own := map[string]bool{"responses_proxy_gate": true, "responses_budget": true, "templates": true}
	for _, module := range caddy.GetModules("http.handlers") {
		if name := module.ID.Name(); shippedHandlers[name] == nil && !own[name] && !strings.HasPrefix(name, "gate_test") {
			t.Errorf("the handler %s is not tried", name)
		}
	}
	t.Setenv("OTEL_TRACES_EXPORTER", "none")
	for name, directives := range shippedHandlers {
		if name == "acme_server" && testing.Short() {
			continue // it makes authorities and their keys, which takes longer than all others
		}
		for n, directive := range directives {
			for place, order := range map[string]string{
				"before": directive + "\nAZURE\nreverse_proxy UP", "behind": "AZURE\n" + directive + "\nreverse_proxy UP",
			} {
				t.Run(fmt.Sprint(name, " ", n, " ", place), func(t *testing.T) { tellsNothing(t, order) })
			}
		}
	}
}

func TestTemplatesThatWouldRunAnAnswerAreRefused(t *testing.T) {
	for name, site := range map[string]string{
		"behind the gate":      "GATE\ntemplates\nreverse_proxy 127.0.0.1:1",
		"around it":            "route {\ntemplates\nGATE\nreverse_proxy 127.0.0.1:1\n}",
		"in a block around it": "route {\nhandle /v1/* {\ntemplates\n}\nroute {\nGATE\nreverse_proxy 127.0.0.1:1\n}\n}",
	} {
		if _, err := tryLoad(t, "", site); err == nil || !strings.Contains(err.Error(), "templates") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := tryLoad(t, "", "handle /docs/* {\ntemplates\nfile_server\n}\nhandle {\nGATE\nreverse_proxy 127.0.0.1:1\n}"); err != nil {
		t.Errorf("beside it: %v", err)
	}
}

func tellsNothing(t *testing.T, order string) {
	dir := t.TempDir()
	var mu sync.Mutex
	var upstream, elsewhere strings.Builder
	record := func(where *strings.Builder) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			defer mu.Unlock()
			body, _ := io.ReadAll(r.Body)
			fmt.Fprintln(where, r.Method, r.RequestURI, r.Header, string(body), fcgi.ProcessEnv(r))
			w.Header().Set("Content-Type", "text/plain")
			_, _ = io.WriteString(w, asEverywhere)
		}
	}
	up, other := httptest.NewServer(record(&upstream)), httptest.NewServer(record(&elsewhere))
	defer up.Close()
	defer other.Close()
	fastCGI, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer fastCGI.Close()
	go func() { _ = fcgi.Serve(fastCGI, record(&elsewhere)) }()

	site := "log\nroute {\n" + strings.NewReplacer("UP", up.Listener.Addr().String(), "OTHER", other.Listener.Addr().String(),
		"FASTCGI", fastCGI.Addr().String(), "DIR", dir).Replace(order) + "\n}"
	logs := filepath.Join(dir, "log")
	global := "storage file_system " + filepath.Join(dir, "storage") + "\nskip_install_trust\nlog all {\noutput file " + logs + "\nlevel DEBUG\nformat responses_proxy_gate\n}\n" +
		"}\n&(up) {\nheader X-Key \"" + printing + "\"\n"
	told := fmt.Sprint(loaded(t, global, site)())
	if err := caddy.Stop(); err != nil {
		t.Error(err)
	}
	logged, err := os.ReadFile(logs)
	if err != nil || len(logged) == 0 {
		t.Fatalf("nothing is logged: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	for where, text := range map[string]string{"the caller": told, "a log": string(logged), "another server": elsewhere.String()} {
		if leaks(text) {
			t.Errorf("%s gets the key: %s", where, text)
		}
	}
	if sent := upstream.String(); sent != "" && !leaks(sent) {
		t.Errorf("the upstream does not get the key: %s", sent)
	}
}
