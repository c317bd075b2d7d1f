//go:build !windows

package command

import (
	"os/user"
	"slices"
	"testing"
)

func TestAnotherUserIsNotHandedAProxysPassword(t *testing.T) {
	secrets := []string{
		"HTTP_PROXY=http://me:pass@proxy:3128", "https_proxy=http://me:pass@proxy:3128", "ALL_PROXY=socks5://token@proxy", "http_proxy=me:pass@proxy",
	}
	rest := []string{"PATH=/opt/a@1/bin", "LC_TIME=ca_ES@valencia", "HTTPS_PROXY=http://proxy:3128", "no_proxy=localhost"}
	ours := slices.Concat(secrets, rest)
	as := &child{user: &childUser{account: &user.User{HomeDir: "/home/other", Username: "other"}}}
	if got, want := as.environment(ours), append([]string{"HOME=/home/other", "USER=other", "LOGNAME=other"}, rest...); !slices.Equal(got, want) {
		t.Errorf("another user: %q, want %q", got, want)
	}
	if got := new(child).environment(ours); !slices.Equal(got, ours) {
		t.Errorf("the same user: %q, want all", got)
	}
}
