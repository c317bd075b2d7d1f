package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// poller tells which of many sockets can be read from or written to: for as
// long as they can, not only when that begins.
type poller struct {
	fd     int
	events [128]unix.EpollEvent
	found  []ready
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return &poller{fd: fd}, err
}

// add watches a socket until it is closed: for reading, and also for writing.
func (p *poller) add(fd int, write bool) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_ADD, fd, interest(fd, write))
}

// watchWriting says whether a socket is also watched for writing.
func (p *poller) watchWriting(fd int, write bool) error {
	return unix.EpollCtl(p.fd, unix.EPOLL_CTL_MOD, fd, interest(fd, write))
}

func interest(fd int, write bool) *unix.EpollEvent {
	event := &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}
	if write {
		event.Events |= unix.EPOLLOUT
	}
	return event
}

// wait waits for sockets that are ready, for so long at most, or without end
// if limit is negative. What it returns is valid until it is called again.
func (p *poller) wait(limit time.Duration) ([]ready, error) {
	milliseconds := -1
	if limit >= 0 {
		milliseconds = int((limit + time.Millisecond - 1) / time.Millisecond)
	}
	n, err := unix.EpollWait(p.fd, p.events[:], milliseconds)
	if err == unix.EINTR {
		n, err = 0, nil
	}
	p.found = p.found[:0]
	for _, event := range p.events[:max(n, 0)] {
		p.found = append(p.found, ready{
			fd: int(event.Fd), read: event.Events&^unix.EPOLLOUT != 0, write: event.Events&unix.EPOLLOUT != 0,
		})
	}
	return p.found, err
}

func (p *poller) close() { _ = unix.Close(p.fd) }
