package responsesproxygate

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"

	"golang.org/x/sys/unix"
)

// segmentsUpstream is an upstream that says of its first request what the body was,
// and in how many TCP segments the request came.
func segmentsUpstream(t *testing.T) (address string, first <-chan string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	said := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			said <- err.Error()
			return
		}
		body, _ := io.ReadAll(r.Body)
		raw, _ := conn.(*net.TCPConn).SyscallConn()
		_ = raw.Control(func(fd uintptr) {
			info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
			if err != nil {
				said <- err.Error()
				return
			}
			said <- fmt.Sprintf("%s in %d", body, info.Data_segs_in)
		})
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
	}()
	return listener.Addr().String(), said
}

func TestASmallBodyThatABudgetHoldsGoesWithItsHeader(t *testing.T) {
	const budget = "responses_budget {\nper 1d {\ntokens 1000000\n}\n%s\n}\n"
	for name, c := range map[string]struct{ budget, want string }{
		"without a budget, it is passed on as it comes": {"", "{} in 2"},
		"with a budget":        {fmt.Sprintf(budget, ""), "{} in 1"},
		"with a ceiling in it": {fmt.Sprintf(budget, "max_output_tokens 7"), `{"max_output_tokens":7} in 1`},
	} {
		t.Run(name, func(t *testing.T) {
			address, first := segmentsUpstream(t)
			ask := loaded(t, "storage file_system "+t.TempDir(), "GATE\n"+c.budget+"reverse_proxy "+address)
			if status, code, _ := ask(); status != http.StatusOK {
				t.Fatalf("status %d %s", status, code)
			}
			if got := <-first; got != c.want {
				t.Errorf("the upstream got %s segments, want %s", got, c.want)
			}
		})
	}
}

// The first upstream takes no connections; what it would have been sent must
// go to the second one whole.
func TestASmallBodyIsSentWholeToTheUpstreamThatIsTriedNext(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := listener.Addr().String()
	_ = listener.Close()
	address, first := segmentsUpstream(t)
	ask := loaded(t, "storage file_system "+t.TempDir(),
		"GATE\nresponses_budget {\nper 1d {\ntokens 1000000\n}\n}\nreverse_proxy "+dead+" "+address+" {\nlb_policy first\nlb_try_duration 5s\nfail_duration 5s\n}")
	if status, code, _ := ask(); status != http.StatusOK {
		t.Fatalf("status %d %s", status, code)
	}
	if got := <-first; got != "{} in 1" {
		t.Errorf("the upstream got %s segments, want {} in 1", got)
	}
}
