//go:build unix

package malformed

import (
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// strictRequest is a request that can be read in one way only.
type strictRequest struct {
	line   string // method and target
	header http.Header
	body   string
}

var (
	strictLine  = regexp.MustCompile(`^([A-Z]+ /[!-~]*) HTTP/1\.1$`)
	strictField = regexp.MustCompile("^([!#$%&'*+.^_`|~0-9A-Za-z-]+): ([^\\x00-\\x08\\x0a-\\x1f\\x7f]*)$")
	strictChunk = regexp.MustCompile(`^[0-9a-f]{1,8}$`)
)

// errCut means that the bytes end within a request: the gate has broken it off.
var errCut = errors.New("the request is not whole")

// parseStrictly reads pipelined requests, and refuses whatever any parser
// could read differently: bare line feeds, folding, doubled or mixed framing,
// chunk extensions. A request that is broken off at the end is left out.
func parseStrictly(bytes string) (whole []strictRequest, err error) {
	for bytes != "" {
		var r strictRequest
		if r, bytes, err = parseOneStrictly(bytes); err != nil {
			if errors.Is(err, errCut) {
				return whole, nil
			}
			return whole, err
		}
		whole = append(whole, r)
	}
	return whole, nil
}

func parseOneStrictly(bytes string) (r strictRequest, rest string, err error) {
	head, rest, ok := strings.Cut(bytes, "\r\n\r\n")
	if !ok {
		return r, "", errCut
	}
	lines := strings.Split(head, "\r\n")
	first := strictLine.FindStringSubmatch(lines[0])
	if first == nil {
		return r, "", fmt.Errorf("request line %q", lines[0])
	}
	r.line, r.header = first[1], make(http.Header)
	for _, line := range lines[1:] {
		field := strictField.FindStringSubmatch(line)
		if field == nil {
			return r, "", fmt.Errorf("field %q", line)
		}
		r.header.Add(field[1], field[2])
	}
	if len(r.header["Host"]) != 1 {
		return r, "", fmt.Errorf("Host is %q", r.header["Host"])
	}
	r.body, rest, err = parseBodyStrictly(r.header, rest)
	return r, rest, err
}

func parseBodyStrictly(header http.Header, bytes string) (body, rest string, err error) {
	lengths, codings := header["Content-Length"], header["Transfer-Encoding"]
	switch {
	case len(lengths)+len(codings) > 1:
		return "", "", fmt.Errorf("Content-Length %q and Transfer-Encoding %q", lengths, codings)
	case len(lengths) == 1:
		length, err := strconv.Atoi(lengths[0])
		if err != nil || strconv.Itoa(length) != lengths[0] {
			return "", "", fmt.Errorf("Content-Length %q", lengths[0])
		}
		if len(bytes) < length {
			return "", "", errCut
		}
		return bytes[:length], bytes[length:], nil
	case len(codings) == 0:
		return "", bytes, nil
	case codings[0] != "chunked":
		return "", "", fmt.Errorf("Transfer-Encoding %q", codings[0])
	}
	for {
		size, after, ok := strings.Cut(bytes, "\r\n")
		if !ok {
			return "", "", errCut
		}
		if !strictChunk.MatchString(size) {
			return "", "", fmt.Errorf("chunk size %q", size)
		}
		length, _ := strconv.ParseInt(size, 16, 64)
		if int64(len(after)) < length+2 {
			return "", "", errCut
		}
		if after[length:length+2] != "\r\n" {
			return "", "", fmt.Errorf("a chunk ends in %q", after[length:length+2])
		}
		body, bytes = body+after[:length], after[length+2:]
		if length == 0 {
			return body, bytes, nil
		}
	}
}

func TestTheStrictParserForgivesNothing(t *testing.T) {
	const head = "POST / HTTP/1.1\r\nHost: a\r\n"
	for bytes, want := range map[string]int{
		"":                            0,
		head + "\r\n":                 1,
		head + "\r\n" + head + "\r\n": 2,
		head:                          0,
		head + "Content-Length: 2\r\n\r\n{}" + head + "\r\n":                                 2,
		head + "Content-Length: 2\r\n\r\n{":                                                  0,
		head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + head + "\r\n":      2,
		head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n":                               0,
		head + "Transfer-Encoding: chunked\r\n\r\n2;a\r\n{}\r\n0\r\n\r\n":                    -1,
		head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}xx0\r\n\r\n":                        -1,
		head + "Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\nA: b\r\n\r\n":              -1,
		head + "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n2\r\n{}\r\n0\r\n\r\n": -1,
		head + "Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}":                            -1,
		head + "Content-Length: +2\r\n\r\n{}":                                                -1,
		head + "Transfer-Encoding: Chunked\r\n\r\n0\r\n\r\n":                                 -1,
		head + "A: b\r\n c\r\n\r\n":                                                          -1,
		head + "A : b\r\n\r\n":                                                               -1,
		head + "A: b\nC: d\r\n\r\n":                                                          -1,
		head + "Host: b\r\n\r\n":                                                             -1,
		"POST / HTTP/1.0\r\nHost: a\r\n\r\n":                                                 -1,
		"POST http://a/ HTTP/1.1\r\nHost: a\r\n\r\n":                                         -1,
		head + "\r\n\r\n" + head + "\r\n":                                                    -1,
	} {
		whole, err := parseStrictly(bytes)
		if got := len(whole); err == nil && got != want || err != nil && want >= 0 {
			t.Errorf("%q: %d requests, %v; want %d", bytes, got, err, want)
		}
	}
}
