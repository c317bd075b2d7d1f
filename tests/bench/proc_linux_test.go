package main

import (
	"os"
	"os/exec"
	"slices"
	"strconv"
	"testing"
	"time"
)

func TestTheClockOfAProcessAgreesWithItsStatFile(t *testing.T) {
	self := processes{os.Getpid()}
	before, err := self.cpu()
	if err != nil {
		t.Fatal(err)
	}
	for begin := before; begin-before < 100*time.Millisecond; {
		if begin, err = self.cpu(); err != nil {
			t.Fatal(err)
		}
	}
	stat := func() time.Duration {
		fields, err := readStat("/proc/self/stat")
		if err != nil {
			t.Fatal(err)
		}
		user, _ := strconv.Atoi(fields[11])
		system, _ := strconv.Atoi(fields[12])
		return time.Duration(user+system) * 10 * time.Millisecond // USER_HZ is 100 on all that Go runs on
	}
	// Each is read before the other once: the clock only goes on.
	low := stat()
	clock, err := self.cpu()
	if err != nil {
		t.Fatal(err)
	}
	high := stat()
	const tick = 20 * time.Millisecond // both of stat's numbers are cut off
	if clock < low-tick || clock > high+tick {
		t.Errorf("the clock says %s, stat %s before and %s after", clock, low, high)
	}
}

func TestMemoryAndThreadsAreThoseOfTheProcess(t *testing.T) {
	self := processes{os.Getpid()}
	now, peak, err := self.memory()
	if err != nil || now < 1<<20 || peak < now {
		t.Errorf("%d bytes now, %d at most (%v)", now, peak, err)
	}
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		t.Fatal(err)
	}
	if threads, err := self.threads(); err != nil || threads < len(tasks)-5 || threads > len(tasks)+5 {
		t.Errorf("%d threads (%v), but %d tasks", threads, err, len(tasks))
	}
	if _, _, err := (processes{1 << 22}).memory(); err == nil {
		t.Error("memory of a process that cannot be")
	}
}

func TestAProcessIsMeasuredWithItsChildren(t *testing.T) {
	shell := exec.Command("sh", "-c", "sleep 60 & echo $!; wait")
	out, err := shell.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := shell.Start(); err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 20)
	n, err := out.Read(line)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(string(line[:n-1]))
	if err != nil {
		t.Fatal(err)
	}
	found := processesOf(shell.Process.Pid)
	if p, err := os.FindProcess(child); err == nil {
		_ = p.Kill()
	}
	_ = shell.Wait()
	slices.Sort(found)
	if want := []int{shell.Process.Pid, child}; !slices.Equal(found, want) {
		t.Errorf("processes %v, want %v", found, want)
	}
}
