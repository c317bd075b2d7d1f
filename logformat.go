package responsesproxygate

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"go.uber.org/zap/buffer"
	"go.uber.org/zap/zapcore"

	_ "github.com/caddyserver/caddy/v2/modules/logging" // the formats that LogFormat wraps

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/logfields"
)

func init() {
	caddy.RegisterModule(new(LogFormat))
}

// LogFormat is a format for logs beside a gate. Requests are written without
// what may be a token or a key, and not at any length; and only what is
// written is encoded.
//
// A header that carries a credential by its name (Authorization, X-Proxy-Token,
// Api-Key, X_Api_Key, …), a key among the WebSocket subprotocols, a query, and
// a long segment of a path are written as REDACTED. Of a header's value, 256
// bytes are written, and of all headers 4 KiB. That holds for requests and
// headers that Caddy's own HTTP modules log, whatever format is wrapped.
//
// The last is for speed. reverse_proxy makes a logger with the whole
// request in it for each request, and other formats encode that at once,
// although an entry is seldom written: only if a stream is cut off, say, or at
// level DEBUG. This one encodes it when there is an entry. An object that a
// module changes after it gave it to its logger is therefore logged as it is
// then; Caddy's own HTTP modules change none.
type LogFormat struct {
	// The format that encodes what is written. If it does not delete the
	// header X-Proxy-Token, the gate refuses to start beside the log: it gives
	// the format a made-up token, and looks whether that comes out. The format
	// itself cannot be wrapped by another.
	// Default: `filter`, which deletes X-Proxy-Token, Api-Key and X-Api-Key
	// (Caddy itself redacts Authorization, Proxy-Authorization and Cookie).
	WrappedRaw json.RawMessage `json:"wrap,omitempty" caddy:"namespace=caddy.logging.encoders inline_key=format"`

	wrapped     zapcore.Encoder
	parent      *LogFormat // that of the logger from which this one's was made
	addedFields            // what this one's logger adds to its parent's, not yet encoded
}

// addedFields makes LogFormat a zapcore.ObjectEncoder.
type addedFields = logfields.Fields

// CaddyModule returns the Caddy module information.
func (*LogFormat) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "caddy.logging.encoders.responses_proxy_gate",
		New: func() caddy.Module { return new(LogFormat) },
	}
}

// Provision loads the format that encodes.
func (f *LogFormat) Provision(ctx caddy.Context) error {
	for _, module := range ctx.Modules() {
		if _, isFormat := module.(zapcore.Encoder); isFormat && module != caddy.Module(f) {
			// The format around it would be given what this one keeps back.
			return errors.New("the format responses_proxy_gate cannot stand inside another; write the other one inside it: format responses_proxy_gate { wrap <format> }")
		}
	}
	if f.WrappedRaw == nil {
		f.WrappedRaw = rawJSON(object{"format": "filter", "fields": withoutCredentials()})
	}
	wrapped, err := ctx.LoadModule(f, "WrappedRaw")
	if err != nil {
		return fmt.Errorf("loading the format to wrap: %w", err)
	}
	encoder, ok := wrapped.(zapcore.Encoder)
	if !ok {
		return errors.New("wrap: this is no log format")
	}
	f.wrapped = encoder
	return nil
}

// withoutCredentials are the fields of a filter that deletes the request headers
// in which callers send tokens and keys.
func withoutCredentials() object {
	fields := make(object)
	for _, name := range []string{"X-Proxy-Token", "Api-Key", "X-Api-Key"} { // the others, Caddy and logfields redact
		fields["request>headers>"+name] = object{"filter": "delete"}
	}
	return fields
}

// ConfigureDefaultFormat implements caddy.ConfiguresFormatterDefault: on a
// terminal, the wrapped format may want to be readable.
func (f *LogFormat) ConfigureDefaultFormat(writer caddy.WriterOpener) error {
	if wrapped, ok := f.wrapped.(caddy.ConfiguresFormatterDefault); ok {
		return wrapped.ConfigureDefaultFormat(writer)
	}
	return nil
}

// UnmarshalCaddyfile sets up the format from Caddyfile tokens. Syntax:
//
//	responses_proxy_gate {
//		wrap <format>
//	}
func (f *LogFormat) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the format's name
	if d.NextArg() {
		return d.ArgErr()
	}
	for d.NextBlock(0) {
		if d.Val() != "wrap" || f.WrappedRaw != nil {
			return d.Errf("%s: the format responses_proxy_gate has one option: wrap <format>", d.Val())
		}
		if !d.NextArg() {
			return d.ArgErr()
		}
		name := d.Val()
		wrapped, err := caddyfile.UnmarshalModule(d, "caddy.logging.encoders."+name)
		if err != nil {
			return err
		}
		f.WrappedRaw = caddyconfig.JSONModuleObject(wrapped, "format", name, nil)
	}
	return nil
}

// Clone implements zapcore.Encoder. Neither the wrapped encoder nor a logger
// that has others made from it is added to any more, so all share them.
func (f *LogFormat) Clone() zapcore.Encoder {
	return &LogFormat{wrapped: f.wrapped, parent: f}
}

// EncodeEntry implements zapcore.Encoder.
func (f *LogFormat) EncodeEntry(entry zapcore.Entry, fields []zapcore.Field) (*buffer.Buffer, error) {
	for ; f.parent != nil; f = f.parent {
		fields = slices.Concat(f.Added(), fields)
	}
	return f.wrapped.EncodeEntry(entry, logfields.Shown(slices.Concat(f.Added(), fields)))
}

// Interface guards
var (
	_ caddy.Module                     = (*LogFormat)(nil)
	_ caddy.Provisioner                = (*LogFormat)(nil)
	_ caddy.ConfiguresFormatterDefault = (*LogFormat)(nil)
	_ caddyfile.Unmarshaler            = (*LogFormat)(nil)
	_ zapcore.Encoder                  = (*LogFormat)(nil)
)
