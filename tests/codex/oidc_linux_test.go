package codex

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// internet is what the two proxies take for it: they go through an HTTPS_PROXY
// on loopback, and trust one more certificate authority. So both run with
// nothing changed but their environment.
type internet struct {
	issuer   *gatetest.Issuer
	upstream *fakeUpstream
	env      []string

	mu   sync.Mutex
	seen []string // requests of GitHub and the token endpoint
}

const githubURL = "https://pipelines.actions.example/github?api-version=2.0"

func newInternet(t *testing.T) *internet {
	t.Helper()
	n := &internet{issuer: gatetest.NewIssuer(t, time.Hour, time.Minute), upstream: newUpstream(t)}
	api, err := url.Parse(n.upstream.URL)
	if err != nil {
		t.Fatal(err)
	}
	reverse := httputil.NewSingleHostReverseProxy(api)
	reverse.FlushInterval = -1
	sites := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch strings.TrimSuffix(r.Host, ":443") {
		case "auth.openai.com", "pipelines.actions.example":
			n.note(r)
			n.issuer.Config.Handler.ServeHTTP(w, r)
		case "api.openai.com":
			n.issuer.Checked(reverse.ServeHTTP)(w, r)
		default:
			http.NotFound(w, r)
		}
	}))
	certificate, authority := newCertificate(t, "auth.openai.com", "api.openai.com", "pipelines.actions.example")
	sites.TLS = &tls.Config{Certificates: []tls.Certificate{certificate}}
	sites.Config.ErrorLog = log.New(io.Discard, "", 0)
	sites.StartTLS()
	t.Cleanup(func() {
		sites.CloseClientConnections()
		sites.Close()
	})
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, authority, 0o600); err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(connectTo(sites.Listener.Addr().String()))
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
	})
	n.env = []string{"HTTPS_PROXY=" + proxy.URL, "https_proxy=" + proxy.URL, "ALL_PROXY=", "SSL_CERT_FILE=" + ca}
	return n
}

// note keeps what is the same in every request of the same meaning.
func (n *internet) note(r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen = append(n.seen, r.Method+" "+r.Host+r.URL.Path+" "+r.URL.Query().Encode()+" "+r.Header.Get("Authorization")+" "+r.Header.Get("Content-Type"))
}

func (n *internet) noted() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	seen := n.seen
	n.seen = nil
	return seen
}

// connectTo is an HTTP proxy whose tunnels all lead to one address.
func connectTo(addr string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect {
			http.Error(w, "only CONNECT", http.StatusMethodNotAllowed)
			return
		}
		to, err := net.Dial("tcp", addr)
		if err != nil {
			http.Error(w, "", http.StatusBadGateway)
			return
		}
		defer to.Close()
		from, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer from.Close()
		_, _ = io.WriteString(from, "HTTP/1.1 200 OK\r\n\r\n")
		var both sync.WaitGroup
		for _, way := range [][2]net.Conn{{from, to}, {to, from}} {
			both.Go(func() {
				_, _ = io.Copy(way[0], way[1])
				_ = way[0].Close()
			})
		}
		both.Wait()
	}
}

// newCertificate makes a certificate for hosts, and that of its authority.
func newCertificate(t *testing.T, hosts ...string) (tls.Certificate, []byte) {
	t.Helper()
	keys := make([]*ecdsa.PrivateKey, 2)
	for i := range keys {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		keys[i] = key
	}
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: hosts[0]}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: hosts, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	authority, err := x509.CreateCertificate(rand.Reader, ca, ca, &keys[0].PublicKey, keys[0])
	if err != nil {
		t.Fatal(err)
	}
	signed, err := x509.CreateCertificate(rand.Reader, leaf, ca, &keys[1].PublicKey, keys[0])
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{signed}, PrivateKey: keys[1]},
		pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority})
}

// oidcArgs are the flags of a job that may have an identity.
var oidcArgs = []string{
	"--github-oidc", "--oidc-audience", "https://api.openai.com/v1", "--identity-provider-id", "idp_1", "--service-account-id", "sa_1",
	"--github-oidc-request-url", githubURL,
}

// twoPrograms are ours and each version of the original.
func twoPrograms(t *testing.T) map[string][]string {
	t.Helper()
	programs := map[string][]string{"ours": {gatetest.CaddyBinary, "responses-proxy"}}
	for version, binary := range gatetest.CodexBinaries(t) {
		programs[version] = []string{binary, "responses-api-proxy"}
	}
	return programs
}

func (n *internet) command(t *testing.T, program []string, stdin string, args ...string) (cmd *exec.Cmd, infoPath string) {
	t.Helper()
	home := t.TempDir()
	infoPath = filepath.Join(home, "info.json")
	cmd = command(t, home, program[0], append(slices.Concat(program[1:], []string{"--server-info", infoPath}), args...)...)
	cmd.Env = append(cmd.Env, n.env...)
	cmd.Stdin = strings.NewReader(stdin)
	return cmd, infoPath
}

// start starts a proxy that needs no key.
func (n *internet) start(t *testing.T, program []string) *proxy {
	t.Helper()
	cmd, infoPath := n.command(t, program, gatetest.RequestToken+"\n", oidcArgs...)
	p := &proxy{process: start(t, cmd), infoPath: infoPath}
	p.await(t, "listening on 127.0.0.1:")
	p.readInfo(t)
	return p
}

func TestBothAskGitHubAndOpenAIForTheSameAndSendTheSame(t *testing.T) {
	n := newInternet(t)
	asked, exchanged := make(map[string][]string), make(map[string]gatetest.Exchange)
	for name, program := range twoPrograms(t) {
		n.noted()
		n.upstream.forget(nil)
		p := n.start(t, program)
		if got := turn().exchange(t, p, patience); got.status != http.StatusOK {
			t.Fatalf("%s answers %d %s", name, got.status, got.body)
		}
		asked[name] = n.noted()
		all := n.issuer.Exchanges()
		exchanged[name] = all[len(all)-1]
		for _, request := range n.upstream.all() {
			if got := request.header.Get("Authorization"); !strings.HasPrefix(got, "Bearer oai-short-lived-") {
				t.Errorf("%s: the upstream got %q", name, got)
			}
		}
		for _, secret := range []string{gatetest.RequestToken, gatetest.SubjectToken, "oai-short-lived-"} {
			if strings.Contains(p.printed(), secret) {
				t.Errorf("%s prints %s", name, secret)
			}
		}
	}
	for name := range asked {
		if !reflect.DeepEqual(asked[name], asked["ours"]) || len(asked["ours"]) != 2 {
			t.Errorf("%s asks\n%q\nand ours\n%q", name, asked[name], asked["ours"])
		}
		if exchanged[name] != exchanged["ours"] {
			t.Errorf("%s sends\n%+v\nand ours\n%+v", name, exchanged[name], exchanged["ours"])
		}
	}
}

func TestTheCommandOfRunHasNoIdentityOfTheJob(t *testing.T) {
	n := newInternet(t)
	scripts := map[string][]string{
		"curl":  {"--", "sh", "-c", "env; " + curlTurn},
		"Codex": {"--codex", "--", "sh", "-c", `env; exec "$0" "$@"`, gatetest.CodexBinary(t), "exec", "--skip-git-repo-check", "-m", "gpt-5", "hi"},
	}
	if os.Geteuid() == 0 {
		scripts["curl as another user"] = append([]string{"--as", "nobody"}, scripts["curl"]...)
	}
	for name, script := range scripts {
		t.Run(name, func(t *testing.T) {
			n.upstream.forget(nil)
			cmd := command(t, t.TempDir(), gatetest.CaddyBinary, slices.Concat([]string{"responses-proxy", "run"}, oidcArgs, script)...)
			cmd.Env = append(cmd.Env, n.env...)
			cmd.Env = append(cmd.Env, "ACTIONS_ID_TOKEN_REQUEST_TOKEN="+gatetest.RequestToken, "COPY=bearer "+gatetest.RequestToken, "OPENAI_API_KEY="+operatorKey, "KEY="+operatorKey)
			got := run(t, cmd)
			says := "\n200\n"
			if name == "Codex" {
				says = n.upstream.say
			}
			if got.code != 0 || !strings.Contains(got.stdout, says) {
				t.Fatalf("exit code %d, %s%s", got.code, got.stdout, got.stderr)
			}
			for _, secret := range []string{gatetest.RequestToken, gatetest.SubjectToken, "oai-short-lived-", operatorKey} {
				if strings.Contains(got.stdout+got.stderr, secret) {
					t.Errorf("the command has %s:\n%s", secret, got.stdout)
				}
			}
			turns := n.upstream.matching(http.MethodPost, "/v1/responses")
			for _, request := range turns {
				if got := request.header.Get("Authorization"); !strings.HasPrefix(got, "Bearer oai-short-lived-") {
					t.Errorf("the upstream got %q", got)
				}
			}
			if len(turns) == 0 {
				t.Error("nothing reached the upstream")
			}
		})
	}
}

func TestRunWithoutTheJobsIdentitySaysWhatIsMissing(t *testing.T) {
	keyFile := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(keyFile, []byte(operatorKey), 0o600); err != nil {
		t.Fatal(err)
	}
	for says, args := range map[string][]string{
		"id-token: write": oidcArgs,
		"--key-file":      append(slices.Clone(oidcArgs), "--key-file", keyFile),
		"the following required arguments were not provided: --oidc-audience": oidcArgsWithout("--oidc-audience"),
	} {
		args = slices.Concat([]string{"responses-proxy", "run"}, args, []string{"--", "true"})
		if got := run(t, command(t, t.TempDir(), gatetest.CaddyBinary, args...)); got.code == 0 || !strings.Contains(got.stderr, says) {
			t.Errorf("exit code %d, and it says\n%s\nwant %q", got.code, got.stderr, says)
		}
	}
}

// oidcArgsWithout is oidcArgs without a flag and its value, and with others.
func oidcArgsWithout(flag string, others ...string) []string {
	args := slices.Clone(oidcArgs)
	if at := slices.Index(args, flag); at >= 0 {
		n := 2
		if flag == "--github-oidc" {
			n = 1
		}
		args = slices.Delete(args, at, at+n)
	}
	return append(args, others...)
}

func TestBothRefuseTheSameFlagsInTheSameWords(t *testing.T) {
	n := newInternet(t)
	const token = gatetest.RequestToken
	for name, c := range map[string]struct {
		args        []string
		stdin, says string
	}{
		"no audience":                {oidcArgsWithout("--oidc-audience"), token, "the following required arguments were not provided"},
		"no provider":                {oidcArgsWithout("--identity-provider-id"), token, "--identity-provider-id"},
		"no service account":         {oidcArgsWithout("--service-account-id"), token, "--service-account-id"},
		"no request URL":             {oidcArgsWithout("--github-oidc-request-url"), token, "--github-oidc-request-url"},
		"the rest alone":             {oidcArgsWithout("--github-oidc"), token, "--github-oidc"},
		"an empty audience":          {oidcArgsWithout("--oidc-audience", "--oidc-audience", ""), token, "workload identity requires a nonempty --oidc-audience"},
		"a blank audience":           {oidcArgsWithout("--oidc-audience", "--oidc-audience", " "), token, "workload identity requires a nonempty --oidc-audience"},
		"an empty provider":          {oidcArgsWithout("--identity-provider-id", "--identity-provider-id", ""), token, "workload identity requires a nonempty --identity-provider-id"},
		"an empty account":           {oidcArgsWithout("--service-account-id", "--service-account-id", ""), token, "workload identity requires a nonempty --service-account-id"},
		"a request URL in the clear": {oidcArgsWithout("--github-oidc-request-url", "--github-oidc-request-url", "http://127.0.0.1:1/x"), token, "GitHub OIDC request URL must be HTTPS without user info or fragment"},
		"one with a user":            {oidcArgsWithout("--github-oidc-request-url", "--github-oidc-request-url", "https://u:p@127.0.0.1:1/x"), token, "GitHub OIDC request URL must be HTTPS without user info or fragment"},
		"one with a fragment":        {oidcArgsWithout("--github-oidc-request-url", "--github-oidc-request-url", "https://127.0.0.1:1/#x"), token, "GitHub OIDC request URL must be HTTPS without user info or fragment"},
		"one that is none":           {oidcArgsWithout("--github-oidc-request-url", "--github-oidc-request-url", "garbage"), token, "invalid GitHub OIDC request URL"},
		"another upstream":           {oidcArgsWithout("", "--upstream-url", "https://api.openai.com/v1/responses?x=1"), token, "workload identity requires the default OpenAI Responses endpoint"},
		"no request token":           {oidcArgs, "", ""},
		"one with a space":           {oidcArgs, "a b", ""},
		"one that is too long":       {oidcArgs, strings.Repeat("x", 20000), ""},
		"one of another job":         {oidcArgs, "of-another-job", ""},
	} {
		t.Run(name, func(t *testing.T) {
			for which, program := range twoPrograms(t) {
				cmd, infoPath := n.command(t, program, c.stdin, c.args...)
				got := run(t, cmd)
				if got.code == 0 || !strings.Contains(got.stderr, c.says) {
					t.Errorf("%s: exit code %d, and it says\n%s\nwant %q", which, got.code, got.stderr, c.says)
				}
				if _, err := os.Lstat(infoPath); err == nil {
					t.Errorf("%s: there is a server-info file", which)
				}
			}
		})
	}
}

func TestBothRefuseToStartWithATokenThatIsOfNoUse(t *testing.T) {
	n := newInternet(t)
	for name, answer := range map[string]http.HandlerFunc{
		"a refusal": func(w http.ResponseWriter, _ *http.Request) { http.Error(w, `{"error":"invalid_grant"}`, 400) },
		"garbage":   func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "<html>") },
		"a redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusTemporaryRedirect)
		},
		"a token that has ended":         func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tokenFor("0")) },
		"one that ended before it began": func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, tokenFor("-60")) },
		"one that ended long ago": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Replace(tokenFor("3600"), "99999999999", "1", 1))
		},
		"another kind of token": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, strings.Replace(tokenFor("3600"), "access_token\",\"token_type", "refresh_token\",\"token_type", 1))
		},
	} {
		t.Run(name, func(t *testing.T) {
			n.issuer.Fail(answer)
			for which, program := range twoPrograms(t) {
				cmd, infoPath := n.command(t, program, gatetest.RequestToken, oidcArgs...)
				got := run(t, cmd)
				if _, err := os.Lstat(infoPath); got.code == 0 || err == nil {
					t.Errorf("%s: exit code %d; server-info: %v", which, got.code, err)
				}
				for _, secret := range []string{gatetest.RequestToken, gatetest.SubjectToken, "of-no-use"} {
					if strings.Contains(got.stderr, secret) {
						t.Errorf("%s prints %s", which, secret)
					}
				}
			}
		})
	}
}

func tokenFor(seconds string) string {
	return fmt.Sprintf(`{"access_token":"of-no-use","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":%s,"expires_at":99999999999}`, seconds)
}

func TestCodexCompletesTurnsThroughTheCommandWithoutAnyKey(t *testing.T) {
	gatetest.CodexBinary(t)
	n := newInternet(t)
	p := n.start(t, []string{gatetest.CaddyBinary, "responses-proxy"})
	home := codexHome(t, p)
	for range 2 {
		n.upstream.forget(nil)
		wantTurn(t, n.upstream, codexExec(t, home, nil, []string{"model_provider=gate-command", overHTTP}))
		requests := n.upstream.matching(http.MethodPost, "/v1/responses")
		if len(requests) != 1 || requests[0].host != "api.openai.com" {
			t.Errorf("%d turns reached the upstream: %v", len(requests), requests)
		}
		for _, request := range requests {
			if strings.Contains(request.String(), p.token) {
				t.Error("the gate token reached the upstream")
			}
		}
		n.issuer.Revoke() // as by somebody at OpenAI
		if got := turn().exchange(t, p, patience); got.status != http.StatusBadRequest {
			t.Errorf("a revoked token: status %d", got.status)
		}
	}
}
