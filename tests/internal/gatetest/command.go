//go:build unix

package gatetest

import (
	"encoding/json"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
)

// StartCommand starts "caddy responses-proxy" in front of up, with the
// operator's key on stdin, and waits until it listens. The launch's Args are
// further flags. Of the site, Dir and Info count.
func StartCommand(t testing.TB, up *Upstream, s Site, l Launch) *Gate {
	t.Helper()
	g := startCommand(t, up, s, l, "responses-proxy", "responses-proxy listening on ")
	g.ReadInfo()
	return g
}

// StartOriginal starts the program that the gate replaces, "codex
// responses-api-proxy", as StartCommand does with ours. It has no token.
func StartOriginal(t testing.TB, up *Upstream, s Site, l Launch) *Gate {
	t.Helper()
	l.Program = CodexBinary(t)
	g := startCommand(t, up, s, l, "responses-api-proxy", "responses-api-proxy listening on ")
	Must(t, json.Unmarshal([]byte(ReadFile(t, g.Site.InfoPath())), &g.Info))
	g.Addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(g.Info.Port))
	return g
}

func startCommand(t testing.TB, up *Upstream, s Site, l Launch, name, ready string) *Gate {
	t.Helper()
	s = s.With(t, up)
	if l.User != nil {
		Must(t, os.Chown(s.Dir, int(l.User.Uid), int(l.User.Gid)))
	}
	l.Dir, l.Stdin = s.Dir, strings.NewReader(OperatorKey+"\n")
	l.Args = append([]string{name, "--server-info", s.InfoPath(), "--upstream-url", up.URL + "/v1/responses"}, l.Args...)
	g := &Gate{Site: s, Up: up, Process: Start(t, l), HTTP: NewClient(t)}
	g.WaitOutput(ready, 1)
	return g
}
