package surroundings

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap/zapcore"
)

// RedactedByCaddy are headers. Caddy logs requests whole, and redacts only these. It clones the
// request for the log before any handler runs, so the gate cannot redact its
// own header there; it can only see to it that the log does.
var RedactedByCaddy = []string{"Authorization", "Proxy-Authorization", "Cookie", "Set-Cookie"}

// AuditLogs refuses logs that would record callers' tokens.
func AuditLogs(server *caddyhttp.Server, config Config) error {
	logs, err := config.logs()
	if err != nil {
		return err
	}
	if server.Logs != nil && server.Logs.ShouldLogCredentials {
		return errors.New("log_credentials makes the logs record tokens; remove it, or: insecure_allow logged_token")
	}
	configured := config.serverConfig(server.Name())
	var errs []error
	for _, log := range logs {
		if where := recordsToken(log, logs, server, configured); where != "" {
			errs = append(errs, fmt.Errorf("the log %q would record the header %s (%s); write in that log: "+
				"format filter { request>headers>%[2]s delete }, or: insecure_allow logged_token", log.name, tokenHeader, where))
		}
	}
	return errors.Join(errs...)
}

const tokenHeader = "X-Proxy-Token"

// recordsToken says in which of its entries a log would record tokens. It is ""
// if there is none.
func recordsToken(log configuredLog, all []configuredLog, server *caddyhttp.Server, configured map[string]any) (where string) {
	if log.deletes(tokenHeader) {
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
	}
	for _, name := range append(errorLoggers(server, configured, all), "http.handlers.rewrite") {
		if log.accepts(name, zapcore.DebugLevel) {
			return name + " at level DEBUG"
		}
	}
	return ""
}

// accessLoggers are the names under which a server logs access.
func accessLoggers(server *caddyhttp.Server, configured map[string]any, logs []configuredLog) []string {
	if server.Logs == nil {
		return nil
	}
	names := loggerNames("http.log.access", server, configured, logs)
	if (server.Logs.SkipUnmappedHosts || server.Logs.DefaultLoggerName != "") && !mapsToDefault(server.Logs) {
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

// mapsToDefault tells whether some host's access goes to the unnamed logger.
func mapsToDefault(logs *caddyhttp.ServerLogConfig) bool {
	for _, names := range logs.LoggerNames {
		if slices.Contains(names, "") {
			return true
		}
	}
	return false
}

// configuredLog is what the audit reads of a caddy.CustomLog.
type configuredLog struct {
	name             string
	level            zapcore.Level
	include, exclude []string
	encoder          reflect.Value
	teed             bool // a log core module takes entries before they are filtered
}

// accepts tells whether a log takes a logger's entries of a level, by the
// rules of caddy.CustomLog: the longest matching name decides.
func (l configuredLog) accepts(logger string, level zapcore.Level) bool {
	if level < l.level {
		return false
	}
	included, excluded := longestPrefix(l.include, logger), longestPrefix(l.exclude, logger)
	if len(l.include) > 0 && included == 0 || slices.Contains(l.exclude, "*") {
		return false
	}
	return included > excluded || len(l.include) == 0 && excluded == 0
}

// longestPrefix is the length of the longest namespace that contains a logger.
func longestPrefix(namespaces []string, logger string) int {
	longest := 0
	for _, namespace := range namespaces {
		if strings.HasPrefix(logger+".", namespace+".") {
			longest = max(longest, len(namespace))
		}
	}
	return longest
}

// deletes tells whether a log's encoder removes a request header before it is
// written: by a filter of the header, of all headers or of the request, that
// leaves nothing of the value.
func (l configuredLog) deletes(header string) bool {
	if l.teed {
		return false // the other core sees everything
	}
	encoder := l.encoder
	for range 8 { // encoders nest; none does so this deep
		for encoder.Kind() == reflect.Interface || encoder.Kind() == reflect.Pointer {
			encoder = encoder.Elem()
		}
		if encoder.Kind() != reflect.Struct {
			return false
		}
		if encoder.Type() == reflect.TypeFor[logging.FilterEncoder]() {
			if deleted, decided := filterDeletes(encoder, header); decided {
				return deleted
			}
		}
		if encoder = encoder.FieldByName("wrapped"); !encoder.IsValid() {
			return false
		}
	}
	return false
}

// deletingFilters leave nothing of a value.
var deletingFilters = []reflect.Type{
	reflect.TypeFor[*logging.DeleteFilter](), reflect.TypeFor[*logging.ReplaceFilter](),
}

// filterDeletes tells whether a filter encoder deletes a request header, and
// whether it decides on it at all. The filter of the outermost field decides:
// what it does not delete it hands on whole, past every other filter, and
// perhaps under another name.
func filterDeletes(encoder reflect.Value, header string) (deleted, decided bool) {
	filters := make(map[string]reflect.Type)
	for field := encoder.FieldByName("Fields").MapRange(); field.Next(); {
		filters[field.Key().String()] = field.Value().Elem().Type()
	}
	for _, field := range []string{"request", "request>headers", "request>headers>" + header} {
		if filter, ok := filters[field]; ok {
			return slices.Contains(deletingFilters, filter), true
		}
	}
	return false, false
}
