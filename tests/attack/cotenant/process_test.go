//go:build linux

package cotenant

import (
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// public are the files in /proc/PID that every user may read, of any process.
// No secret may be in them.
var public = []string{
	"arch_status", "autogroup", "cgroup", "cmdline", "comm", "coredump_filter", "cpu_resctrl_groups", "cpuset", "exe (link)",
	"gid_map", "latency", "limits", "loginuid", "mountinfo", "mounts", "numa_maps", "oom_adj", "oom_score", "oom_score_adj",
	"patch_state", "projid_map", "sched", "schedstat", "sessionid", "setgroups", "smaps_rollup", "stat", "statm",
	"status", "timens_offsets", "timers", "timerslack_ns", "uid_map", "wchan", "children", "ksm_merging_pages", "ksm_stat",
}

func TestNothingOfTheProcessIsOpenToAnotherUser(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, start := range map[string]func(t *testing.T) *gatetest.Gate{
		"caddy run": func(t *testing.T) *gatetest.Gate {
			return gatetest.StartGate(t, up, gatetest.Site{})
		},
		"caddy run, hardened": func(t *testing.T) *gatetest.Gate {
			return gatetest.StartGate(t, up, gatetest.Site{Gate: "harden_process"})
		},
		"the command": func(t *testing.T) *gatetest.Gate {
			return gatetest.StartCommand(t, up, gatetest.Site{}, gatetest.Launch{})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := start(t)
			g.Works(t)
			got := lookedAt(t, g)
			if len(got.Could) > 0 {
				t.Errorf("another user could %q", got.Could)
			}
			for place, secrets := range got.Read {
				if len(secrets) > 0 {
					t.Errorf("another user could read %q in %s", secrets, place)
				}
				if !slices.Contains(public, filepath.Base(place)) {
					t.Errorf("another user could read %s", place)
				}
			}
			if _, ok := got.Read[procPath(g, "cmdline")]; !ok {
				t.Errorf("another user could not even read its arguments: this attack shows nothing; it read %v", got.Read)
			}
			g.Works(t)
		})
	}
}

// The control: a gate that is not hardened, and the same looker as its user.
// harden_process is what keeps that user's programs out.
func TestTheSameUserFindsTheKeyUnlessTheProcessIsHardened(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	for name, hardened := range map[string]bool{"not hardened": false, "hardened": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := gatetest.Site{Dir: gatetest.NobodysDir(t)}.With(t, up)
			if hardened {
				s.Gate = "harden_process"
			}
			l := s.Launch(t)
			l.User = gatetest.AsNobody(t)
			gatetest.Must(t, chownAll(s.Dir, l.User))
			g := &gatetest.Gate{Site: s, Up: up, Process: gatetest.Start(t, l), HTTP: gatetest.NewClient(t)}
			g.WaitOutput(gatetest.ReadyLog, 1)
			g.ReadInfo()
			g.Works(t)
			got := lookedAt(t, g)
			inMemory := false
			for place, secrets := range got.Read {
				if !strings.HasPrefix(place, "memory") {
					continue
				}
				inMemory = inMemory || slices.Contains(secrets, g.Token)
			}
			inEnvironment := slices.Contains(got.Read[procPath(g, "environ")], gatetest.OperatorKey)
			if inMemory == hardened || inEnvironment == hardened {
				t.Errorf("the token was found in memory: %t, and the key in the environment: %t", inMemory, inEnvironment)
			}
		})
	}
}

func lookedAt(t *testing.T, g *gatetest.Gate) lookerReport {
	t.Helper()
	return reported[lookerReport](t, attacker(t, "looker", pidText(g), gatetest.OperatorKey, g.Token))
}

// A crash writes memory to disk, where it stays, is copied, and is sent to
// whoever looks into crashes.
func TestACrashLeavesNoCoreWithSecrets(t *testing.T) {
	t.Parallel()
	up := gatetest.NewUpstream(t, nil)
	const limits = "-c unlimited"
	crash := []string{"GOTRACEBACK=crash"} // or else Go programs exit where others dump core
	for name, start := range map[string]func(t *testing.T) *gatetest.Gate{
		"the command": func(t *testing.T) *gatetest.Gate {
			return gatetest.StartCommand(t, up, gatetest.Site{}, gatetest.Launch{Limits: limits, Env: crash})
		},
		"caddy run, hardened": func(t *testing.T) *gatetest.Gate {
			return gatetest.StartGate(t, up, gatetest.Site{Gate: "harden_process", Limits: limits, Env: crash})
		},
	} {
		for _, signal := range []syscall.Signal{syscall.SIGSEGV, syscall.SIGABRT} {
			t.Run(name+", "+signal.String(), func(t *testing.T) {
				t.Parallel() // Go takes its time to write the traces of a crash
				g := start(t)
				g.Works(t)
				g.Signal(signal)
				g.Wait()
				status := g.Cmd.ProcessState.Sys().(syscall.WaitStatus)
				if !status.Signaled() || status.CoreDump() {
					t.Errorf("it ended with %v, want a signal and no core", g.Cmd.ProcessState)
				}
				if cores, _ := filepath.Glob(filepath.Join(g.Site.Dir, "*core*")); len(cores) > 0 {
					t.Errorf("it left %v", cores)
				}
				if out := g.Output.String(); strings.Contains(out, g.Token) || strings.Contains(out, gatetest.OperatorKey) {
					t.Error("it printed a secret as it crashed")
				}
			})
		}
	}
	t.Run("control: a program that is not hardened leaves a core", func(t *testing.T) {
		p := gatetest.Start(t, gatetest.Launch{
			Program: "/bin/sh", Dir: gatetest.TempDir(t), Limits: limits, Args: []string{"-c", "kill -SEGV $$"},
		})
		p.Wait()
		if !p.Cmd.ProcessState.Sys().(syscall.WaitStatus).CoreDump() {
			t.Skip("no program leaves a core here (see kernel.core_pattern)")
		}
	})
}
