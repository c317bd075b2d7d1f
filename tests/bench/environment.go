//go:build unix

package main

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"time"
)

// environment is where and with what a run was made: the first line of the
// JSON output.
type environment struct {
	Date     string            `json:"date"`
	Machine  string            `json:"machine"`
	CPUs     int               `json:"cpus"`
	Kernel   string            `json:"kernel"`
	Go       string            `json:"go"`
	Commit   string            `json:"commit"`
	Rounds   int               `json:"rounds"`
	Duration string            `json:"duration"`
	Versions map[string]string `json:"versions"`
}

func describe(ctx context.Context, o options, peers []*peer) environment {
	e := environment{
		Date: time.Now().UTC().Format(time.DateOnly), Machine: runtime.GOARCH, CPUs: runtime.NumCPU(), Go: runtime.Version(),
		Kernel: firstLine(ctx, "uname", "-sr"), Commit: firstLine(ctx, "git", "describe", "--always", "--dirty", "--abbrev=12"),
		Rounds: o.rounds, Duration: o.duration.String(), Versions: map[string]string{},
	}
	cpuinfo, _ := os.ReadFile("/proc/cpuinfo")
	if model := regexp.MustCompile(`(?m)^model name\s*: (.*)$`).FindSubmatch(cpuinfo); model != nil {
		e.Machine = string(model[1])
	}
	for _, p := range peers {
		name, _, _ := strings.Cut(p.name, "=")
		switch name {
		case "nginx", "haproxy":
			e.Versions[name] = firstLine(ctx, p.program, "-v")
		case "original":
			e.Versions[name] = firstLine(ctx, p.program, "--version")
		case "stock", "bare", "command":
			version, _, _ := strings.Cut(firstLine(ctx, p.program, "version"), " h1:")
			e.Versions["caddy"] = version
		}
	}
	return e
}

// firstLine is what a program prints first.
func firstLine(ctx context.Context, program string, args ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	out, _ := exec.CommandContext(ctx, program, args...).CombinedOutput()
	line, _, _ := bytes.Cut(out, []byte("\n"))
	return strings.TrimSpace(string(line))
}
