package responsesproxygate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/adminapi"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/identity"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
)

// UpstreamIdentity is an identity that the gate's own workload has, in place of
// a key: it is exchanged at OpenAI for a token that lives for an hour or so,
// and again before that ends. Nothing long-lived is stored anywhere. Exactly
// one of `token_file` and `github_actions` says where the workload's own token
// comes from.
type UpstreamIdentity struct {
	// The id of the workload identity provider at OpenAI. Required.
	Provider string `json:"provider"`

	// The id of the service account at OpenAI that the provider's mapping
	// gives to the workload. Required.
	ServiceAccount string `json:"service_account"`

	// The path of a file in which something else keeps the workload's token
	// fresh, such as Kubernetes or a SPIFFE helper. It is read for each
	// exchange, and must be a secret's file, as `upstream_bearer_file`.
	TokenFile string `json:"token_file,omitempty"`

	// Asks GitHub for the identity of the job of GitHub Actions that the gate
	// runs in. The job needs the permission `id-token: write`.
	GitHubActions *GitHubActions `json:"github_actions,omitempty"`

	// The type of the workload's token: `jwt` or `id_token`. Default: `jwt`.
	TokenType string `json:"token_type,omitempty"`

	// The token endpoint (RFC 8693): https, or http on a loopback address.
	// Default: `https://auth.openai.com/oauth/token`.
	Endpoint string `json:"endpoint,omitempty"`
}

// GitHubActions says how GitHub is asked for a job's identity.
type GitHubActions struct {
	// Whom the token is for, as the provider at OpenAI has it. Default:
	// `https://api.openai.com/v1`.
	Audience string `json:"audience,omitempty"`

	// Where GitHub is asked, as the runner says it: https, or http on a
	// loopback address. Default: `{env.ACTIONS_ID_TOKEN_REQUEST_URL}`.
	RequestURL string `json:"request_url,omitempty"`

	// The credential for that, as one placeholder. A literal one is refused.
	// Default: `{env.ACTIONS_ID_TOKEN_REQUEST_TOKEN}`.
	RequestToken string `json:"request_token,omitempty"`
}

const (
	defaultRequestURL   = "{env.ACTIONS_ID_TOKEN_REQUEST_URL}"
	defaultRequestToken = "{env.ACTIONS_ID_TOKEN_REQUEST_TOKEN}"

	// firstTokenTimeout is how long a start waits for the first token.
	firstTokenTimeout = 20 * time.Second
)

var (
	errOneSubject = errors.New("upstream_identity: write one of token_file and github_actions, and not both")
	errNoRunner   = errors.New("upstream_identity github_actions: nothing says where to ask GitHub; the job needs the permission id-token: write, " +
		"and Caddy the job's ACTIONS_ID_TOKEN_REQUEST_URL and ACTIONS_ID_TOKEN_REQUEST_TOKEN in its environment")
)

// requestToken is the placeholder of the credential for GitHub; empty without one.
func (u *UpstreamIdentity) requestToken() string {
	if u == nil || u.GitHubActions == nil {
		return ""
	}
	return cmp.Or(u.GitHubActions.RequestToken, defaultRequestToken)
}

// exchangerKey is what makes two identities the same, so that gates of one
// process, and a gate before and after a reload, share its exchanges.
type exchangerKey struct {
	endpoint, provider, serviceAccount, tokenType, source string
}

// resolve reads what the options name.
func (u *UpstreamIdentity) resolve(literalAllowed bool) (identity.Config, exchangerKey, error) {
	if (u.TokenFile == "") == (u.GitHubActions == nil) {
		return identity.Config{}, exchangerKey{}, errOneSubject
	}
	provider, providerErr := resolveText("provider", u.Provider)
	account, accountErr := resolveText("service_account", u.ServiceAccount)
	config := identity.Config{
		Endpoint:       cmp.Or(u.Endpoint, identity.DefaultEndpoint),
		Provider:       provider,
		ServiceAccount: account,
		SubjectType:    u.TokenType,
	}
	key := exchangerKey{endpoint: config.Endpoint, provider: provider, serviceAccount: account, tokenType: u.TokenType}
	var sourceErr error
	if u.TokenFile != "" {
		key.source, sourceErr = resolvePath("upstream_identity token_file", u.TokenFile)
		config.Source = identity.TokenFile{Path: key.source}
	} else {
		var github identity.GitHubActions
		github, sourceErr = u.GitHubActions.resolve(literalAllowed)
		digest := secret.DigestOf(github.RequestToken.Reveal()) // another token is another source
		config.Source, key.source = github, fmt.Sprintf("%s %s %x", github.RequestURL, github.Audience, digest)
	}
	if err := errors.Join(providerErr, accountErr, sourceErr); err != nil {
		return config, key, err
	}
	if err := config.Check(); err != nil {
		return config, key, fmt.Errorf("upstream_identity: %w", err)
	}
	return config, key, nil
}

// resolve reads where GitHub is asked, and with what.
func (g *GitHubActions) resolve(literalAllowed bool) (identity.GitHubActions, error) {
	url, urlErr := resolveText("github_actions request_url", cmp.Or(g.RequestURL, defaultRequestURL))
	token, tokenErr := resolveSecret("upstream_identity github_actions request_token", cmp.Or(g.RequestToken, defaultRequestToken), literalAllowed)
	err := errors.Join(urlErr, tokenErr)
	if err != nil && g.RequestURL == "" && g.RequestToken == "" {
		err = errNoRunner
	}
	return identity.GitHubActions{RequestURL: url, RequestToken: token, Audience: cmp.Or(g.Audience, identity.DefaultAudience)}, err
}

// resolveText replaces placeholders in what is no secret.
func resolveText(option, value string) (string, error) {
	resolved, err := caddy.NewReplacer().ReplaceOrErr(value, true, true)
	if err != nil {
		return "", fmt.Errorf("upstream_identity %s: %w", option, err)
	}
	return resolved, nil
}

// exchangers holds what keeps the tokens of identities fresh, for as long as a
// config has them: runningExchanger, by exchangerKey.
var exchangers = caddy.NewUsagePool()

type runningExchanger struct{ *identity.Exchanger }

// Destruct implements caddy.Destructor: no config has the identity any more.
func (e runningExchanger) Destruct() error {
	e.Stop()
	return nil
}

// followedIdentity is what one instance of a gate has of an exchanger.
type followedIdentity struct {
	*identity.Exchanger
	key      exchangerKey
	unfollow func()
}

// openIdentity begins the exchanges, or follows those of a gate that has the
// same identity. A config that is only validated begins none.
func (h *Handler) openIdentity() error {
	config, key, err := h.UpstreamIdentity.resolve(h.allows(riskLiteralSecret))
	if err != nil || process.IsValidating() {
		return err
	}
	value, _, err := exchangers.LoadOrNew(key, func() (caddy.Destructor, error) {
		return runningExchanger{identity.Start(config)}, nil
	})
	if err != nil {
		return err
	}
	for _, outcome := range identity.Outcomes {
		metrics.identityExchanges.WithLabelValues(h.Name, string(outcome))
	}
	followed := &followedIdentity{Exchanger: value.(runningExchanger).Exchanger, key: key}
	followed.unfollow = followed.Follow(&identity.Follower{
		Token: func(token secret.Secret, end time.Time) {
			h.credential.use(token)
			metrics.identityEnd.WithLabelValues(h.Name).Set(float64(end.Unix()))
		},
		Exchanged: h.exchanged,
	})
	h.credential.identity = followed
	return nil
}

// exchanged counts an exchange. One gate of those that share it logs what is new.
func (h *Handler) exchanged(failure *identity.Failure, news, speaker bool) {
	outcome := identity.OK
	if failure != nil {
		outcome = failure.Outcome
	}
	metrics.identityExchanges.WithLabelValues(h.Name, string(outcome)).Inc()
	switch {
	case !news || !speaker:
	case failure == nil:
		h.logger.Warn("the workload's identity is exchanged for a token again", zap.String("gate", h.Name))
	default:
		h.logger.Error("the workload's identity cannot be exchanged for a token; the present one is used until it ends, and the exchange is tried again",
			zap.String("gate", h.Name), zap.String("outcome", string(outcome)), zap.Error(failure))
	}
}

// awaitIdentity waits for the first token: without one, the gate serves nobody.
func (h *Handler) awaitIdentity(ctx context.Context) error {
	if h.credential.identity == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, firstTokenTimeout)
	defer cancel()
	if err := h.credential.identity.First(ctx); err != nil {
		return fmt.Errorf("upstream_identity: there is no token to serve with: %w", err)
	}
	return nil
}

// closeIdentity gives back what openIdentity took.
func (h *Handler) closeIdentity() error {
	exchanger := h.credential.exchanger()
	if exchanger == nil {
		return nil
	}
	h.credential.identity.unfollow()
	if h.metrics != nil && h.metrics.identity.Load() == nil {
		// The gate that runs has a key: nothing renews the end of a token.
		metrics.identityEnd.DeletePartialMatch(prometheus.Labels{"gate": h.Name})
	}
	_, err := exchangers.Delete(h.credential.identity.key)
	return err
}

// exchanger is what keeps the credential fresh; nil if it is a key.
func (c *credential) exchanger() *identity.Exchanger {
	if c == nil || c.identity == nil {
		return nil
	}
	return c.identity.Exchanger
}

// remedy says what helps once the upstream has refused the credential.
func (c *credential) remedy() string {
	if c.identity == nil {
		return "renew the key that upstream_bearer or upstream_bearer_file names"
	}
	return "the workload's identity is exchanged for another token; if that is refused, too, look at the service account that upstream_identity names"
}

// await reports why there is no credential to present. It waits only where
// there is none, or one that is in doubt, for the exchange of another.
func (c *credential) await(ctx context.Context) *refusal {
	if c.identity == nil {
		return nil
	}
	err := c.identity.Ready(ctx)
	failure := (*identity.Failure)(nil)
	switch {
	case err == nil:
		return nil
	case errors.As(err, &failure) && failure.Outcome == identity.Refused:
		return errUpstreamUnauthorized
	}
	return errIdentityUnavailable
}

// identityStatus is what the admin endpoint tells of a gate's identity.
func identityStatus(gate string) (status *adminapi.Identity) {
	gates.Range(func(name, value any) bool {
		if name != gate {
			return true
		}
		if exchanger := value.(*gateMetrics).identity.Load(); exchanger != nil {
			now := exchanger.Status()
			status = &adminapi.Identity{SecondsLeft: int64(now.Left.Seconds())}
			if now.Failure != nil {
				status.Error = now.Failure.Error()
			}
		}
		return false
	})
	return status
}

// Interface guard
var _ caddy.Destructor = runningExchanger{}

func (h *Handler) unmarshalIdentity(d *caddyfile.Dispenser) error {
	if d.CountRemainingArgs() != 0 {
		return d.Err("upstream_identity takes no value; its options belong in its block")
	}
	u := new(UpstreamIdentity)
	h.UpstreamIdentity = u
	err := unmarshalBlock(d, "upstream_identity", map[string]func() error{
		"provider":        func() error { return oneArgument(d, &u.Provider) },
		"service_account": func() error { return oneArgument(d, &u.ServiceAccount) },
		"token_file":      func() error { return oneArgument(d, &u.TokenFile) },
		"token_type":      func() error { return oneArgument(d, &u.TokenType) },
		"endpoint":        func() error { return oneArgument(d, &u.Endpoint) },
		"github_actions":  func() error { return u.unmarshalGitHubActions(d) },
	})
	switch {
	case err != nil:
		return err
	case u.Provider == "" || u.ServiceAccount == "":
		return d.Err("upstream_identity wants provider and service_account: their ids at OpenAI")
	case (u.TokenFile == "") == (u.GitHubActions == nil):
		return d.WrapErr(errOneSubject)
	}
	return nil
}

func (u *UpstreamIdentity) unmarshalGitHubActions(d *caddyfile.Dispenser) error {
	u.GitHubActions = new(GitHubActions)
	if d.CountRemainingArgs() != 0 {
		if err := oneArgument(d, &u.GitHubActions.Audience); err != nil {
			return err
		}
	}
	return unmarshalBlock(d, "github_actions", map[string]func() error{
		"request_url":   func() error { return oneArgument(d, &u.GitHubActions.RequestURL) },
		"request_token": func() error { return oneArgument(d, &u.GitHubActions.RequestToken) },
	})
}

// unmarshalBlock reads the block of an option, if there is one, in which each
// option stands once at most.
func unmarshalBlock(d *caddyfile.Dispenser, of string, options map[string]func() error) error {
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		option := d.Val()
		if options[option] == nil {
			return unknownOption(d, of)
		}
		if seen[option] {
			return d.Errf("%s is set twice; keep one", option)
		}
		seen[option] = true
		if err := options[option](); err != nil {
			return err
		}
	}
	return nil
}
