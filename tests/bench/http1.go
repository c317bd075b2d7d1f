//go:build unix

package main

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http/httputil"
	"strconv"
)

// head is what matters of the head of a request or an answer.
type head struct {
	status     int // of an answer
	length     int64
	chunked    bool
	closes     bool // the connection ends with this message
	authorized bool // it has the operator's key
}

var errNotHTTP = errors.New("not HTTP/1.1")

// readHead reads the head of a message. It takes its peers' word for a lot:
// net/http would cost more than many a peer, on either side.
func readHead(in *bufio.Reader) (head, error) {
	line, err := in.ReadSlice('\n')
	if err != nil {
		return head{}, err
	}
	h, err := startHead(line)
	for err == nil {
		if line, err = in.ReadSlice('\n'); err != nil {
			break
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		err = h.add(line)
	}
	return h, err
}

// startHead is what a message's first line says.
func startHead(line []byte) (head, error) {
	h := head{length: -1}
	if !bytes.HasPrefix(line, []byte("HTTP/1.")) {
		return h, nil // of a request
	}
	if len(line) < len("HTTP/1.1 200") {
		return h, errNotHTTP
	}
	var err error
	if h.status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return h, errNotHTTP
	}
	h.closes = line[7] == '0'
	return h, nil
}

// add takes in a header line.
func (h *head) add(line []byte) error {
	name, value, ok := bytes.Cut(line, []byte(":"))
	if !ok {
		return errNotHTTP
	}
	value = bytes.TrimSpace(value)
	switch {
	case bytes.EqualFold(name, []byte("Content-Length")):
		length, err := strconv.ParseInt(string(value), 10, 64)
		if err != nil || length < 0 {
			return errNotHTTP
		}
		h.length = length
	case bytes.EqualFold(name, []byte("Transfer-Encoding")):
		h.chunked = bytes.EqualFold(value, []byte("chunked"))
	case bytes.EqualFold(name, []byte("Connection")):
		h.closes = h.closes || bytes.EqualFold(value, []byte("close"))
	case bytes.EqualFold(name, []byte("Authorization")):
		h.authorized = bytes.Equal(value, keyLine)
	}
	return nil
}

// body is the message's body, to its end.
func (h head) body(in *bufio.Reader) io.Reader {
	switch {
	case h.chunked:
		return chunkedBody{httputil.NewChunkedReader(in), in}
	case h.length >= 0:
		return io.LimitReader(in, h.length)
	case h.status == 0: // a request without either has none
		return bytes.NewReader(nil)
	default:
		return in
	}
}

// chunkedBody also reads the empty line that ends a body's trailer.
type chunkedBody struct {
	chunks io.Reader
	in     *bufio.Reader
}

func (b chunkedBody) Read(p []byte) (int, error) {
	n, err := b.chunks.Read(p)
	if err == io.EOF {
		for {
			line, lineErr := b.in.ReadSlice('\n')
			if lineErr != nil {
				return n, io.ErrUnexpectedEOF
			}
			if len(bytes.TrimRight(line, "\r\n")) == 0 {
				break
			}
		}
	}
	return n, err
}

// discardBody reads the body and drops it.
func (h head) discardBody(in *bufio.Reader) error {
	if !h.chunked && h.length >= 0 {
		_, err := in.Discard(int(h.length))
		return err
	}
	_, err := io.Copy(io.Discard, h.body(in))
	return err
}
