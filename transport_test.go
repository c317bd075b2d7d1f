package responsesproxygate

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	_ "github.com/caddyserver/caddy/v2/modules/standard" // forward_auth and the like

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// recorder is an upstream that keeps the credentials it was sent.
type recorder struct {
	*httptest.Server
	mu   sync.Mutex
	keys []string
}

func newRecorder(t *testing.T, start func(*httptest.Server)) *recorder {
	t.Helper()
	u := new(recorder)
	u.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.keys = append(u.keys, r.Header.Get("Authorization"))
		_, _ = io.Copy(w, r.Body)
	}))
	u.Config.ErrorLog = log.New(io.Discard, "", 0)
	start(u.Server)
	t.Cleanup(u.Close)
	return u
}

// port is where the upstream listens.
func (u *recorder) port() string {
	_, port, _ := net.SplitHostPort(u.Listener.Addr().String())
	return port
}

func (u *recorder) got(t *testing.T, want ...string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if fmt.Sprint(u.keys) != fmt.Sprint(want) {
		t.Errorf("the upstream got %q, want %q", u.keys, want)
	}
}

// tryLoad runs Caddy in this process, with a gate in its site.
func tryLoad(t *testing.T, global, site string) (socket string, err error) {
	t.Helper()
	t.Setenv("GATE_TEST_KEY", testKey)
	t.Setenv("GATE_TEST_TOKEN", testToken)
	socket = filepath.Join(t.TempDir(), "s")
	gate := func(option string) string {
		return "responses_proxy_gate {\nupstream_bearer {env.GATE_TEST_KEY}\ntoken {env.GATE_TEST_TOKEN}\n" + option + "\n}"
	}
	caddyfile := fmt.Sprintf("{\n admin off\n persist_config off\n auto_https off\n log {\n format responses_proxy_gate\n }\n %s\n}\nhttp://:80 {\n bind unix/%s\n %s\n}\n", global, socket,
		strings.NewReplacer("GATE", gate(""), "KNOWINGLY", gate("insecure_allow plaintext_upstream"), "AZURE", gate("upstream_header api-key")).Replace(site))
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	if err != nil {
		t.Fatalf("%v in %s", err, caddyfile)
	}
	if err := caddy.Load(config, true); err != nil {
		return "", err
	}
	t.Cleanup(func() { _ = caddy.Stop() })
	return socket, nil
}

// loaded runs Caddy with a site of these directives, and says what a request
// with the token gets.
func loaded(t *testing.T, global, site string) (ask func() (status int, code, body string)) {
	t.Helper()
	socket, err := tryLoad(t, global, site)
	if err != nil {
		t.Fatalf("%v in %s", err, site)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	return func() (int, string, string) {
		r := goodRequest()
		out, err := http.NewRequestWithContext(t.Context(), r.Method, "http://localhost/v1/responses", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		out.Header = r.Header
		answer, err := client.Do(out)
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			body = append(body, " (it breaks off)"...)
		}
		if leaks(fmt.Sprint(answer.Header, answer.Trailer)) {
			t.Errorf("the caller gets the key: %v", answer.Header)
		}
		return answer.StatusCode, answer.Header.Get(codeHeaderName), string(body)
	}
}

func TestEveryProxyOfTheUpstreamsBehindTheGateSendsTheKey(t *testing.T) {
	const bearer = "Bearer " + testKey
	for name, site := range map[string]string{
		"at the end of the site":       "GATE\nreverse_proxy UP",
		"with a transport http":        "GATE\nreverse_proxy UP {\ntransport http {\nversions 1.1\n}\n}",
		"with the transport by name":   "GATE\nreverse_proxy UP {\ntransport responses_proxy_gate {\nversions 1.1\n}\n}",
		"in a handle":                  "GATE\nhandle /v1/* {\nreverse_proxy UP\n}",
		"in the gate's handle":         "handle /v1/* {\nGATE\nreverse_proxy UP\n}",
		"in a route":                   "route {\nGATE\nreverse_proxy UP\n}",
		"behind the gate's route":      "route {\nGATE\n}\nreverse_proxy UP",
		"in a handle in a handle":      "GATE\nhandle {\nhandle /v1/* {\nrewrite * /v1/responses\nreverse_proxy UP\n}\n}",
		"behind a matcher":             "GATE\nreverse_proxy /v1/responses UP",
		"with a handle_response":       "GATE\nreverse_proxy UP {\ntransport responses_proxy_gate\nhandle_response {\ncopy_response\n}\n}",
		"the second of two, by itself": "GATE\nreverse_proxy /other 127.0.0.1:1\nreverse_proxy UP",
		"named by localhost":           "GATE\nreverse_proxy localhost:PORT {\nlb_try_duration 2s\n}",
		"on a retry":                   "GATE\nreverse_proxy 127.0.0.1:1 UP {\nlb_policy first\nlb_try_duration 5s\nfail_duration 5s\n}",
		"from a placeholder":           "GATE\nvars up 127.0.0.1:PORT\nreverse_proxy {vars.up}",
		"of dynamic upstreams":         "GATE\nreverse_proxy {\ndynamic a localhost PORT {\nversions ipv4\n}\n}",
	} {
		t.Run(name, func(t *testing.T) {
			u := newRecorder(t, (*httptest.Server).Start)
			site := strings.NewReplacer("UP", u.Listener.Addr().String(), "PORT", u.port()).Replace(site)
			if status, code, body := loaded(t, "", site)(); status != http.StatusOK || body != "{}" {
				t.Errorf("answered %d %s %s", status, code, body)
			}
			u.got(t, bearer)
		})
	}
	t.Run("invoked by name", func(t *testing.T) {
		u := newRecorder(t, (*httptest.Server).Start)
		t.Setenv("GATE_TEST_KEY", testKey)
		site := "GATE\ninvoke up"
		global := "}\n&(up) {\nreverse_proxy " + u.Listener.Addr().String() + "\n" // (closes the options' block, and leaves its own open)
		if status, code, body := loaded(t, global, site)(); status != http.StatusOK || body != "{}" {
			t.Errorf("answered %d %s %s", status, code, body)
		}
		u.got(t, bearer)
	})
}

func TestAnotherHandlersServerDoesNotGetTheKey(t *testing.T) {
	for name, site := range map[string]string{
		"forward_auth":                 "GATE\nforward_auth OTHER {\nuri /\n}\nreverse_proxy UP",
		"forward_auth before the gate": "route {\nforward_auth OTHER {\nuri /\n}\nGATE\nreverse_proxy UP\n}",
		"a proxy before the gate":      "route {\nreverse_proxy /other OTHER\nGATE\nreverse_proxy UP\n}",
	} {
		t.Run(name, func(t *testing.T) {
			u, other := newRecorder(t, (*httptest.Server).Start), newRecorder(t, (*httptest.Server).Start)
			ask := loaded(t, "", strings.NewReplacer("UP", u.Listener.Addr().String(), "OTHER", other.Listener.Addr().String()).Replace(site))
			if status, code, body := ask(); status != http.StatusOK || body != "{}" {
				t.Errorf("answered %d %s %s", status, code, body)
			}
			u.got(t, "Bearer "+testKey)
			if leaks(fmt.Sprint(other.keys)) {
				t.Errorf("another server got %q", other.keys)
			}
		})
	}
}

func TestAGateWithoutAProxyForItsKeyIsRefused(t *testing.T) {
	const no, unasked = "transport responses_proxy_gate", "nobody would be asked for a token"
	gate := `{"handler": "responses_proxy_gate", "upstream_bearer": "{env.GATE_TEST_KEY}"}`
	proxy := func(members string) string {
		return `{"handler": "reverse_proxy", "upstreams": [{"dial": "127.0.0.1:1"}]` + members + `}`
	}
	for name, c := range map[string]struct{ handlers, says string }{
		"nothing behind it":                       {gate, no},
		"another handler behind it":               {gate + `, {"handler": "static_response"}`, no},
		"a proxy before it":                       {proxy("") + "," + gate, unasked},
		"fastcgi behind it":                       {gate + "," + proxy(`, "transport": {"protocol": "fastcgi"}`), no},
		"forward_auth behind it":                  {gate + "," + proxy(`, "handle_response": [{"routes": [{"handle": [`+proxy("")+`]}]}]`), no},
		"a proxy":                                 {gate + "," + proxy(""), ""},
		"a proxy by http":                         {gate + "," + proxy(`, "transport": {"protocol": "http"}`), ""},
		"a proxy with its transport":              {gate + "," + proxy(`, "transport": {"protocol": "responses_proxy_gate"}`), ""},
		"forward_auth with its transport":         {gate + "," + proxy(`, "transport": {"protocol": "responses_proxy_gate"}, "handle_response": [{"status_code": 200}]`), ""},
		"a subroute's error route":                {gate + `, {"handler": "subroute", "routes": [], "errors": {"routes": [{"handle": [` + proxy("") + `]}]}}`, ""},
		"a proxy behind a subroute with the gate": {`{"handler": "subroute", "routes": [{"handle": [` + gate + `]}]}, ` + proxy(""), ""},
		"a proxy in the gate's subroute":          {`{"handler": "subroute", "routes": [{"handle": [` + gate + "," + proxy("") + `]}]}`, ""},
		"a proxy before the gate in its subroute": {`{"handler": "subroute", "routes": [{"handle": [` + proxy("") + "," + gate + `]}]}`, unasked},
	} {
		t.Run(name, func(t *testing.T) {
			const logging = `{"logs": {"default": {"encoder": {"format": "responses_proxy_gate"}}}}`
			configAround{handlers: c.handlers, logging: logging}.checked(t, c.says)
		})
	}
}

// notHere is an address of this machine that is not a loopback one, and a
// recorder there.
func notHere(t *testing.T, start func(*httptest.Server)) (addr string, u *recorder) {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range addrs {
		network, ok := addr.(*net.IPNet)
		if !ok || network.IP.IsLoopback() || network.IP.IsLinkLocalUnicast() || network.IP.To4() == nil {
			continue
		}
		listener, err := net.Listen("tcp", net.JoinHostPort(network.IP.String(), "0"))
		if err != nil {
			continue
		}
		u := newRecorder(t, func(server *httptest.Server) {
			_ = server.Listener.Close()
			server.Listener = listener
			start(server)
		})
		return listener.Addr().String(), u
	}
	if os.Getenv("CI") != "" {
		t.Fatal("this machine has no address but loopback")
	}
	t.Skip("this machine has no address but loopback")
	return "", nil
}

// What is not known before there is a request is looked at with each attempt.
func TestTheKeyDoesNotGoInTheClearBeyondLoopback(t *testing.T) {
	for name, c := range map[string]struct {
		start func(*httptest.Server)
		proxy string
	}{
		"to a placeholder":              {(*httptest.Server).Start, "vars up ADDR\nreverse_proxy {vars.up}"},
		"to a dynamic upstream":         {(*httptest.Server).Start, "reverse_proxy {\ndynamic a HOST PORT\n}"},
		"on a retry":                    {(*httptest.Server).Start, "vars up ADDR\nreverse_proxy 127.0.0.1:1 {vars.up} {\nlb_policy first\nlb_try_duration 5s\nfail_duration 9s\n}"},
		"over TLS that is not verified": {(*httptest.Server).StartTLS, "vars up ADDR\nreverse_proxy {vars.up} {\ntransport http {\ntls\ntls_insecure_skip_verify\n}\n}"},
		"over HTTP/2 without TLS":       {(*httptest.Server).Start, "vars up ADDR\nreverse_proxy {vars.up} {\ntransport http {\nversions h2c 2\n}\n}"},
	} {
		t.Run(name, func(t *testing.T) {
			addr, u := notHere(t, c.start)
			host, port, _ := net.SplitHostPort(addr)
			proxy := strings.NewReplacer("ADDR", addr, "HOST", host, "PORT", port).Replace(c.proxy)
			if status, code, body := loaded(t, "", "GATE\n"+proxy)(); status != http.StatusBadGateway || code != "upstream_unreachable" {
				t.Errorf("answered %d %s %s", status, code, body)
			}
			u.mu.Lock()
			seen := fmt.Sprint(u.keys)
			u.mu.Unlock()
			if leaks(seen) {
				t.Errorf("the upstream got %q", seen)
			}
			if strings.Contains(proxy, "h2c") {
				return // (the recorder does not speak it)
			}
			if status, code, body := loaded(t, "", "KNOWINGLY\n"+proxy)(); status != http.StatusOK {
				t.Errorf("knowingly: answered %d %s %s", status, code, body)
			}
		})
	}
}

func TestTheKeyGoesWhereOnlyTheUpstreamReadsIt(t *testing.T) {
	t.Run("over TLS that is verified", func(t *testing.T) {
		addr, u := notHere(t, (*httptest.Server).StartTLS)
		ca := filepath.Join(t.TempDir(), "ca.pem")
		certificate := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: u.Certificate().Raw})
		if err := os.WriteFile(ca, certificate, 0o600); err != nil {
			t.Fatal(err)
		}
		ask := loaded(t, "", "GATE\nreverse_proxy https://"+addr+" {\ntransport http {\ntls_server_name example.com\ntls_trust_pool file "+ca+"\n}\n}")
		if status, code, body := ask(); status != http.StatusOK {
			t.Errorf("answered %d %s %s", status, code, body)
		}
		u.got(t, "Bearer "+testKey)
	})
	t.Run("to loopback over TLS that is not", func(t *testing.T) {
		u := newRecorder(t, (*httptest.Server).StartTLS)
		ask := loaded(t, "", "GATE\nreverse_proxy https://"+u.Listener.Addr().String()+" {\ntransport http {\ntls_insecure_skip_verify\n}\n}")
		if status, code, body := ask(); status != http.StatusOK {
			t.Errorf("answered %d %s %s", status, code, body)
		}
		u.got(t, "Bearer "+testKey)
	})
	t.Run("to a unix socket, whatever HTTP_PROXY says", func(t *testing.T) {
		t.Setenv("HTTP_PROXY", "http://192.0.2.1:3128")
		socket := filepath.Join(t.TempDir(), "up")
		listener, err := net.Listen("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		u := newRecorder(t, func(server *httptest.Server) {
			_ = server.Listener.Close()
			server.Listener = listener
			server.Start()
		})
		if status, code, body := loaded(t, "", "GATE\nreverse_proxy unix/"+socket)(); status != http.StatusOK {
			t.Errorf("answered %d %s %s", status, code, body)
		}
		u.got(t, "Bearer "+testKey)
	})
}

// A proxy at a loopback address may send on to anywhere.
func TestTheKeyDoesNotGoInTheClearThroughAProxy(t *testing.T) {
	proxy := newRecorder(t, (*httptest.Server).Start)
	site := "GATE\nvars up 192.0.2.1:80\nreverse_proxy {vars.up} {\ntransport http {\nnetwork_proxy url http://" + proxy.Listener.Addr().String() + "\n}\n}"
	if status, code, body := loaded(t, "", site)(); status != http.StatusBadGateway || code != "upstream_unreachable" {
		t.Errorf("answered %d %s %s", status, code, body)
	}
	proxy.got(t)
}

// An upstream's 401 says nothing of a key that it was not sent.
func TestA401WithoutTheKeyIsNotThatOfADeadKey(t *testing.T) {
	h, logs := testGate()
	for range 2 {
		w := answerTo(t, h, goodRequest(), func(w http.ResponseWriter, _ *http.Request) error {
			w.WriteHeader(http.StatusUnauthorized)
			return nil
		})
		if got := w.Result().Header.Get(codeHeaderName); w.Code != http.StatusBadGateway || got != errNoUpstream.Code {
			t.Errorf("answered %d %s", w.Code, got)
		}
	}
	if logs.FilterMessageSnippet("transport responses_proxy_gate").Len() != 2 {
		t.Errorf("logged %v", logs.All())
	}
}

// newTransport is a Transport without options.
func newTransport(t *testing.T) *Transport {
	t.Helper()
	transport := new(Transport)
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	if err := transport.Provision(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = transport.Cleanup() })
	return transport
}

// A request without a key may have left a connection behind.
func TestTheKeyDoesNotGoOverAFormerConnectionInTheClear(t *testing.T) {
	addr, u := notHere(t, (*httptest.Server).Start)
	transport := newTransport(t)
	send := func(ctx context.Context) error {
		r, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+addr, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, answer.Body)
		return answer.Body.Close()
	}
	if err := send(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := send(&heldKeyContext{Context: t.Context(), held: heldKey{header: "Authorization", value: secret.New("Bearer " + testKey)}})
	if !errors.Is(err, errPlaintextUpstream) {
		t.Errorf("sent: %v", err)
	}
	u.got(t, "")
}

func TestARequestThatMayNotBeSentAnyMoreIsNotSent(t *testing.T) {
	u := newRecorder(t, (*httptest.Server).Start)
	transport := newTransport(t)
	h, _ := testGate()
	held := &heldKeyContext{Context: t.Context(), held: heldKey{header: "Authorization", value: secret.New("Bearer " + testKey)}}
	send := func() error {
		r, err := http.NewRequestWithContext(held, http.MethodPost, u.URL, strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := transport.RoundTrip(r)
		if err != nil {
			return err
		}
		defer answer.Body.Close()
		if answer.Request != r || leaks(fmt.Sprint(r.Header)) {
			t.Errorf("the answer's request has %v", answer.Request.Header)
		}
		return nil
	}
	caller := h.policy.tokens.callers[0]
	held.held.access = &access{handler: h, caller: caller, token: markOf(testToken)}
	if err := send(); err != nil {
		t.Error(err)
	}
	caller.gone.Store(true)
	if err := send(); !errors.Is(err, context.Canceled) { // which reverse_proxy does not count against the upstream
		t.Errorf("sent: %v", err)
	}
	u.got(t, "Bearer "+testKey)
}

// net/http quotes what an upstream sends where it should not.
func TestAnErrorThatQuotesTheKeyIsRedacted(t *testing.T) {
	for _, value := range []string{"Bearer " + testKey, testKey} {
		held := &heldKey{value: secret.New(value)}
		cause := &net.OpError{Op: "read", Err: fmt.Errorf("malformed header %q", value)}
		err := held.redact(cause)
		if leaks(err.Error()) || !strings.Contains(err.Error(), secret.Redacted) {
			t.Errorf("it says %v", err)
		}
		if found := (*net.OpError)(nil); !errors.As(err, &found) || found != cause {
			t.Error("its cause is lost")
		}
	}
	if plain := io.ErrUnexpectedEOF; new(heldKey).redact(nil) != nil || (&heldKey{value: secret.New("k")}).redact(plain) != plain {
		t.Error("an error without the key is not as it was")
	}
}
