package command

import (
	"errors"
	"fmt"
	"net/url"
	"strings"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/pflag"
)

// githubOIDC are the flags with which a job of GitHub Actions needs no key.
// Their names, and what is refused and how, are the original's.
type githubOIDC struct {
	audience, provider, serviceAccount, requestURL string
}

const oidcFlag = "github-oidc"

// oidcFlags are those that belong to --github-oidc, in the original's order.
var oidcFlags = []struct{ name, usage string }{
	{"oidc-audience", "Audience configured on the OpenAI workload identity provider"},
	{"identity-provider-id", "OpenAI workload identity provider ID"},
	{"service-account-id", "OpenAI service account ID selected by the provider mapping"},
	{"github-oidc-request-url", "HTTPS token-request URL, as GitHub's runner says it in ACTIONS_ID_TOKEN_REQUEST_URL; the request token is sent there"},
}

func addOIDCFlags(flags *pflag.FlagSet) {
	flags.Bool(oidcFlag, false, "No key: authenticate to OpenAI as the job of GitHub Actions that this runs in. Stdin has the job's request token (run: its environment)")
	for _, flag := range oidcFlags {
		flags.String(flag.name, "", flag.usage+" (with --"+oidcFlag+")")
	}
}

// oidcFrom reads the flags; nil if there is a key.
func oidcFrom(flags caddycmd.Flags, upstreamURL string) (*githubOIDC, error) {
	given := flags.Bool(oidcFlag)
	var missing []string
	if !given {
		missing = append(missing, "--"+oidcFlag)
	}
	for _, flag := range oidcFlags {
		if flags.Changed(flag.name) {
			given = true
		} else {
			missing = append(missing, "--"+flag.name)
		}
	}
	switch {
	case !given:
		return nil, nil
	case len(missing) > 0:
		return nil, fmt.Errorf("the following required arguments were not provided: %s", strings.Join(missing, " "))
	}
	for _, flag := range oidcFlags {
		if strings.TrimSpace(flags.String(flag.name)) == "" {
			return nil, fmt.Errorf("workload identity requires a nonempty --%s", flag.name)
		}
	}
	o := &githubOIDC{
		audience:       flags.String("oidc-audience"),
		provider:       flags.String("identity-provider-id"),
		serviceAccount: flags.String("service-account-id"),
		requestURL:     flags.String("github-oidc-request-url"),
	}
	if err := checkRequestURL(o.requestURL); err != nil {
		return nil, err
	}
	if upstreamURL != defaultUpstreamURL {
		return nil, errors.New("workload identity requires the default OpenAI Responses endpoint; leave --upstream-url out, or, " +
			"if the token is for another upstream, write upstream_identity in a Caddyfile")
	}
	return o, nil
}

func checkRequestURL(raw string) error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || u.Scheme == "" || u.Hostname() == "":
		return errors.New("invalid GitHub OIDC request URL (--github-oidc-request-url)")
	case u.Scheme != "https" || u.User != nil || u.Fragment != "":
		return errors.New("GitHub OIDC request URL must be HTTPS without user info or fragment (--github-oidc-request-url)")
	}
	return nil
}

// config is the gate's upstream_identity. The request token is not in it.
func (o *githubOIDC) config() object {
	literal := strings.NewReplacer("{", `\{`, "}", `\}`).Replace // no placeholders
	return object{
		"provider":        literal(o.provider),
		"service_account": literal(o.serviceAccount),
		"github_actions": object{
			"audience":      o.audience,
			"request_url":   literal(o.requestURL),
			"request_token": gate.KeyPlaceholder,
		},
	}
}
