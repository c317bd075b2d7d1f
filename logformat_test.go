package responsesproxygate

import (
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// jsonLines is what two formats write for the same log: without and with LogFormat.
func jsonLines(log func(*zap.Logger)) (eager, lazy string) {
	var out [2]strings.Builder
	plain := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg", SkipLineEnding: true, EncodeDuration: zapcore.SecondsDurationEncoder, EncodeTime: zapcore.EpochTimeEncoder})
	for i, encoder := range []zapcore.Encoder{plain, &LogFormat{wrapped: plain}} {
		log(zap.New(zapcore.NewCore(encoder, zapcore.AddSync(&out[i]), zapcore.WarnLevel)))
	}
	return out[0].String(), out[1].String()
}

// countedObject is an object that counts how often it is encoded.
type countedObject struct{ times int }

func (c *countedObject) MarshalLogObject(enc zapcore.ObjectEncoder) error {
	c.times++
	enc.AddString("a", "b")
	return nil
}

func TestTheLogFormatWritesWhatItsWrappedFormatWould(t *testing.T) {
	names := zapcore.ArrayMarshalerFunc(func(enc zapcore.ArrayEncoder) error { enc.AppendString("n"); return nil })
	failing := zapcore.ObjectMarshalerFunc(func(zapcore.ObjectEncoder) error { return errors.New("no") })
	fields := []zap.Field{
		zap.Array("array", names), zap.Object("object", new(countedObject)), zap.Object("failing", failing), zap.Inline(new(countedObject)),
		zap.Binary("binary", []byte{0, 1}), zap.ByteString("bytes", []byte("b")), zap.Bool("bool", true),
		zap.Complex128("c128", 1i), zap.Complex64("c64", 2i), zap.Duration("duration", time.Minute), zap.Time("time", time.Unix(1, 0)),
		zap.Float64("f64", 1.5), zap.Float32("f32", 2.5), zap.Error(errors.New("e")), zap.Stringer("stringer", time.Second),
		zap.Int("int", -1), zap.Int64("i64", -2), zap.Int32("i32", -3), zap.Int16("i16", -4), zap.Int8("i8", -5),
		zap.Uint("uint", 1), zap.Uint64("u64", 2), zap.Uint32("u32", 3), zap.Uint16("u16", 4), zap.Uint8("u8", 5), zap.Uintptr("up", 6),
		zap.String("string", "s"), zap.Reflect("reflected", map[string]int{"k": 1}), zap.Skip(), zap.Namespace("space"), zap.String("inside", "i"),
	}
	eager, lazy := jsonLines(func(logger *zap.Logger) {
		parent := logger.With(fields...)
		first, second := parent.With(zap.Int("child", 1)), parent.With(zap.Int("child", 2))
		second.Error("two", zap.String("own", "o"))
		first.Error("one")
		logger.Error("none", zap.String("own", "o"))
		parent.Error("parent")
	})
	if eager != lazy {
		t.Errorf("it wrote\n%s\nthe wrapped format writes\n%s", lazy, eager)
	}
	if !json.Valid([]byte(strings.Split(eager, "}{")[0] + "}")) {
		t.Errorf("not JSON: %s", eager)
	}
}

func TestTheLogFormatKeepsBytesAsTheyWere(t *testing.T) {
	_, lazy := jsonLines(func(logger *zap.Logger) {
		buffer, binary := []byte("mine"), []byte("mine")
		logger = logger.With(zap.ByteString("text", buffer), zap.Binary("binary", binary))
		copy(buffer, "else")
		copy(binary, "else")
		logger.Error("later")
	})
	if want := `{"msg":"later","text":"mine","binary":"bWluZQ=="}`; lazy != want {
		t.Errorf("got  %s\nwant %s", lazy, want)
	}
}

func TestTheLogFormatEncodesNothingThatIsNotWritten(t *testing.T) {
	request := new(countedObject)
	_, _ = jsonLines(func(logger *zap.Logger) {
		request.times = 0 // what the other format did does not count
		logger = logger.With(zap.Object("request", request)).With(zap.Int("more", 1))
		logger.Info("below the log's level")
	})
	if request.times != 0 {
		t.Errorf("a request was encoded %d times, and never written", request.times)
	}
}

// Loggers are shared by the goroutines of a request.
func TestTheLogFormatCanBeUsedAtOnce(t *testing.T) {
	logger := zap.New(zapcore.NewCore(&LogFormat{wrapped: zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "msg"})},
		zapcore.Lock(zapcore.AddSync(new(strings.Builder))), zapcore.WarnLevel)).
		With(zap.String("shared", "s"), zap.Int("a", 1), zap.Int("b", 2), zap.Int("c", 3)).WithLazy(zap.Int("lazy", 4))
	var users sync.WaitGroup
	for i := range 8 {
		users.Go(func() {
			for range 100 {
				own := logger.With(zap.Namespace("own"), zap.Int("i", i))
				own.With(zap.Int("more", 1)).Error("x", zap.Int("j", i))
				logger.Error("y", zap.Int("k", i))
			}
		})
	}
	users.Wait()
}

func TestTheLogFormatLeavesOutCredentials(t *testing.T) {
	format := loadLogFormat(t, `{}`)
	headers := zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error {
		for _, name := range callerCredentials {
			enc.AddString(name, "secret-of-"+name)
		}
		enc.AddString("User-Agent", "codex")
		return nil
	})
	request := zapcore.ObjectMarshalerFunc(func(enc zapcore.ObjectEncoder) error { return enc.AddObject("headers", headers) })
	var out strings.Builder
	zap.New(zapcore.NewCore(format, zapcore.AddSync(&out), zapcore.InfoLevel)).With(zap.Object("request", request)).Info("logged", zap.Object("request", request))
	for _, name := range []string{"X-Proxy-Token", "Api-Key", "X-Api-Key"} {
		if strings.Contains(out.String(), "secret-of-"+name) {
			t.Errorf("the header %s was logged: %s", name, out.String())
		}
	}
	if strings.Count(out.String(), "codex") != 2 {
		t.Errorf("the rest was not logged: %s", out.String())
	}
}

// loadLogFormat is a provisioned format.
func loadLogFormat(t *testing.T, config string) *LogFormat {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	t.Cleanup(cancel)
	format, err := ctx.LoadModuleByID("caddy.logging.encoders.responses_proxy_gate", json.RawMessage(config))
	if err != nil {
		t.Fatal(err)
	}
	if err := format.(*LogFormat).ConfigureDefaultFormat(caddy.DiscardWriter{}); err != nil {
		t.Fatal(err)
	}
	return format.(*LogFormat)
}

func TestTheLogFormatInACaddyfile(t *testing.T) {
	for name, c := range map[string]struct{ text, want, says string }{
		"alone":               {"responses_proxy_gate", `{}`, ""},
		"around another":      {"responses_proxy_gate {\nwrap json\n}", `{"wrap":{"format":"json"}}`, ""},
		"with an argument":    {"responses_proxy_gate json", "", "wrong argument count"},
		"with another option": {"responses_proxy_gate {\nlevel INFO\n}", "", "one option: wrap"},
		"around nothing":      {"responses_proxy_gate {\nwrap\n}", "", "wrong argument count"},
		"around two":          {"responses_proxy_gate {\nwrap json\nwrap console\n}", "", "one option: wrap"},
		"around what is not":  {"responses_proxy_gate {\nwrap nonsense\n}", "", "nonsense"},
		"around a filter of it": {
			"responses_proxy_gate {\nwrap filter {\nrequest>uri delete\n}\n}",
			`{"wrap":{"fields":{"request\u003euri":{"filter":"delete"}},"format":"filter"}}`, "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			format := new(LogFormat)
			err := format.UnmarshalCaddyfile(caddyfile.NewTestDispenser(c.text))
			if c.says != "" {
				if err == nil || !strings.Contains(err.Error(), c.says) {
					t.Errorf("got %v, want an error that says %q", err, c.says)
				}
				return
			}
			if got := string(rawJSON(format)); err != nil || got != c.want {
				t.Errorf("got %s, %v", got, err)
			}
		})
	}
}

// BenchmarkLoggerWith is what reverse_proxy's logger costs each request, when
// nothing is written.
func BenchmarkLoggerWith(b *testing.B) {
	r := goodRequest()
	for _, name := range []string{"filter", "json", "responses_proxy_gate"} {
		b.Run(name, func(b *testing.B) {
			ctx, cancel := caddy.NewContext(caddy.Context{Context: b.Context()})
			defer cancel()
			encoder, err := ctx.LoadModuleByID("caddy.logging.encoders."+name, []byte(`{}`))
			if err != nil {
				b.Fatal(err)
			}
			logger := zap.New(zapcore.NewCore(encoder.(zapcore.Encoder), zapcore.AddSync(new(strings.Builder)), zapcore.WarnLevel))
			b.ReportAllocs()
			for b.Loop() {
				logger.With(zap.String("upstream", "127.0.0.1:443"), zap.Duration("duration", time.Second), zap.Object("request", caddyhttp.LoggableHTTPRequest{Request: r})).Info("not written")
			}
		})
	}
}
