package identity

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

const (
	// DefaultEndpoint is where OpenAI exchanges tokens.
	DefaultEndpoint = "https://auth.openai.com/oauth/token"

	// requestTimeout is how long one request of an exchange may take.
	requestTimeout = 10 * time.Second

	// maxAnswer is how much of an answer is read, in bytes.
	maxAnswer = 64 << 10

	// defaultLife is how long a token lives whose answer does not say it, as
	// OpenAI's libraries have it.
	defaultLife = time.Hour

	// maxLife is how long one is believed to live.
	maxLife = 24 * time.Hour

	exchangeGrant = "urn:ietf:params:oauth:grant-type:token-exchange"
	tokenTypes    = "urn:ietf:params:oauth:token-type:"
)

// exchangeRequest is the request of RFC 8693, with OpenAI's own parameters.
type exchangeRequest struct {
	GrantType          string `json:"grant_type"`
	SubjectToken       string `json:"subject_token"`
	SubjectTokenType   string `json:"subject_token_type"`
	IdentityProviderID string `json:"identity_provider_id"`
	ServiceAccountID   string `json:"service_account_id"`
}

// exchangeAnswer is what is read of the answer.
type exchangeAnswer struct {
	AccessToken     string       `json:"access_token"`
	IssuedTokenType string       `json:"issued_token_type"`
	TokenType       string       `json:"token_type"`
	ExpiresIn       *json.Number `json:"expires_in"`
	ExpiresAt       *json.Number `json:"expires_at"` // a Unix time; OpenAI's own
}

// exchange gets a token, and tells for how long it lives from the beginning of
// the exchange on.
func (c *Config) exchange(ctx context.Context, client *http.Client) (secret.Secret, time.Duration, *Failure) {
	subject, failure := c.Source.subject(ctx, client)
	if failure != nil {
		return secret.Secret{}, 0, failure
	}
	body, err := json.Marshal(exchangeRequest{
		GrantType:          exchangeGrant,
		SubjectToken:       subject.Reveal(),
		SubjectTokenType:   tokenTypes + c.subjectType(),
		IdentityProviderID: c.Provider,
		ServiceAccountID:   c.ServiceAccount,
	})
	if err != nil {
		return secret.Secret{}, 0, failed(NoSubject, "the request cannot be encoded")
	}
	defer clear(body)
	r, err := http.NewRequest(http.MethodPost, c.Endpoint, bytes.NewReader(body))
	if err != nil {
		return secret.Secret{}, 0, failed(Unavailable, "the token endpoint is no URL")
	}
	r.Header.Set("Content-Type", "application/json")
	answer, failure := ask(ctx, client, r)
	if failure != nil {
		return secret.Secret{}, 0, failure
	}
	defer clear(answer)
	return readAnswer(r.URL.Host, answer)
}

// readAnswer is the token in an answer with status 200.
func readAnswer(host string, body []byte) (secret.Secret, time.Duration, *Failure) {
	var answer exchangeAnswer
	if json.Unmarshal(body, &answer) != nil {
		return secret.Secret{}, 0, failed(Unusable, "%s answered with something else than the JSON of a token", host)
	}
	token, err := secret.Parse(answer.AccessToken)
	switch {
	case err != nil:
		return secret.Secret{}, 0, failed(Unusable, "%s answered with an access_token that is of no use: %v", host, err)
	case answer.TokenType != "" && !strings.EqualFold(answer.TokenType, "bearer"):
		return secret.Secret{}, 0, failed(Unusable, "%s answered with a token whose token_type is not Bearer", host)
	case answer.IssuedTokenType != "" && answer.IssuedTokenType != tokenTypes+"access_token":
		return secret.Secret{}, 0, failed(Unusable, "%s answered with a token whose issued_token_type is not access_token", host)
	case answer.hasEnded(time.Now()):
		return secret.Secret{}, 0, failed(Unusable, "%s answered with a token that has ended by the clock of this machine, which may be wrong", host)
	case answer.ExpiresIn == nil:
		return token, defaultLife, nil
	}
	seconds, err := answer.ExpiresIn.Int64()
	switch {
	case err != nil:
		return secret.Secret{}, 0, failed(Unusable, "%s answered with an expires_in that is no whole number of seconds", host)
	case seconds <= 0:
		return secret.Secret{}, 0, failed(Unusable, "%s answered with a token that has ended already", host)
	}
	return token, time.Duration(min(seconds, int64(maxLife/time.Second))) * time.Second, nil
}

// hasEnded reports whether the moment of the token's end is past. How long it
// lives is what expires_in says: that needs no clock that is right.
func (a *exchangeAnswer) hasEnded(now time.Time) bool {
	if a.ExpiresAt == nil {
		return false
	}
	end, err := a.ExpiresAt.Int64()
	return err == nil && time.Unix(end, 0).Before(now)
}

// newClient makes the client of an exchanger. There is about one exchange in an
// hour: a connection that was kept would be dead by then, or its other end
// would find ours dead. A redirect would take a token where nobody has said.
func newClient() *http.Client {
	transport := http.DefaultTransport.(*http.Transport).Clone() // its proxy is that of the environment, but for loopback
	transport.DisableKeepAlives = true
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// ask sends r and is the body of its answer, whose status was 200.
func ask(ctx context.Context, client *http.Client, r *http.Request) ([]byte, *Failure) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	answer, err := client.Do(r.WithContext(ctx))
	if err != nil {
		return nil, unreached(ctx, r.URL.Host, err)
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxAnswer+1))
	switch {
	case answer.StatusCode != http.StatusOK:
		return nil, answeredWith(r.URL.Host, answer.StatusCode, oauthError(body))
	case err != nil:
		return nil, unreached(ctx, r.URL.Host, err)
	case len(body) > maxAnswer:
		return nil, failed(Unusable, "%s answered with more than %d bytes", r.URL.Host, maxAnswer)
	}
	return body, nil
}

// oauthError is the code of an OAuth error, if it is a known one.
func oauthError(body []byte) string {
	var answer struct {
		Error string `json:"error"`
	}
	if json.Unmarshal(body, &answer) != nil || !slices.Contains(oauthErrors, answer.Error) {
		return ""
	}
	return answer.Error
}

// CheckURL refuses an address to which tokens would go in the clear, or that
// hides where they go.
func CheckURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Hostname() == "":
		return errors.New("it is no absolute URL")
	case u.User != nil || u.Fragment != "":
		return errors.New("it has a user or a fragment")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http":
		if addr, err := netip.ParseAddr(u.Hostname()); err == nil && addr.IsLoopback() && addr.Zone() == "" {
			return nil
		}
	}
	return errors.New("a token would go there in the clear; write https:// (or http:// and a loopback address, such as 127.0.0.1)")
}
