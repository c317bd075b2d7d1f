//go:build unix

package main

import (
	"bytes"
	"strconv"
)

// message takes in one message after another, in pieces as they come, and
// drops their bodies.
type message struct {
	head
	next part
	line []byte // what has come of a line without its end
	left int64  // bytes of the body or chunk that are still to come
}

// part is what comes next of a message.
type part int

const (
	startLine part = iota
	headerLine
	fixedBody
	chunkSize
	chunk
	chunkEnd
	trailer
	untilClose
)

// longestLine is more than any peer's.
const longestLine = 64 << 10

// feed takes in data up to the end of one message at most, and returns the
// rest. If the message is whole, its head is there until the next is fed.
func (m *message) feed(data []byte) (rest []byte, whole bool, err error) {
	for len(data) > 0 && err == nil && !whole {
		switch m.next {
		case untilClose:
			return nil, false, nil
		case fixedBody, chunk:
			taken := min(m.left, int64(len(data)))
			data, m.left = data[taken:], m.left-taken
			if m.left > 0 {
				return nil, false, nil
			}
			if m.next == chunk {
				m.next = chunkEnd
				continue
			}
			m.next, whole = startLine, true
		default:
			line, after, ended := bytes.Cut(data, []byte("\n"))
			if data = after; !ended || len(m.line) > 0 {
				m.line = append(m.line, line...)
				line = m.line
			}
			if len(line) > longestLine {
				return nil, false, errNotHTTP
			}
			if ended {
				m.line = m.line[:0]
				whole, err = m.take(bytes.TrimSuffix(line, []byte("\r")))
			}
		}
	}
	return data, whole, err
}

// take takes in a line, and reports whether the message ends with it.
func (m *message) take(line []byte) (whole bool, err error) {
	switch m.next {
	case startLine:
		m.next = headerLine
		m.head, err = startHead(line)
	case headerLine:
		if len(line) > 0 {
			return false, m.add(line)
		}
		switch {
		case m.chunked:
			m.next = chunkSize
		case m.length > 0:
			m.next, m.left = fixedBody, m.length
		case m.length == 0 || m.status == 0: // a request without a length has no body
			m.next, whole = startLine, true
		default:
			m.next, m.closes = untilClose, true
		}
	case chunkSize:
		digits, _, _ := bytes.Cut(line, []byte(";"))
		if m.left, err = strconv.ParseInt(string(digits), 16, 63); err != nil || m.left < 0 {
			return false, errNotHTTP
		}
		if m.next = chunk; m.left == 0 {
			m.next = trailer
		}
	case chunkEnd:
		if m.next = chunkSize; len(line) > 0 {
			err = errNotHTTP
		}
	case trailer:
		if len(line) == 0 {
			m.next, whole = startLine, true
		}
	}
	return whole, err
}

// endsWithConnection reports whether the message is whole when its connection
// ends here.
func (m *message) endsWithConnection() bool { return m.next == untilClose }
