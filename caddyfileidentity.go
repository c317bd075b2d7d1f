package responsesproxygate

import "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

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
