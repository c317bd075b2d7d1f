package identity

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
)

// DefaultAudience is what the workload's token is for, if nothing else is said.
const DefaultAudience = "https://api.openai.com/v1"

// Source is where the workload's own token comes from.
type Source interface {
	// subject is the workload's token as it is now.
	subject(context.Context, *http.Client) (secret.Secret, *Failure)

	// Check reports what is wrong with the source as far as can be told
	// without asking anybody.
	Check() error
}

// TokenFile is a file in which something else keeps a token fresh: the
// kubelet, a SPIFFE helper. It is read for each exchange.
type TokenFile struct{ Path string }

// Check reads the file.
func (f TokenFile) Check() error {
	_, err := f.read()
	return err
}

func (f TokenFile) subject(context.Context, *http.Client) (secret.Secret, *Failure) {
	token, err := f.read()
	if err != nil {
		return secret.Secret{}, failed(NoSubject, "token_file %s: %v", f.Path, err)
	}
	return token, nil
}

func (f TokenFile) read() (secret.Secret, error) {
	file, _, err := infofile.OpenSecret(f.Path)
	if err != nil {
		return secret.Secret{}, err
	}
	defer file.Close()
	raw, err := io.ReadAll(io.LimitReader(file, secret.MaxLength+3))
	if err != nil {
		return secret.Secret{}, err
	}
	defer clear(raw)
	return secret.Parse(strings.TrimSpace(string(raw)))
}

// GitHubActions asks GitHub for the identity of the job that runs.
type GitHubActions struct {
	RequestURL   string        // the job's ACTIONS_ID_TOKEN_REQUEST_URL
	RequestToken secret.Secret // its ACTIONS_ID_TOKEN_REQUEST_TOKEN
	Audience     string
}

// Check looks at the address only.
func (g GitHubActions) Check() error { return CheckURL(g.RequestURL) }

func (g GitHubActions) subject(ctx context.Context, client *http.Client) (secret.Secret, *Failure) {
	u, err := url.Parse(g.RequestURL)
	if err != nil {
		return secret.Secret{}, failed(NoSubject, "the request URL of github_actions is none")
	}
	query := u.Query()
	query.Set("audience", g.Audience)
	u.RawQuery = query.Encode()
	r, err := http.NewRequest(http.MethodGet, u.String(), nil)
	if err != nil {
		return secret.Secret{}, failed(NoSubject, "the request URL of github_actions is none")
	}
	r.Header.Set("Accept", "application/json")
	r.Header.Set("Authorization", "Bearer "+g.RequestToken.Reveal())
	body, failure := ask(ctx, client, r)
	if failure != nil {
		if failure.Outcome != Unavailable {
			failure.Outcome = NoSubject
		}
		failure.text = "GitHub's identity token: " + failure.text
		return secret.Secret{}, failure
	}
	defer clear(body)
	var answer struct {
		Value string `json:"value"`
	}
	if json.Unmarshal(body, &answer) != nil {
		return secret.Secret{}, failed(NoSubject, "GitHub's identity token: %s answered with something else than the JSON of a token", u.Host)
	}
	token, err := secret.Parse(answer.Value)
	if err != nil {
		return secret.Secret{}, failed(NoSubject, "GitHub's identity token, of %s: %v", u.Host, err)
	}
	return token, nil
}
