//go:build linux

package cotenant

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// squatterReport is what a squatter has to tell.
type squatterReport struct {
	Held  []string // the addresses that it could listen on
	Tries int
	Got   string // all that was sent to it
}

// squat takes addresses and listens on them as soon as it can: as a server
// that takes over another's port without asking would, and says "holding"
// once it has one. Whoever connects is told that all is well.
func squat(args []string) error {
	s := new(squatter)
	end := untilEnd()
	for len(s.Held) < len(args) && !ended(end) {
		for _, address := range args {
			if !slices.Contains(s.Held, address) {
				s.take(address)
			}
		}
		time.Sleep(100 * time.Microsecond)
	}
	<-end
	s.mu.Lock()
	defer s.mu.Unlock()
	return report(s.squatterReport)
}

type squatter struct {
	mu sync.Mutex
	squatterReport
}

func (s *squatter) take(address string) {
	network := "tcp"
	if strings.HasPrefix(address, "/") {
		network = "unix"
	}
	config := net.ListenConfig{Control: func(_, _ string, conn syscall.RawConn) error {
		return conn.Control(func(fd uintptr) {
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
		})
	}}
	listener, err := config.Listen(context.Background(), network, address)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Tries++
	if err != nil {
		return
	}
	s.Held = append(s.Held, address)
	fmt.Fprintln(os.Stderr, "holding", address)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.answer(conn)
		}
	}()
}

func (s *squatter) answer(conn net.Conn) {
	defer conn.Close()
	buffer := make([]byte, 16<<10)
	for {
		n, err := conn.Read(buffer)
		s.mu.Lock()
		s.Got += string(buffer[:n])
		s.mu.Unlock()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nX-Responses-Proxy-Gate: route_not_allowed\r\nContent-Length: 0\r\n\r\n")
	}
}
