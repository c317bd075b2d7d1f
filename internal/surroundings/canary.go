package surroundings

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// configuredLog is what the check knows of a caddy.CustomLog.
type configuredLog struct {
	name    string
	include []string
	core    zapcore.Core
	teed    bool // a log core module takes entries before they are filtered
}

// messages numbers the check's entries: a sampler drops what repeats.
var messages atomic.Uint64

// entry is an entry of a logger as the check makes them. Each differs.
func entry(logger string, level zapcore.Level) zapcore.Entry {
	return zapcore.Entry{LoggerName: logger, Level: level, Time: time.Unix(0, 0), Message: fmt.Sprintf("check %d", messages.Add(1))}
}

// accepts reports whether a log takes a logger's entries of a level.
func (l configuredLog) accepts(logger string, level zapcore.Level) bool {
	for range 16 { // a sampler could take one message for another that it has had enough of
		if l.core.Check(entry(logger, level), nil) != nil {
			return true
		}
	}
	return false
}

// The canaries have the shapes of what must not be written: a generated token,
// a fixed one of each kind that operators choose, and keys. Filters tell
// values apart; one that stops a single shape is not enough.
var canaries = []string{
	"Zk3vQ9xT-7LmW2_pRbYc5HdJn8Gs4FtAe6UoKiVyB1X",
	"7f3a9c0e5d1b8246f0a7c9e3b5d18f6279ce04ba3d5f",
	"9b2e61d4-7c35-4fa8-b0d9-53c7e8f1a264",
	"73914058266107395824730951864207",
	"QWMZNXBVCLAKSJDHFGPOIUYTREWQMZXN",
	"~!*()_+-=.:;,?/|^~!*()_+-=.:;,?/",
	"sk-proj-Vt8cR2nL5qYw0Jm7Xb4Kd9Hs1Gf6Za3PuEoTiC",
	"Bearer sk-Hq4Tz7Wn1Lx9Vb3Rc6Yd8Jm2Kp5Gs0FaUe",
}

// leakLength is the length of what counts as a part of a canary.
const leakLength = 8

// leaks reports whether a text has a part of a canary in it, or Caddy's short
// hash of it, which shows that two entries have the same token.
func leaks(text, canary string) bool {
	if strings.Contains(text, fmt.Sprintf("%.4x", sha256.Sum256([]byte(canary)))) {
		return true
	}
	for i := 0; i+leakLength <= len(canary); i++ {
		if strings.Contains(text, canary[i:i+leakLength]) {
			return true
		}
	}
	return false
}

// writes reports whether a log would write what is in a request's header.
func (l configuredLog) writes(header string) bool {
	for _, canary := range canaries {
		if l.writesCanary(header, canary) {
			return true
		}
	}
	return false
}

// writesCanary logs one request in each way in which Caddy does. A format that
// fails, or that cannot be reached, is not to be relied on either.
func (l configuredLog) writesCanary(header, canary string) (written bool) {
	defer func() {
		if recover() != nil {
			written = true
		}
	}()
	request := zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: canaryRequest(header, canary)})
	answer := []zapcore.Field{
		zap.Int("bytes_read", 1), zap.String("user_id", "default"), zap.Duration("duration", time.Second),
		zap.Int("size", 1), zap.Int("status", http.StatusOK),
		zap.Object("resp_headers", caddyhttp.LoggableHTTPHeader{Header: http.Header{"Content-Type": {"text/event-stream"}}}),
	}
	upstream := []zapcore.Field{zap.String("upstream", "127.0.0.1:443"), zap.Duration("duration", time.Second), request}
	for _, way := range []struct{ logger, entry []zapcore.Field }{
		{[]zapcore.Field{request}, answer},                                                               // access
		{append([]zapcore.Field{request}, answer...), nil},                                               // errors
		{upstream, []zapcore.Field{zap.Error(context.Canceled)}},                                         // reverse_proxy
		{nil, []zapcore.Field{request, zap.String("method", http.MethodPost), zap.String("uri", "/v1")}}, // rewrite
	} {
		for range entriesInARow {
			looked := false
			l.core.With(append(way.logger[:len(way.logger):len(way.logger)], zap.Inline(look{func(encoder zapcore.Encoder) {
				looked = true
				written = written || writesOne(encoder, way.entry, canary)
			}})))
			if written || !looked {
				return true
			}
		}
	}
	return false
}

// entriesInARow is how many entries of one logger the check looks at, and how
// many loggers. Formats that share what they should copy leak in later ones.
const entriesInARow = 5

// writesOne reports whether a canary is in what an encoder makes of entries.
func writesOne(encoder zapcore.Encoder, fields []zapcore.Field, canary string) bool {
	for range entriesInARow {
		line, err := encoder.EncodeEntry(entry("http.log.access", zapcore.ErrorLevel), fields)
		if err != nil {
			return true
		}
		leak := leaks(line.String(), canary)
		line.Free()
		if leak {
			return true
		}
	}
	return false
}

// look is an object that is shown the encoder which would write it: a copy of
// the log's own, made by the log.
type look struct{ at func(zapcore.Encoder) }

// MarshalLogObject implements zapcore.ObjectMarshaler.
func (l look) MarshalLogObject(encoder zapcore.ObjectEncoder) error {
	if real, ok := encoder.(zapcore.Encoder); ok {
		l.at(real)
	}
	return nil
}

// canaryRequest is a request of a caller, with a canary in a header.
func canaryRequest(header, canary string) *http.Request {
	r := &http.Request{
		Method: http.MethodPost, URL: &url.URL{Path: "/v1/responses"}, RequestURI: "/v1/responses",
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: "127.0.0.1", RemoteAddr: "127.0.0.1:40000",
		Header: http.Header{"Content-Type": {"application/json"}, "User-Agent": {"codex"}, header: {canary}},
	}
	return r.WithContext(context.WithValue(context.Background(), caddyhttp.VarsCtxKey, map[string]any{caddyhttp.ClientIPVarKey: "127.0.0.1"}))
}
