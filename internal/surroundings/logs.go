package surroundings

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// CheckLogs refuses logs that would record callers' tokens. Caddy logs requests
// whole, and redacts only Authorization, Proxy-Authorization, Cookie and
// Set-Cookie. It clones the request for the log before any handler runs, so the
// gate cannot redact its own header there; it can only see to it that the log does.
//
// It does not work out what a format would write: formats nest in ways that
// nobody can foresee. It gives each log's own format a request with a made-up
// token, and looks for that in what would be written.
func CheckLogs(ctx caddy.Context, server *caddyhttp.Server, config Config) error {
	logs, err := config.logs(ctx)
	if err != nil {
		return err
	}
	if server.Logs != nil && server.Logs.ShouldLogCredentials {
		return errors.New("log_credentials makes the logs record tokens; remove it, or: insecure_allow logged_token")
	}
	configured := config.serverConfig(server.Name())
	if server.Logs != nil {
		if header := appendedSecret(configured); header != "" {
			return fmt.Errorf("log_append would write the header %s into the access log; remove it, or: insecure_allow logged_token", header)
		}
	}
	var errs []error
	for _, log := range logs {
		if where := recordsToken(log, logs, server, configured); where != "" {
			errs = append(errs, fmt.Errorf("the log %q would record the header %s (%s); %s, or: insecure_allow logged_token",
				log.name, tokenHeader, where, remedy(log, server)))
		}
	}
	return errors.Join(errs...)
}

// WarnOfRootsLogFiles tells root, who only validates a config, of log files that
// the user who will run Caddy could not write. Caddy opens the logs of a config
// that it validates, and so makes those that are missing.
func WarnOfRootsLogFiles(config Config, logger *zap.Logger) {
	if !process.IsValidating() {
		return
	}
	for log, file := range config.logFiles() {
		if uid, gid, found := infofile.RootsInAnothersDirectory(file); found {
			// (-h: whose directory it is could put a link there)
			quoted := "'" + strings.ReplaceAll(file, "'", `'\''`) + "'"
			logger.Warn("a log file belongs to root, and its directory to another user, who could not write it (\"caddy validate\" as root makes log files that are missing). "+
				fmt.Sprintf("If that user will run Caddy, run: chown -h %d:%d %s", uid, gid, quoted),
				zap.String("log", log), zap.Uint32("uid", uid))
		}
	}
}

const tokenHeader = "X-Proxy-Token"

// remedy says what to write to keep tokens out of a log.
func remedy(log configuredLog, server *caddyhttp.Server) string {
	switch {
	case log.teed:
		return "remove its core, which gets every entry before a format does"
	case log.name != caddy.DefaultLoggerName:
		return "write in that log: format responses_proxy_gate"
	case server.Logs != nil && len(server.Logs.LoggerNames) > 0:
		return "write in the global options: log { format responses_proxy_gate } " +
			"(requests with another Host than the site's address are written there: what the site's own log says does not reach them)"
	}
	return "write in the global options: log { format responses_proxy_gate }"
}

// recordsToken says in which of its entries a log would record tokens. It is ""
// if there is none.
func recordsToken(log configuredLog, all []configuredLog, server *caddyhttp.Server, configured map[string]any) (where string) {
	if !log.teed && !log.writes(tokenHeader) {
		return ""
	}
	for _, name := range accessLoggers(server, configured, all) {
		// (answers of 500 and more are logged at ERROR, the others at INFO)
		if log.accepts(name, zapcore.ErrorLevel) {
			return "access log " + name
		}
	}
	// Errors that Caddy finds before any handler runs, such as a malformed
	// Host, are logged with the request's headers at DEBUG. Those of the
	// handlers behind the gate are not returned to Caddy; those of other
	// handlers are, and 500 and more is logged at ERROR. rewrite logs every
	// request that it changes, also one that is on its way to a gate behind it.
	if goesAroundGate(configured["routes"]) {
		for _, name := range errorLoggers(server, configured, all) {
			if log.accepts(name, zapcore.ErrorLevel) {
				return name + ", when a handler fails that is not behind the gate"
			}
		}
		for _, name := range proxyLoggers {
			if log.accepts(name, zapcore.WarnLevel) {
				return name + ", of a proxy that is not behind the gate"
			}
		}
	}
	for _, name := range append(errorLoggers(server, configured, all), "http.handlers.rewrite") {
		if log.accepts(name, zapcore.DebugLevel) {
			return name + " at level DEBUG"
		}
	}
	return ""
}

// proxyLoggers write requests with their headers, at DEBUG and, when an answer
// breaks off, at WARN. Behind the gate, there is no token in them any more.
var proxyLoggers = []string{"http.handlers.reverse_proxy", "http.reverse_proxy.transport.fastcgi"}

// accessLoggers are the names under which a server logs access.
func accessLoggers(server *caddyhttp.Server, configured map[string]any, logs []configuredLog) []string {
	if server.Logs == nil {
		return nil
	}
	names := loggerNames("http.log.access", server, configured, logs)
	if (server.Logs.SkipUnmappedHosts || server.Logs.DefaultLoggerName != "") && !mapsToDefault(server.Logs) && !slices.Contains(chosenLoggers(configured), "") {
		names = slices.DeleteFunc(names, func(name string) bool { return name == "http.log.access" })
	}
	return names
}

// errorLoggers are the names under which a server logs errors.
func errorLoggers(server *caddyhttp.Server, configured map[string]any, logs []configuredLog) []string {
	return loggerNames("http.log.error", server, configured, logs)
}

// loggerNames is base, and base with every name that the server, or a log_name
// directive, could add to it.
func loggerNames(base string, server *caddyhttp.Server, configured map[string]any, logs []configuredLog) []string {
	names := []string{base}
	add := func(name string) {
		if name != "" && !slices.Contains(names, base+"."+name) {
			names = append(names, base+"."+name)
		}
	}
	if server.Logs != nil {
		add(server.Logs.DefaultLoggerName)
		for _, mapped := range server.Logs.LoggerNames {
			for _, name := range mapped {
				add(name)
			}
		}
	}
	for _, name := range chosenLoggers(configured) {
		add(name)
	}
	for _, log := range logs {
		for _, included := range log.include {
			if name, ok := strings.CutPrefix(included, base+"."); ok {
				add(name)
			}
		}
	}
	return names
}

// mapsToDefault reports whether some host's access goes to the unnamed logger.
func mapsToDefault(logs *caddyhttp.ServerLogConfig) bool {
	for _, names := range logs.LoggerNames {
		if slices.Contains(names, "") {
			return true
		}
	}
	return false
}
