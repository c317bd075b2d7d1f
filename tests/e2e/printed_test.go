//go:build unix

package e2e

import (
	"strings"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

func TestAKeyThatCaddyHasPrintedIsRefused(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, s := range map[string]gatetest.Site{
		"the key":          {},
		"a token":          {Gate: "token {env.GATE_TOKEN}", Env: []string{"GATE_TOKEN=" + strings.Repeat("t", 43)}},
		"a client's token": {Gate: "client ci {\ntoken {env.GATE_TOKEN}\n}", Env: []string{"GATE_TOKEN=" + strings.Repeat("t", 43)}},
	} {
		for _, flag := range []string{"--environ", "-e"} {
			t.Run(name+" "+flag, func(t *testing.T) {
				launch := s.With(t, up).Launch(t)
				launch.Args = append(launch.Args, flag)
				out := gatetest.StartRefused(t, launch)
				// What the test is about: Caddy has done so already.
				if !strings.Contains(out, gatetest.OperatorKey) {
					t.Error("Caddy has not printed the key; does the flag still do that?")
				}
				said := gatetest.LastError(out)
				for _, want := range []string{"replace that key or token", "LoadCredential", "{env."} {
					if !strings.Contains(said, want) {
						t.Errorf("the message does not say %q: %s", want, said)
					}
				}
			})
		}
	}
	t.Run("a key in a file is not in the environment", func(t *testing.T) {
		dir := gatetest.TempDir(t)
		gatetest.WriteFile(t, dir+"/key", "sk-in-a-file\n")
		launch := gatetest.Site{Dir: dir, Key: "upstream_bearer_file " + dir + "/key"}.With(t, up).Launch(t)
		launch.Args = append(launch.Args, "--environ")
		p := gatetest.Start(t, launch)
		if !p.Started(gatetest.ReadyLog) {
			t.Fatalf("refused: %s", p.Output)
		}
	})
}

func TestDebugOutputThatPrintsTheKeyIsRefused(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for _, value := range []string{"http2debug=1", "http2debug=2", "netdns=go,http2debug=2"} {
		t.Run(value, func(t *testing.T) {
			s := gatetest.Site{Env: []string{"GODEBUG=" + value}}.With(t, up)
			if out := gatetest.StartRefused(t, s.Launch(t)); !strings.Contains(gatetest.LastError(out), "take it out of the environment") {
				t.Errorf("the message is %s", gatetest.LastError(out))
			}
		})
	}
}
