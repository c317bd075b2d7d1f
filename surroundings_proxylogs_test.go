package responsesproxygate

import (
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/logfields"
)

// A proxy in front of the gate (forward_auth, say) logs requests with their
// tokens at DEBUG.
func TestALogOfAProxyBeforeTheGateRecordsNoToken(t *testing.T) {
	const before, behind = "route {\nforward_auth 127.0.0.1:1 {\nuri /\n}\nGATE\nreverse_proxy 127.0.0.1:1\n}", "GATE\nreverse_proxy 127.0.0.1:1"
	dir := t.TempDir()
	log := func(level, include, format string) string {
		return "log proxies {\noutput file " + filepath.Join(dir, "log") + "\nlevel " + level + "\nformat " + format + "\ninclude " + include + "\n}"
	}
	const proxy, fastcgi = "http.handlers.reverse_proxy", "http.reverse_proxy.transport.fastcgi"
	for name, c := range map[string]struct{ global, site, says string }{
		"at DEBUG":               {log("DEBUG", proxy, "json"), before, "of a proxy that is not behind the gate"},
		"at WARN":                {log("WARN", proxy, "json"), before, "of a proxy that is not behind the gate"},
		"of FastCGI":             {log("DEBUG", fastcgi, "json"), before, "of a proxy that is not behind the gate"},
		"in the gate's format":   {log("DEBUG", proxy, "responses_proxy_gate"), before, ""},
		"of errors alone":        {log("ERROR", proxy, "json"), before, ""},
		"of a proxy behind":      {log("DEBUG", proxy, "json"), behind, ""},
		"of FastCGI, far behind": {log("DEBUG", fastcgi, "json"), behind, ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tryLoad(t, c.global, c.site)
			if c.says != "" {
				refusedWith(t, err, c.says)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// FastCGI has a request's headers in its environment, which Caddy logs at DEBUG.
func TestTheGatesFormatShowsNoEnvironmentOfFastCGI(t *testing.T) {
	env := zapcore.ObjectMarshalerFunc(func(encoder zapcore.ObjectEncoder) error {
		encoder.AddString("HTTP_X_PROXY_TOKEN", testToken)
		return nil
	})
	encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{})
	line, err := encoder.EncodeEntry(zapcore.Entry{}, logfields.Shown([]zapcore.Field{zap.Object("env", env), zap.String("method", http.MethodPost)}))
	if err != nil {
		t.Fatal(err)
	}
	if text := line.String(); strings.Contains(text, testToken) || !strings.Contains(text, http.MethodPost) {
		t.Errorf("written: %s", text)
	}
}
