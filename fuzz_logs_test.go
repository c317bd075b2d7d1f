package responsesproxygate

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/surroundings"
)

func init() {
	caddy.RegisterModule(memoryWriter{})
}

// memoryWriter is a log writer that keeps what is written.
type memoryWriter struct{}

var written struct {
	sync.Mutex
	bytes.Buffer
}

func (memoryWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.gate_test", New: func() caddy.Module { return new(memoryWriter) }}
}
func (memoryWriter) String() string                      { return "memory" }
func (memoryWriter) WriterKey() string                   { return "gate_test" }
func (memoryWriter) OpenWriter() (io.WriteCloser, error) { return memoryWriter{}, nil }
func (memoryWriter) Close() error                        { return nil }
func (memoryWriter) Write(line []byte) (int, error) {
	written.Lock()
	defer written.Unlock()
	return written.Buffer.Write(line)
}

// anyFormat is a log format as an operator might write it, or nobody would.
func anyFormat(random *rand.Rand, depth int) object {
	filters := []object{
		{"filter": "delete"},
		{"filter": "delete"},
		{"filter": "delete"},
		{"filter": "replace", "value": "x"},
		{"filter": "hash"},
		{"filter": "rename", "name": "renamed"},
		{"filter": "regexp", "regexp": "[-_A-Za-z0-9]+", "value": ""},
		{"filter": "regexp", "regexp": "^.{43}$", "value": ""},
		{"filter": "regexp", "regexp": ".+", "value": ""},
		{"filter": "ip_mask", "ipv4_cidr": 8},
		{"filter": "query", "actions": []object{{"type": "delete", "parameter": "a"}}},
	}
	names := []string{
		"request", "request>headers", "request>headers>X-Proxy-Token", "request>headers>X-Proxy-Token", "request>headers>X-Proxy-Token",
		"request>remote_port", "request>uri", "user_id", "status", "resp_headers", "duration", "renamed",
	}
	var format object
	switch random.IntN(6) {
	case 0:
		return object{"format": "json"}
	case 1:
		return object{"format": "console"}
	case 2:
		format = object{"format": "append", "fields": object{"user_id": "a", "request": "b"}}
	case 3:
		format = object{"format": "responses_proxy_gate"}
	default:
		fields := object{}
		for range 1 + random.IntN(3) {
			fields[names[random.IntN(len(names))]] = filters[random.IntN(len(filters))]
		}
		format = object{"format": "filter", "fields": fields}
	}
	if depth > 0 && random.IntN(4) > 0 {
		format["wrap"] = anyFormat(random, depth-1)
	}
	return format
}

// logsThrough checks a log of a format and, if it is admitted, writes requests
// through it in the ways of Caddy's HTTP server and its proxy.
func logsThrough(t *testing.T, format object, tokens []string) (admitted bool) {
	t.Helper()
	written.Lock()
	written.Reset()
	written.Unlock()
	config := &caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}, Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{
		"mine":    {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "gate_test"}`), EncoderRaw: rawJSON(format), Level: "DEBUG"}},
		"default": {BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output": "discard"}`)}},
	}}}
	ctx, err := caddy.ProvisionContext(config)
	if err != nil {
		if !strings.Contains(err.Error(), "cannot stand inside another") {
			t.Fatalf("%s: %v", rawJSON(format), err)
		}
		return false
	}
	around, err := surroundings.ConfigOf(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if surroundings.CheckLogs(ctx, &caddyhttp.Server{Logs: new(caddyhttp.ServerLogConfig)}, around) != nil {
		return false
	}
	logger := ctx.Logger(new(Handler))
	for _, token := range tokens {
		r := httptest.NewRequest("POST", "/v1/responses?a=b", strings.NewReader("{}"))
		r.Header.Set("X-Proxy-Token", token)
		r.Header.Set("Authorization", "Bearer "+token)
		request := zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r})
		answer := []zap.Field{zap.String("user_id", "default"), zap.Int("status", 200), zap.Duration("duration", time.Second)}
		for range 12 {
			logger.Named("http.log.access").WithLazy(request).Info("handled request", answer...)
			logger.Debug("rewrote request", request, zap.String("uri", "/v1"))
			failed := logger.With(request).With(zap.Duration("duration", time.Second))
			failed.Error("failed", zap.Error(errors.New("no")))
			failed.Named("again").Error("failed again", answer...)
			proxy := logger.With(zap.String("upstream", "127.0.0.1:1"), zap.Duration("duration", time.Second), request)
			proxy.Warn("aborting with incomplete response", zap.Error(errors.New("no")))
			proxy.Debug("upstream roundtrip", zap.Int("status", 200))
		}
	}
	written.Lock()
	defer written.Unlock()
	if written.Len() == 0 {
		t.Fatalf("%s: nothing was written", rawJSON(format))
	}
	for _, token := range tokens {
		for i := 0; i+8 <= len(token); i++ {
			if strings.Contains(written.String(), token[i:i+8]) {
				t.Fatalf("the check admits a format that writes %q of the token %s: %s", token[i:i+8], token, rawJSON(format))
			}
		}
	}
	return true
}

var loggedTokens = []string{"mHk0rT5uQzX2-wVb8NfJc3LsYd7_PgAe1RoKiUyBt9S", "0c5be1f28a6d4379be02f6c1a9d87354", "Rj8~pQ4!vX6=mZ2+cB9.nL5/tW7-kD3*"}

// FuzzAnAdmittedLogWritesNoToken builds formats at random: whatever the check
// admits writes no token.
func FuzzAnAdmittedLogWritesNoToken(f *testing.F) {
	for seed := range uint64(20) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		logsThrough(t, anyFormat(rand.New(rand.NewPCG(seed, 1)), 4), loggedTokens)
	})
}

func TestWhateverTheLogCheckAdmitsWritesNoToken(t *testing.T) {
	var admitted, nested, refused int
	for seed := range uint64(600) {
		format := anyFormat(rand.New(rand.NewPCG(seed, 2)), 4)
		switch {
		case !logsThrough(t, format, loggedTokens):
			refused++
		case format["wrap"] != nil:
			nested++
			fallthrough
		default:
			admitted++
		}
	}
	t.Logf("%d formats admitted, %d of them around another, %d refused", admitted, nested, refused)
	if admitted < 30 || nested < 10 || refused < 30 {
		t.Errorf("%d formats admitted, %d of them around another, %d refused: this proves little", admitted, nested, refused)
	}
}
