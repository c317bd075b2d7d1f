package e2e

import (
	"encoding/binary"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/tests/internal/gatetest"
)

// unixHeader is a PROXY header of version 2 that says that its sender came in
// over a unix socket.
func unixHeader(from string) []byte {
	header := append([]byte("\r\n\r\n\x00\r\nQUIT\n"), 0x21, 0x31)
	header = binary.BigEndian.AppendUint16(header, 216)
	var source, target [108]byte
	copy(source[:], from)
	copy(target[:], "/run/gate.sock")
	return append(append(header, source[:]...), target[:]...)
}

// What a caller writes into a PROXY header does not turn the Host check off,
// and is not its address in the trail. Control: over the same listener, the
// header of an honest proxy changes nothing.
func TestACallerThatCallsItselfAUnixSocketIsStillAskedForItsHost(t *testing.T) {
	t.Parallel()
	g := gatetest.StartGate(t, gatetest.NewUpstream(t, nil), gatetest.Site{
		Global: "servers {\nlistener_wrappers {\nproxy_protocol {\nallow 127.0.0.1/32\n}\n}\n}",
	})
	ask := func(header []byte, host string) string {
		conn, err := net.Dial("tcp", g.Addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		if _, err := conn.Write(append(header, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n"...)); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(conn)
		if err != nil {
			t.Fatal(err)
		}
		return string(answer)
	}
	if answer := ask(unixHeader("/run/forged"), "attacker.example"); !strings.Contains(answer, "host_not_allowed") {
		t.Errorf("a caller that calls itself a unix socket got %s", answer)
	}
	if answer := ask(unixHeader("/run/forged"), "127.0.0.1"); !strings.Contains(answer, "missing_token") {
		t.Errorf("with a good Host it got %s", answer)
	}
	honest := []byte("PROXY TCP4 192.0.2.7 127.0.0.1 4000 80\r\n")
	if answer := ask(honest, "127.0.0.1"); !strings.Contains(answer, "missing_token") {
		t.Errorf("behind an honest proxy it got %s", answer)
	}
}
