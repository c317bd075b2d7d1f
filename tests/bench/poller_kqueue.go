//go:build darwin || dragonfly || freebsd || netbsd || openbsd

package main

import (
	"time"

	"golang.org/x/sys/unix"
)

// poller tells which of many sockets can be read from or written to: for as
// long as they can, not only when that begins.
type poller struct {
	fd     int
	events [128]unix.Kevent_t
	found  []ready
}

func newPoller() (*poller, error) {
	fd, err := unix.Kqueue()
	if err == nil {
		unix.CloseOnExec(fd)
	}
	return &poller{fd: fd}, err
}

// add watches a socket until it is closed: for reading, and also for writing.
func (p *poller) add(fd int, write bool) error {
	if err := p.change(fd, unix.EVFILT_READ, unix.EV_ADD); err != nil || !write {
		return err
	}
	return p.watchWriting(fd, true)
}

// watchWriting says whether a socket is also watched for writing.
func (p *poller) watchWriting(fd int, write bool) error {
	if write {
		return p.change(fd, unix.EVFILT_WRITE, unix.EV_ADD)
	}
	return p.change(fd, unix.EVFILT_WRITE, unix.EV_DELETE)
}

func (p *poller) change(fd, filter, flags int) error {
	var change [1]unix.Kevent_t
	unix.SetKevent(&change[0], fd, filter, flags)
	_, err := unix.Kevent(p.fd, change[:], nil, nil)
	return err
}

// wait waits for sockets that are ready, for so long at most, or without end
// if limit is negative. What it returns is valid until it is called again.
func (p *poller) wait(limit time.Duration) ([]ready, error) {
	var timeout *unix.Timespec
	if limit >= 0 {
		nanoseconds := unix.NsecToTimespec(limit.Nanoseconds())
		timeout = &nanoseconds
	}
	n, err := unix.Kevent(p.fd, nil, p.events[:], timeout)
	if err == unix.EINTR {
		n, err = 0, nil
	}
	p.found = p.found[:0]
	for _, event := range p.events[:max(n, 0)] {
		p.found = append(p.found, ready{
			fd: int(event.Ident), read: event.Filter == unix.EVFILT_READ, write: event.Filter == unix.EVFILT_WRITE,
		})
	}
	return p.found, err
}

func (p *poller) close() { _ = unix.Close(p.fd) }
