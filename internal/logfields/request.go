package logfields

import (
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// shownField is a field of an entry as LogFormat has it encoded. Callers
// choose what is in a request, and how much; so requests and headers are shown
// without what may be a secret, and not at any length.
func shownField(field zapcore.Field) zapcore.Field {
	switch value := field.Interface.(type) {
	case caddyhttp.LoggableHTTPRequest:
		if value.Request != nil {
			return zap.Object(field.Key, shownRequest(value))
		}
	case caddyhttp.LoggableHTTPHeader:
		value.Header = secret.ShownHeader(value.Header)
		return zap.Object(field.Key, value)
	case zapcore.ObjectMarshaler:
		if field.Key == "env" { // of FastCGI: the headers once more, as HTTP_X_PROXY_TOKEN
			return zap.String(field.Key, secret.Redacted)
		}
	}
	return field
}

func Shown(fields []zapcore.Field) []zapcore.Field {
	shown := make([]zapcore.Field, len(fields))
	for i, field := range fields {
		shown[i] = shownField(field)
	}
	return shown
}

// shownRequest is a request as it is shown in logs.
func shownRequest(request caddyhttp.LoggableHTTPRequest) caddyhttp.LoggableHTTPRequest {
	shown := request.WithContext(request.Context()) // a copy
	shown.Method = secret.Cut(request.Method)
	shown.Host = secret.Cut(request.Host)
	shown.RequestURI = secret.ShownURI(request.RequestURI)
	shown.Header = secret.ShownHeader(request.Header)
	request.Request = shown
	return request
}
