//go:build unix

package main

import (
	"strings"
	"testing"
)

func TestAMessageIsTheSameHoweverItIsSplit(t *testing.T) {
	const ok = "HTTP/1.1 200 OK\r\n"
	for name, c := range map[string]struct {
		text   string
		status int
		closes bool
	}{
		"with its length":                {ok + "Content-Length: 5\r\n\r\nhello", 200, false},
		"without a body":                 {"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", 403, false},
		"in chunks":                      {ok + "Transfer-Encoding: chunked\r\n\r\n1\r\n\n\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", 200, false},
		"in chunks, with a trailer":      {ok + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: 1\r\n\r\n", 200, false},
		"the last on its connection":     {ok + "Connection: close\r\nContent-Length: 2\r\n\r\n{}", 200, true},
		"of an old server":               {"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}", 200, true},
		"a request":                      {"POST / HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 0, false},
		"a request without a body":       {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 0, false},
		"a request in chunks, none full": {"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 0, false},
	} {
		t.Run(name, func(t *testing.T) {
			two := c.text + c.text
			for size := 1; size <= len(two); size++ {
				var m message
				count := 0
				for at := 0; at < len(two); at += size {
					for data := []byte(two[at:min(at+size, len(two))]); len(data) > 0; {
						rest, whole, err := m.feed(data)
						if err != nil {
							t.Fatalf("in pieces of %d: %v", size, err)
						}
						if data = rest; !whole {
							continue
						}
						count++
						if m.status != c.status || m.closes != c.closes {
							t.Errorf("in pieces of %d: status %d, closes %t; want %d, %t", size, m.status, m.closes, c.status, c.closes)
						}
					}
				}
				if count != 2 {
					t.Errorf("in pieces of %d: %d messages, want 2", size, count)
				}
			}
		})
	}
}

func TestAMessageThatIsNoneIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"a status that is no number": "HTTP/1.1 OK? no\r\n",
		"a header without a colon":   "HTTP/1.1 200 OK\r\nContent-Length 3\r\n",
		"a length below nothing":     "HTTP/1.1 200 OK\r\nContent-Length: -3\r\n",
		"a chunk without a size":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n",
		"a chunk longer than it is":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc\r\n",
		"a line without an end":      strings.Repeat("x", longestLine+1),
	} {
		var m message
		if _, whole, err := m.feed([]byte(text)); err == nil {
			t.Errorf("%s is taken (whole: %t)", name, whole)
		}
	}
}

func TestAnAnswerWithoutALengthEndsWithItsConnection(t *testing.T) {
	var m message
	rest, whole, err := m.feed([]byte("HTTP/1.1 200 OK\r\n\r\nhello"))
	if len(rest) > 0 || whole || err != nil || !m.endsWithConnection() || !m.closes {
		t.Errorf("%q left, whole %t (%v), ends with its connection %t", rest, whole, err, m.endsWithConnection())
	}
}
