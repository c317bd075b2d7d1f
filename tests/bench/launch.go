//go:build unix

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	startPatience = 30 * time.Second
	stopPatience  = 5 * time.Second
)

// target is a peer that runs, or the upstream itself.
type target struct {
	addr    string
	token   string
	injects bool
	pid     int // 0 for direct

	cmd    *exec.Cmd
	exited chan struct{}
	output string // file with what the peer printed
}

// launch starts a peer, with a directory of its own, and waits until it is ready.
func launch(ctx context.Context, p *peer, s setting) (*target, error) {
	if p.program == "" {
		return &target{addr: s.Upstream.Addr, token: fixedToken}, nil
	}
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	s.Port, s.Token, s.Key = port, fixedToken, operatorKey
	how, err := p.start(p, s)
	if err != nil {
		return nil, err
	}
	t := &target{
		addr: fmt.Sprintf("127.0.0.1:%d", port), token: fixedToken, injects: p.injects,
		exited: make(chan struct{}), output: filepath.Join(s.Dir, "output"),
	}
	output, err := os.Create(t.output)
	if err != nil {
		return nil, err
	}
	defer output.Close()
	t.cmd = exec.Command(p.program, how.args...)
	t.cmd.Dir, t.cmd.Stdout, t.cmd.Stderr = s.Dir, output, output
	t.cmd.Stdin = strings.NewReader(how.stdin)
	t.cmd.Env = append([]string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.Dir, "XDG_CONFIG_HOME=" + s.Dir, "XDG_DATA_HOME=" + s.Dir,
	}, how.env...)
	t.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := t.cmd.Start(); err != nil {
		return nil, err
	}
	t.pid = t.cmd.Process.Pid
	go func() {
		_ = t.cmd.Wait()
		close(t.exited)
	}()
	if err := t.awaitReady(ctx, how.serverInfo); err != nil {
		t.stop()
		return nil, fmt.Errorf("%s: %w\n%s", p.name, err, t.printed())
	}
	return t, nil
}

// awaitReady waits for the server-info file of those who write one: it leaves
// a fresh process untouched. The others are asked for a connection.
func (t *target) awaitReady(ctx context.Context, serverInfo string) error {
	for deadline := time.Now().Add(startPatience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		select {
		case <-t.exited:
			return errors.New("ended at once")
		case <-ctx.Done():
			return ctx.Err()
		default:
		}
		if serverInfo == "" {
			if conn, err := net.DialTimeout("tcp", t.addr, time.Second); err == nil {
				return conn.Close()
			}
			continue
		}
		if found, err := readInfo(serverInfo); err == nil {
			t.addr, t.token = fmt.Sprintf("127.0.0.1:%d", found.Port), found.Token
			return nil
		}
	}
	return errors.New("is not ready in time")
}

// ended reports whether the peer is gone already.
func (t *target) ended() bool {
	select {
	case <-t.exited: // nil, and so never, for direct
		return true
	default:
		return false
	}
}

func (t *target) printed() string {
	text, _ := os.ReadFile(t.output)
	return string(text[max(0, len(text)-2000):])
}

// stop ends the peer and all that it started.
func (t *target) stop() {
	if t.cmd == nil {
		return
	}
	_ = syscall.Kill(t.pid, syscall.SIGTERM)
	select {
	case <-t.exited:
	case <-time.After(stopPatience):
	}
	_ = syscall.Kill(-t.pid, syscall.SIGKILL) // what is left of its process group
	<-t.exited
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}
