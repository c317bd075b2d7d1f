package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/openai/openai-go/v3/auth"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// doer hands requests to a function, in place of the network.
type doer func(*http.Request) (*http.Response, error)

func (d doer) Do(r *http.Request) (*http.Response, error)        { return d(r) }
func (d doer) RoundTrip(r *http.Request) (*http.Response, error) { return d(r) }

func tokenFile(t *testing.T, content string) TokenFile {
	t.Helper()
	path := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return TokenFile{Path: path}
}

// Both have the same workload. An answer is given to both.
func bothExchange(t *testing.T, answer string, status int) (requests [2][]string, tokens [2]string, errs [2]error) {
	t.Helper()
	file := tokenFile(t, testSubject+"\n")
	var seen *[]string
	transport := doer(func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		*seen = append(*seen, r.Method+" "+r.URL.String(), fmt.Sprint(r.Header), string(body))
		return answered(status, answer), nil
	})
	library, err := auth.NewWorkloadIdentityAuth(auth.WorkloadIdentity{
		IdentityProviderID: "idp_1", ServiceAccountID: "sa_1", Provider: auth.K8sServiceAccountTokenProvider(file.Path),
	})
	if err != nil {
		t.Fatal(err)
	}
	seen = &requests[0]
	tokens[0], errs[0] = library.GetToken(t.Context(), transport)
	seen = &requests[1]
	ours := &Config{Endpoint: DefaultEndpoint, Provider: "idp_1", ServiceAccount: "sa_1", Source: file}
	token, _, failure := ours.exchange(t.Context(), &http.Client{Transport: transport})
	tokens[1] = token.Reveal()
	if failure != nil {
		errs[1] = failure
	}
	return requests, tokens, errs
}

func TestTheExchangeIsThatOfOpenAIsOwnLibrary(t *testing.T) {
	requests, tokens, errs := bothExchange(t, `{"access_token":"at-1","issued_token_type":"urn:ietf:params:oauth:token-type:access_token","token_type":"Bearer","expires_in":3600}`, 200)
	if !reflect.DeepEqual(requests[0], requests[1]) || len(requests[0]) != 3 {
		t.Errorf("the library's request is\n%q\nand ours\n%q", requests[0], requests[1])
	}
	if tokens[0] != "at-1" || tokens[1] != "at-1" || errs[0] != nil || errs[1] != nil {
		t.Errorf("tokens %q, errors %v", tokens, errs)
	}
}

func TestAnAnswerIsTakenWhereTheLibraryTakesItAndNotWhereItIsOfNoUse(t *testing.T) {
	for name, c := range map[string]struct {
		status  int
		answer  string
		library bool
		ours    Outcome
	}{
		"without its life":               {200, `{"access_token":"at-1"}`, true, OK},
		"with more than is known":        {200, `{"access_token":"at-1","expires_in":60,"scope":"x"}`, true, OK},
		"without a token":                {200, `{"expires_in":60}`, false, Unusable},
		"something else than JSON":       {200, "<html>", false, Unusable},
		"nothing":                        {200, "", false, Unusable},
		"a refusal":                      {401, `{"error":"invalid_grant"}`, false, Refused},
		"a refusal without a code":       {404, "no", false, Refused},
		"a redirect":                     {302, "", false, Unusable},
		"an outage":                      {503, "", false, Unavailable},
		"too many requests":              {429, "", false, Unavailable},
		"no content":                     {204, "", false, Unusable},
		"more than anybody needs":        {200, strings.Repeat(" ", 2<<20) + "{}", false, Unusable},
		"a life in words":                {200, `{"access_token":"at-1","expires_in":"soon"}`, false, Unusable},
		"half a second":                  {200, `{"access_token":"at-1","expires_in":0.5}`, false, Unusable},
		"a token that has ended":         {200, `{"access_token":"at-1","expires_in":0}`, true, Unusable},
		"one that ended before it began": {200, `{"access_token":"at-1","expires_in":-3600}`, true, Unusable},
		"one that ended long ago":        {200, `{"access_token":"at-1","expires_in":60,"expires_at":1}`, true, Unusable},
		"one that ends in time":          {200, `{"access_token":"at-1","expires_in":60,"expires_at":99999999999}`, true, OK},
		"a token with a newline in it":   {200, `{"access_token":"at-1\r\nX: y","expires_in":60}`, true, Unusable},
		"another kind of token":          {200, `{"access_token":"at-1","token_type":"DPoP","expires_in":60}`, true, Unusable},
		"a token to get tokens with":     {200, `{"access_token":"at-1","issued_token_type":"urn:ietf:params:oauth:token-type:refresh_token","expires_in":60}`, true, Unusable},
	} {
		t.Run(name, func(t *testing.T) {
			_, _, errs := bothExchange(t, c.answer, c.status)
			if (errs[0] == nil) != c.library {
				t.Errorf("the library: %v", errs[0])
			}
			outcome := OK
			if failure := (*Failure)(nil); errors.As(errs[1], &failure) {
				outcome = failure.Outcome
			}
			if outcome != c.ours {
				t.Errorf("ours: %s (%v), want %s", outcome, errs[1], c.ours)
			}
		})
	}
}

func TestALifeIsBelievedUpToADay(t *testing.T) {
	for answer, want := range map[string]time.Duration{
		`{"access_token":"t"}`:                          time.Hour,
		`{"access_token":"t","expires_in":1}`:           time.Second,
		`{"access_token":"t","expires_in":3600}`:        time.Hour,
		`{"access_token":"t","expires_in":99999999999}`: 24 * time.Hour,
	} {
		if _, life, failure := readAnswer("host", []byte(answer)); failure != nil || life != want {
			t.Errorf("%s: %v %v, want %v", answer, life, failure, want)
		}
	}
}

// hostile is a token endpoint, or an issuer, that sends back what it was sent,
// wherever an error could quote it.
func hostile(t *testing.T, how func(conn net.Conn, sent string)) (url string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				buffer := make([]byte, 64<<10)
				n, _ := conn.Read(buffer)
				for !bytes.Contains(buffer[:n], []byte("\r\n\r\n")) {
					more, err := conn.Read(buffer[n:])
					if err != nil {
						return
					}
					n += more
				}
				sent := string(buffer[:n])
				if strings.HasPrefix(sent, "POST") {
					for !strings.Contains(sent, "service_account_id") {
						more, err := conn.Read(buffer[n:])
						if err != nil {
							return
						}
						n += more
						sent = string(buffer[:n])
					}
				}
				how(conn, strings.NewReplacer("\r", " ", "\n", " ").Replace(sent))
			}()
		}
	}()
	return "http://" + listener.Addr().String() + "/token"
}

func TestNothingOfATokenIsInAnError(t *testing.T) {
	const requestToken = "ghRequestTokenOfTheJob"
	answer := func(format string) func(net.Conn, string) {
		return func(conn net.Conn, sent string) { _, _ = fmt.Fprintf(conn, format, sent) }
	}
	quoted := func(status string) func(net.Conn, string) {
		return func(conn net.Conn, sent string) {
			body, _ := json.Marshal(map[string]string{"error": sent, "error_description": sent, "value": sent, "access_token": sent, "expires_in": sent})
			_, _ = fmt.Fprintf(conn, "HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", status, len(body), body)
		}
	}
	for name, how := range map[string]func(net.Conn, string){
		"no HTTP":             answer("%s\r\n\r\n"),
		"an odd status":       answer("HTTP/1.1 %s\r\n\r\n"),
		"an odd header":       answer("HTTP/1.1 200 OK\r\n%s\r\n\r\n"),
		"an odd length":       answer("HTTP/1.1 200 OK\r\nContent-Length: %s\r\n\r\n"),
		"an odd encoding":     answer("HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n"),
		"a redirect":          answer("HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/%q\r\nContent-Length: 0\r\n\r\n"),
		"an odd redirect":     answer("HTTP/1.1 307 Go\r\nLocation: ::%%zz%q\r\nContent-Length: 0\r\n\r\n"),
		"an answer in halves": answer("HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n%s"),
		"a token":             quoted("200 OK"),
		"a refusal":           quoted("400 Bad"),
		"an outage":           quoted("503 No"),
		"a hang-up":           func(net.Conn, string) {},
	} {
		t.Run(name, func(t *testing.T) {
			url := hostile(t, how)
			for source, config := range map[string]*Config{
				"file":   {Endpoint: url, Provider: "idp_1", ServiceAccount: "sa_1", Source: tokenFile(t, testSubject)},
				"github": {Endpoint: url, Provider: "idp_1", ServiceAccount: "sa_1", Source: GitHubActions{RequestURL: url, RequestToken: secret.New(requestToken), Audience: "a"}},
			} {
				_, _, failure := config.exchange(t.Context(), newClient())
				if failure == nil {
					t.Fatalf("%s: taken", source)
				}
				for _, shown := range []string{failure.Error(), fmt.Sprintf("%+v %#v", failure, failure)} {
					if strings.Contains(shown, testSubject) || strings.Contains(shown, requestToken) {
						t.Errorf("%s: it says %s", source, shown)
					}
				}
			}
		})
	}
}

// The workload's token must not go where nobody has said.
func TestARedirectIsNotFollowed(t *testing.T) {
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("it was followed: %s %v", r.Method, r.Header)
	}))
	t.Cleanup(elsewhere.Close)
	endpoint := httptest.NewServer(http.RedirectHandler(elsewhere.URL, http.StatusTemporaryRedirect))
	t.Cleanup(endpoint.Close)
	for _, config := range []*Config{
		{Endpoint: endpoint.URL, Source: staticSource{}},
		{Endpoint: endpoint.URL, Source: GitHubActions{RequestURL: endpoint.URL, RequestToken: secret.New("t")}},
	} {
		if _, _, failure := config.exchange(t.Context(), newClient()); failure == nil || !strings.Contains(failure.Error(), "redirect") {
			t.Errorf("the failure is %v", failure)
		}
	}
}

func TestAnEndpointThatCannotBeReachedIsToldByItsFault(t *testing.T) {
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = closed.Close()
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	for endpoint, want := range map[string]string{
		"http://" + closed.Addr().String(): "refused", // Windows says so in a sentence of its own
		untrusted.URL:                      "certificate is not trusted",
	} {
		config := &Config{Endpoint: endpoint, Source: staticSource{}}
		_, _, failure := config.exchange(t.Context(), newClient())
		if failure == nil || failure.Outcome != Unavailable || !strings.Contains(failure.Error(), want) {
			t.Errorf("%s: %v, want it to say %q", endpoint, failure, want)
		}
	}
	unknown := doer(func(*http.Request) (*http.Response, error) {
		return nil, &net.OpError{Op: "dial", Err: &net.DNSError{Err: "no such host", Name: "x"}}
	})
	config := &Config{Endpoint: DefaultEndpoint, Source: staticSource{}}
	if _, _, failure := config.exchange(t.Context(), &http.Client{Transport: unknown}); failure == nil || !strings.Contains(failure.Error(), "its name is not known (no such host)") {
		t.Errorf("%v", failure)
	}
}

func TestGitHubIsAskedForTheAudienceWithTheRequestToken(t *testing.T) {
	github := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer gh-request" || r.URL.Query().Get("api-version") != "2.0" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		_, _ = fmt.Fprintf(w, `{"count":1,"value":"jwt-for-%s"}`, r.URL.Query().Get("audience"))
	}))
	t.Cleanup(github.Close)
	source := GitHubActions{RequestURL: github.URL + "/token?api-version=2.0", RequestToken: secret.New("gh-request"), Audience: "https://api.openai.com/v1"}
	token, failure := source.subject(t.Context(), newClient())
	if failure != nil || token.Reveal() != "jwt-for-https://api.openai.com/v1" {
		t.Errorf("%q %v", token.Reveal(), failure)
	}
	source.RequestToken = secret.New("of-another-job")
	if _, failure := source.subject(t.Context(), newClient()); failure == nil || failure.Outcome != NoSubject || !strings.Contains(failure.Error(), "status 403") {
		t.Errorf("with another token: %v", failure)
	}
}

func TestATokenFileIsReadForEachExchangeAndAsASecretIs(t *testing.T) {
	file := tokenFile(t, "first\n")
	read := func() string {
		token, failure := file.subject(t.Context(), nil)
		if failure != nil {
			return failure.Error()
		}
		return token.Reveal()
	}
	if got := read(); got != "first" {
		t.Errorf("read %q", got)
	}
	if err := os.WriteFile(file.Path, []byte("  second\n\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(); got != "second" {
		t.Errorf("read %q", got)
	}
	if runtime.GOOS != "windows" {
		if err := os.Chmod(file.Path, 0o644); err != nil {
			t.Fatal(err)
		}
		if got := read(); !strings.Contains(got, "every user can read it") {
			t.Errorf("a file that every user can read: %q", got)
		}
		if err := os.Chmod(file.Path, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(file.Path, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := read(); !strings.Contains(got, "it is empty") {
		t.Errorf("an empty file: %q", got)
	}
	if err := os.Remove(file.Path); err != nil {
		t.Fatal(err)
	}
	if err := file.Check(); err == nil {
		t.Error("a file that is not there is nothing to complain of")
	}
}

func TestTokensGoOnlyWhereNobodyReadsThem(t *testing.T) {
	for url, ok := range map[string]bool{
		"https://auth.openai.com/oauth/token": true,
		"http://127.0.0.1:8080/token":         true,
		"http://[::1]:8080/token":             true,
		"http://auth.openai.com/oauth/token":  false,
		"http://localhost.example/token":      false,
		"http://10.0.0.1/token":               false,
		"https://user@auth.openai.com/":       false,
		"https://auth.openai.com/#x":          false,
		"https:///oauth":                      false,
		"auth.openai.com":                     false,
		"ftp://127.0.0.1/":                    false,
		"":                                    false,
		"https://%zz":                         false,
	} {
		if err := CheckURL(url); (err == nil) != ok {
			t.Errorf("%q: %v", url, err)
		}
	}
}

func TestWhatCannotWorkIsRefusedBeforeAnybodyIsAsked(t *testing.T) {
	good := Config{Endpoint: DefaultEndpoint, Provider: "idp", ServiceAccount: "sa", Source: staticSource{}}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for says, spoil := range map[string]func(*Config){
		"provider":             func(c *Config) { c.Provider = "" },
		"service_account":      func(c *Config) { c.ServiceAccount = "" },
		"source":               func(c *Config) { c.Source = nil },
		"token_type":           func(c *Config) { c.SubjectType = "saml2" },
		"endpoint":             func(c *Config) { c.Endpoint = "http://auth.openai.com" },
		"in the clear":         func(c *Config) { c.Source = GitHubActions{RequestURL: "http://github.example"} },
		"/no/such/token/file:": func(c *Config) { c.Source = TokenFile{"/no/such/token/file"} },
	} {
		bad := good
		spoil(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), strings.TrimSuffix(says, ":")) {
			t.Errorf("%s: %v", says, err)
		}
	}
}

func TestAnExchangeThatIsStoppedFails(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	config := &Config{Endpoint: DefaultEndpoint, Source: staticSource{}}
	if _, _, failure := config.exchange(ctx, &http.Client{Transport: doer(hangs)}); failure == nil || failure.Outcome != Unavailable {
		t.Errorf("%v", failure)
	}
}
