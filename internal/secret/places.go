package secret

import (
	"net/http"
	"strings"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/callerheader"
)

// The places of a request in which callers put a token or a key, on purpose or
// by mistake: the headers that callerheader.IsCredential knows by their names,
// the WebSocket subprotocols, the query, and segments of the path. Whatever
// prints a request asks here what to leave out, and how much to print.

const (
	// tokenLength is how long a segment of a path is that may be a token or a
	// key, or most of one. Tokens have 32 characters or more.
	tokenLength = 24

	// maxScannedPath is how much of a path is looked at, in bytes: what is
	// shown of it is never from beyond.
	maxScannedPath = 4 << 10

	maxShownPath   = 128 // bytes of a path
	maxShownValue  = 256 // bytes of a header's value, and of other text
	maxShownHeader = 4 << 10
)

// keySubprotocol is how browsers' WebSocket clients send a key to OpenAI.
const keySubprotocol = "openai-insecure-api-key."

// IsKeySubprotocol reports whether a WebSocket subprotocol has a key in it. Not
// only in front: upstreams may forgive quotes, or bytes that they take for
// spaces.
func IsKeySubprotocol(name string) bool {
	return strings.Contains(strings.ToLower(name), keySubprotocol)
}

// HideKeySubprotocols is a list of WebSocket subprotocols without their keys.
func HideKeySubprotocols(value string) string {
	if !IsKeySubprotocol(value) {
		return value
	}
	names := strings.Split(value, ",")
	for i, name := range names {
		names[i] = strings.TrimSpace(name)
		if IsKeySubprotocol(names[i]) {
			names[i] = Redacted
		}
	}
	return strings.Join(names, ", ")
}

// ShownHeader is a copy of header to be logged: without credentials, and no
// longer than 4 KiB in all. Headers that do not fit are left out, and the last
// line says so.
func ShownHeader(header http.Header) http.Header {
	if header == nil {
		return nil
	}
	shown, size := make(http.Header, min(len(header), maxShownHeader/8)), 0
	for name, values := range header {
		var kept []string
		for _, value := range values {
			value = shownValue(name, value)
			if size += len(name) + len(value) + 8; size > maxShownHeader {
				break
			}
			kept = append(kept, value)
		}
		if size > maxShownHeader {
			shown["..."] = []string{"and more"}
			return shown
		}
		shown[name] = kept
	}
	return shown
}

func shownValue(name, value string) string {
	switch {
	case callerheader.IsCredential(name):
		return Redacted
	case callerheader.Plain(name) == "Sec-Websocket-Protocol":
		value = HideKeySubprotocols(value)
	case strings.Contains(value, "://"): // Referer, and other URLs
		if url, _, found := strings.Cut(value, "?"); found {
			value = url + "?" + Redacted
		}
	}
	return Cut(value)
}

// ShownURI is a request's URI to be logged: without its query, and with a path
// as ShownPath has it.
func ShownURI(uri string) string {
	path, _, hasQuery := strings.Cut(uri, "?")
	path = ShownPath(path)
	if hasQuery {
		path += "?" + Redacted
	}
	return path
}

// ShownPath is an escaped path without the segments that may be a secret, and
// not longer than 128 bytes and a mark.
func ShownPath(escaped string) string {
	var path strings.Builder
	for i, segment := range strings.Split(escaped[:min(len(escaped), maxScannedPath)], "/") {
		if i > 0 {
			path.WriteByte('/')
		}
		if len(segment)-2*strings.Count(segment, "%") >= tokenLength { // its characters
			segment = Redacted
		}
		path.WriteString(segment)
		if path.Len() > maxShownPath {
			return path.String()[:maxShownPath] + "..."
		}
	}
	return path.String()
}

// Cut is text, or its beginning and a mark.
func Cut(text string) string {
	if len(text) <= maxShownValue {
		return text
	}
	return strings.ToValidUTF8(text[:maxShownValue], "") + "..."
}
