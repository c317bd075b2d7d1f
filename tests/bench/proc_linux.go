package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processes are those of one peer.
type processes []int

// processesOf are pid and what it started. Codex's npm package starts Codex
// from a script in Node, which then only waits: it is left out.
func processesOf(pid int) processes {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, path := range stats {
		fields, err := readStat(path)
		if err != nil {
			continue // gone meanwhile
		}
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		parent, _ := strconv.Atoi(fields[1])
		children[parent] = append(children[parent], child)
	}
	found := processes{pid}
	for i := 0; i < len(found); i++ {
		found = append(found, children[found[i]]...)
	}
	if name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); len(found) > 1 && strings.HasPrefix(string(name), "node") {
		found = found[1:]
	}
	return found
}

// readStat reads a stat file from the third field on, the process's state.
// (The second is its name, in which there may be anything.)
func readStat(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	end := bytes.LastIndexByte(text, ')')
	fields := strings.Fields(string(text[end+1:]))
	if end < 0 || len(fields) < 20 {
		return nil, fmt.Errorf("%s has an unknown format", path)
	}
	return fields, nil
}

// cpu is the CPU time that the processes have used, in user and kernel mode.
// It is the kernel's clock of each process, as stat's utime and stime tell it
// too, but those only in hundredths of a second.
func (ps processes) cpu() (time.Duration, error) {
	var sum time.Duration
	for _, pid := range ps {
		var used unix.Timespec
		if err := unix.ClockGettime(int32(^pid<<3|2), &used); err != nil {
			return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
		}
		sum += time.Duration(used.Nano())
	}
	return sum, nil
}

// memory is the processes' resident memory in bytes: now, and at most since
// they started. Pages that several of them share are counted for each.
func (ps processes) memory() (now, peak int64, err error) {
	for _, pid := range ps {
		status, err := readStatus(pid)
		if err != nil {
			return 0, 0, err
		}
		now += status["VmRSS"] << 10
		peak += status["VmHWM"] << 10
	}
	return now, peak, nil
}

// threads is how many threads the processes have now.
func (ps processes) threads() (int, error) {
	var sum int
	for _, pid := range ps {
		status, err := readStatus(pid)
		if err != nil {
			return 0, err
		}
		sum += int(status["Threads"])
	}
	return sum, nil
}

// readStatus reads the numbers in a status file. Sizes are in KiB.
func readStatus(pid int) (map[string]int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, err
	}
	numbers := map[string]int64{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		if n, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64); err == nil {
			numbers[name] = n
		}
	}
	if numbers["Threads"] == 0 {
		return nil, fmt.Errorf("process %d has ended", pid)
	}
	return numbers, nil
}
