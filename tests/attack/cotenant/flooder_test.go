//go:build linux

package cotenant

import (
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// flooderReport is what a flooder has to tell.
type flooderReport struct {
	Opened int64 // connections, in all
	Failed int64 // that could not be opened
	Closed int64 // that the server closed
}

// flood takes an address, a kind of connection, their number, and "renew" if
// it shall open another for each that the server closes. It says "flooding"
// once it has as many as it wants, and "dry" once all of them are closed.
func flood(args []string) error {
	number, err := strconv.Atoi(args[2])
	if err != nil {
		return err
	}
	f := &flooder{address: args[0], kind: args[1], renew: args[3] == "renew", end: untilEnd()}
	var first, all sync.WaitGroup
	for range number {
		first.Add(1)
		all.Go(func() { f.keep(first.Done) })
		time.Sleep(100 * time.Microsecond)
	}
	first.Wait()
	fmt.Fprintln(os.Stderr, "flooding")
	all.Wait()
	fmt.Fprintln(os.Stderr, "dry")
	<-f.end
	return report(flooderReport{f.opened.Load(), f.failed.Load(), f.closed.Load()})
}

type flooder struct {
	address, kind          string
	renew                  bool
	end                    <-chan struct{}
	opened, failed, closed atomic.Int64
}

// keep keeps one connection open, or its successors.
func (f *flooder) keep(first func()) {
	done := sync.OnceFunc(first)
	defer done()
	for {
		conn, err := net.DialTimeout("tcp", f.address, time.Minute)
		if err != nil {
			f.failed.Add(1)
		} else {
			f.opened.Add(1)
			done()
			f.use(conn)
			_ = conn.Close()
		}
		if ended(f.end) || !f.renew && err == nil {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// use does what the kind of connection does, until the server closes it.
func (f *flooder) use(conn net.Conn) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, conn) // until it is closed at either end
	}()
	trickle := ""
	switch f.kind {
	case "half-open":
	case "refused":
		_, _ = io.WriteString(conn, "GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
	case "slow header":
		_, _ = io.WriteString(conn, "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
		trickle = "a"
	case "slow body":
		_, _ = io.WriteString(conn, "POST /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"+
			"X-Proxy-Token: not-the-token\r\nContent-Length: 1000000\r\n\r\n{")
		trickle = " "
	}
	for tick := time.Tick(2 * time.Second); ; {
		select {
		case <-gone:
			f.closed.Add(1)
			return
		case <-f.end:
			return
		case <-tick:
			if _, err := io.WriteString(conn, trickle); err != nil {
				f.closed.Add(1)
				return
			}
		}
	}
}
