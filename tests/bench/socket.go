//go:build unix

package main

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Sockets of the event loops, which net's would cost much: each is a number,
// and no call on it ever waits.

// socketAddress is where an address in the form of 127.0.0.1:80 points to.
func socketAddress(addr string) (unix.Sockaddr, error) {
	parsed, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	return &unix.SockaddrInet4{Port: int(parsed.Port()), Addr: parsed.Addr().As4()}, nil
}

// dialSocket begins to connect. The socket can be written to when that is over.
func dialSocket(to unix.Sockaddr) (int, error) {
	fd, err := newSocket(func() (int, error) { return unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0) })
	if err != nil {
		return -1, err
	}
	if err := unix.Connect(fd, to); err != nil && err != unix.EINPROGRESS && err != unix.EINTR {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// connected tells how it went when connecting is over.
func connected(fd int) error {
	code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err == nil && code != 0 {
		err = unix.Errno(code)
	}
	return err
}

// acceptSocket takes a connection that has come, or none: then err is errNotYet.
func acceptSocket(listener int) (int, error) {
	fd, err := newSocket(func() (int, error) {
		fd, _, err := unix.Accept(listener)
		return fd, err
	})
	if err == unix.EAGAIN || err == unix.EINTR || err == unix.ECONNABORTED {
		err = errNotYet
	}
	return fd, err
}

// newSocket makes a socket that no peer inherits, even one that is started at
// this moment.
func newSocket(make func() (int, error)) (int, error) {
	syscall.ForkLock.RLock()
	fd, err := make()
	if err == nil {
		unix.CloseOnExec(fd)
	}
	syscall.ForkLock.RUnlock()
	if err != nil {
		return -1, err
	}
	if err := errors.Join(unix.SetNonblock(fd, true), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// listeningSocket is a listener's own socket; the listener itself is closed.
func listeningSocket(l net.Listener) (int, error) {
	file, err := l.(*net.TCPListener).File()
	if err != nil {
		return -1, err
	}
	defer file.Close()
	defer l.Close()
	return newSocket(func() (int, error) { return unix.Dup(int(file.Fd())) })
}

// newPipe is a pipe whose reading end is ready when the writing end is closed.
func newPipe() (reading int, writing io.Closer, err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, nil, err
	}
	defer r.Close()
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	reading, err = unix.Dup(int(r.Fd()))
	if err == nil {
		unix.CloseOnExec(reading)
	}
	return reading, w, err
}

// errNotYet says that a socket is not ready for this.
var errNotYet = errors.New("not yet")

// receive reads what is there, as much as there is room for.
func receive(fd int, into []byte) (int, error) {
	for {
		n, err := unix.Read(fd, into)
		switch {
		case err == nil && n == 0:
			return 0, io.EOF
		case err == nil:
			return n, nil
		case err == unix.EAGAIN:
			return 0, errNotYet
		case err != unix.EINTR:
			return 0, err
		}
	}
}

// send writes as much as there is room for: nothing may be that, too.
func send(fd int, data []byte) (int, error) {
	for {
		n, err := unix.Write(fd, data)
		switch {
		case err == nil:
			return n, nil
		case err == unix.EAGAIN || err == unix.ENOTCONN:
			return 0, nil
		case err != unix.EINTR:
			return 0, err
		}
	}
}
