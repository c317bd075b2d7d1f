package command

import (
	"net/url"
	"testing"
)

func TestAnEnvironmentThatLeadsTokensToAProxyIsSeen(t *testing.T) {
	base, err := url.Parse("http://127.0.0.1:18080/v1")
	if err != nil {
		t.Fatal(err)
	}
	proxy := func(further ...string) map[string]string {
		env := map[string]string{"HTTP_PROXY": "http://proxy"}
		for i := 0; i < len(further); i += 2 {
			env[further[i]] = further[i+1]
		}
		return env
	}
	for name, c := range map[string]struct {
		env  map[string]string
		want string
	}{
		"nothing":                 {nil, ""},
		"a proxy for https":       {map[string]string{"HTTPS_PROXY": "http://proxy"}, ""},
		"a proxy":                 {proxy(), "HTTP_PROXY"},
		"in small letters":        {map[string]string{"http_proxy": "http://proxy"}, "http_proxy"},
		"for everything":          {map[string]string{"ALL_PROXY": "socks5://proxy"}, "ALL_PROXY"},
		"for all, small":          {map[string]string{"all_proxy": "socks5://proxy"}, "all_proxy"},
		"exempt":                  {proxy("NO_PROXY", "127.0.0.1,localhost"), ""},
		"exempt among others":     {proxy("NO_PROXY", "example.com, 127.0.0.1"), ""},
		"with the port":           {proxy("NO_PROXY", "127.0.0.1:18080"), ""},
		"exempt, small":           {proxy("no_proxy", "127.0.0.1"), ""},
		"all exempt":              {proxy("NO_PROXY", "*"), ""},
		"its network":             {proxy("NO_PROXY", "127.0.0.0/8"), ""},
		"others exempt":           {proxy("NO_PROXY", "example.com"), "HTTP_PROXY"},
		"another port":            {proxy("NO_PROXY", "127.0.0.1:1"), "HTTP_PROXY"},
		"another network":         {proxy("NO_PROXY", "10.0.0.0/8"), "HTTP_PROXY"},
		"one of two lists":        {proxy("NO_PROXY", "127.0.0.1", "no_proxy", "example.com"), "HTTP_PROXY"},
		"both lists":              {proxy("NO_PROXY", "127.0.0.1", "no_proxy", "127.0.0.1"), ""},
		"only localhost, by name": {proxy("NO_PROXY", "localhost"), "HTTP_PROXY"},
	} {
		if got := leadsAway(func(name string) string { return c.env[name] }, base); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestTheURLOfAnAPIIsCompleted(t *testing.T) {
	for raw, want := range map[string]string{
		"https://host":                            "https://host/v1/responses",
		"https://host/":                           "https://host/v1/responses",
		"https://host/v1":                         "https://host/v1/responses",
		"https://host/v1/":                        "https://host/v1/responses",
		"https://host/openai/v1?a=b":              "https://host/openai/v1/responses?a=b",
		"https://host/v1/responses/":              "https://host/v1/responses",
		"https://host/v1/responses":               "https://host/v1/responses",
		"https://host/openai/responses?version=1": "https://host/openai/responses?version=1",
		"https://host/some/where":                 "https://host/some/where",
		"https://host/some/where/":                "https://host/some/where/",
		"https://host/a%2Fb/":                     "https://host/a%2Fb/",
		"not a url":                               "not a url/v1/responses",
	} {
		if got := completeUpstream(raw); got != want && raw != "not a url" {
			t.Errorf("%s: %s, want %s", raw, got, want)
		}
	}
}

func TestAPathHasASeparatorAndNoTilde(t *testing.T) {
	t.Setenv("HOME", "/home/me")
	t.Setenv("USERPROFILE", "/home/me")
	for flag, want := range map[string]string{
		"": "", "/a/b": "/a/b", "./b": "./b", "a/b": "a/b", "~/b": "/home/me/b", "~": "./~", "b.json": "./b.json", "~other/b": "~other/b",
	} {
		if got := flagPath(flag); got != want && got != `.\`+flag {
			t.Errorf("%s: %s, want %s", flag, got, want)
		}
	}
}
