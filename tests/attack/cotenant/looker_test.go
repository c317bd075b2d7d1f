//go:build linux

package cotenant

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// lookerReport is what a looker has to tell about a process.
type lookerReport struct {
	Read  map[string][]string // what it could read, and which of the texts it looks for is there
	Could []string            // what it could do to the process beside that
}

// look takes a process id and the texts to look for. It tries everything by
// which one process gets at another.
func look(args []string) error {
	pid, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	l := &looker{pid: pid, texts: args[1:], lookerReport: lookerReport{Read: make(map[string][]string)}}
	for _, dir := range []string{fmt.Sprintf("/proc/%d", pid), fmt.Sprintf("/proc/%d/task/%d", pid, pid)} {
		l.readAll(dir)
	}
	l.scanMemory()
	l.calls()
	<-untilEnd()
	return report(l.lookerReport)
}

type looker struct {
	pid   int
	texts []string
	lookerReport
}

// readAll reads the files of a directory in /proc, also those behind its links.
func (l *looker) readAll(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		switch {
		case entry.Name() == "task" || entry.Name() == "net" || entry.Name() == "attr":
		case entry.IsDir():
			if _, err := os.ReadDir(path); err == nil {
				l.Read[path+"/"] = []string{}
				l.readAll(path)
			}
		default:
			l.readFile(path)
		}
		if file, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			// (Some can be opened, and then nothing written to them.)
			if _, err := file.WriteString("0\n"); err == nil {
				l.Could = append(l.Could, "write to "+path)
			}
			_ = file.Close()
		}
	}
}

func (l *looker) readFile(path string) {
	if target, err := os.Readlink(path); err == nil {
		l.found(path+" (link)", []byte(target))
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return
	}
	defer file.Close()
	// (mem is looked at where it is mapped; a pipe or a socket may never end.)
	content, err := io.ReadAll(io.LimitReader(file, 1<<20))
	if err == nil || len(content) > 0 {
		l.found(path, content)
	}
}

func (l *looker) found(where string, content []byte) {
	hits := []string{}
	for _, text := range l.texts {
		if bytes.Contains(content, []byte(text)) {
			hits = append(hits, text)
		}
	}
	l.Read[where] = hits
}

// scanMemory looks through the memory that the process can write to, but for
// the vast areas that the race detector keeps, and no more than 1 GiB of it.
func (l *looker) scanMemory() {
	maps, err := os.Open(fmt.Sprintf("/proc/%d/maps", l.pid))
	if err != nil {
		return
	}
	defer maps.Close()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", l.pid))
	if err != nil {
		return
	}
	defer memory.Close()
	const vast = 1 << 30
	left := int64(1 << 30)
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		var begin, end int64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &begin, &end, &rights); err != nil || !strings.HasPrefix(rights, "rw") || end-begin >= vast {
			continue
		}
		content, _ := io.ReadAll(io.NewSectionReader(memory, begin, min(end-begin, 64<<20, left)))
		left -= int64(len(content))
		if len(content) > 0 {
			where := fmt.Sprintf("memory at %x", begin)
			if l.found(where, content); len(l.Read[where]) == len(l.texts) {
				return
			}
		}
	}
}

// calls tries the system calls that reach into another process.
func (l *looker) calls() {
	try := func(what string, err error) {
		if err == nil {
			l.Could = append(l.Could, what)
		}
	}
	try("ptrace it", unix.PtraceSeize(l.pid))
	var buffer [8]byte
	local := unix.Iovec{Base: &buffer[0]}
	local.SetLen(len(buffer))
	_, err := unix.ProcessVMReadv(l.pid, []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&buffer[0])), Len: 8}}, 0)
	try("process_vm_readv", err)
	if pidfd, err := unix.PidfdOpen(l.pid, 0); err == nil {
		for fd := range 32 {
			got, err := unix.PidfdGetfd(pidfd, fd, 0)
			if err == nil {
				_ = unix.Close(got)
			}
			try(fmt.Sprintf("take its file descriptor %d", fd), err)
		}
		try("send it a signal through a pidfd", unix.PidfdSendSignal(pidfd, 0, nil, 0))
	}
	try("send it a signal", unix.Kill(l.pid, 0))
	limit := unix.Rlimit{Cur: 3, Max: 3}
	try("take its file descriptors away by prlimit", unix.Prlimit(l.pid, unix.RLIMIT_NOFILE, &limit, nil))
	try("change its priority", unix.Setpriority(unix.PRIO_PROCESS, l.pid, 19))
	var cpus unix.CPUSet
	cpus.Set(0)
	try("change its processors", unix.SchedSetaffinity(l.pid, &cpus))
}
