package surroundings

import (
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/logging"
	"go.uber.org/zap/zapcore"
)

// Config reads the parts of Caddy's config that decide whether the
// gate is safe in it. Caddy hands modules a context that has the config in an
// unexported field; reflection reads it without unsafe. If the field is not
// what it was, the gate refuses to start rather than run unchecked.
type Config struct {
	value reflect.Value // caddy.Config
}

// ConfigID tells one config from another while both exist.
type ConfigID uintptr

// ConfigOf is the config that ctx stands in.
func ConfigOf(ctx caddy.Context) (Config, error) {
	pointer := reflect.ValueOf(ctx).FieldByName("cfg")
	if !pointer.IsValid() || pointer.Type() != reflect.TypeFor[*caddy.Config]() || pointer.IsNil() {
		return Config{}, errors.New("this version of Caddy hides its config from the gate's check of the admin endpoint and the logs; use the version in the gate's go.mod, or newer releases of both")
	}
	return Config{pointer.Elem()}, nil
}

// ID tells this config from others while both exist.
func (c Config) ID() ConfigID { return ConfigID(c.value.Addr().Pointer()) }

// adminListen is the address of the admin endpoint, and whether there is one.
func (c Config) adminListen() (listen string, enabled bool) {
	admin := c.value.FieldByName("Admin")
	if admin.IsNil() {
		return caddy.DefaultAdminListen, true
	}
	admin = admin.Elem()
	if admin.FieldByName("Disabled").Bool() {
		return "", false
	}
	if listen = admin.FieldByName("Listen").String(); listen == "" {
		listen = caddy.DefaultAdminListen
	}
	return listen, true
}

// loader is where Caddy takes its next config from, as JSON; nil if nowhere.
// It does so even if the admin endpoint is off.
func (c Config) loader() []byte {
	admin := c.value.FieldByName("Admin")
	if admin.IsNil() || admin.Elem().FieldByName("Config").IsNil() {
		return nil
	}
	return admin.Elem().FieldByName("Config").Elem().FieldByName("LoadRaw").Bytes()
}

// apps are the apps' raw configs, by name. Caddy forgets them one by one as it
// loads the apps; the app that is being loaded still has its own.
func (c Config) apps() map[string]json.RawMessage {
	apps := make(map[string]json.RawMessage)
	for entry := c.value.FieldByName("AppsRaw").MapRange(); entry.Next(); {
		apps[entry.Key().String()] = entry.Value().Bytes()
	}
	return apps
}

// httpPort is the port on which Caddy speaks plain HTTP even on servers with TLS.
func (c Config) httpPort() uint {
	var app struct {
		HTTPPort uint `json:"http_port"`
	}
	// A malformed app does not get as far as this.
	_ = json.Unmarshal(c.apps()["http"], &app)
	if app.HTTPPort == 0 {
		return caddyhttp.DefaultHTTPPort
	}
	return app.HTTPPort
}

// serverConfig is a server as it stands in the config; nil if it cannot be found.
func (c Config) serverConfig(name string) map[string]any {
	var app struct {
		Servers map[string]map[string]any `json:"servers"`
	}
	// A malformed app does not get as far as this.
	_ = json.Unmarshal(c.apps()["http"], &app)
	return app.Servers[name]
}

// everyLog is a module without a name: Caddy's logger for it writes to every
// log that takes entries of modules.
type everyLog struct{}

// CaddyModule returns the Caddy module information.
func (everyLog) CaddyModule() caddy.ModuleInfo { return caddy.ModuleInfo{} }

var errLogsHidden = errors.New("this version of Caddy hides its logs from the gate's check; use the version in the gate's go.mod, or: insecure_allow logged_token")

// logs are the config's logs that write anywhere.
func (c Config) logs(ctx caddy.Context) ([]configuredLog, error) {
	cores := coresOf(ctx.Logger(everyLog{}).Core())
	var logs []configuredLog
	for entry := c.value.FieldByName("Logging").Elem().FieldByName("Logs").MapRange(); entry.Next(); {
		fields := entry.Value().Elem()
		writer, core := fields.FieldByName("writerOpener"), fields.FieldByName("core")
		if !writer.IsValid() || !core.IsValid() || !core.Elem().IsValid() {
			return nil, errLogsHidden
		}
		teed := strings.Contains(core.Elem().Type().String(), "multiCore") // a core module takes entries before a format does
		if !teed && writer.Elem().IsValid() && writer.Elem().Type() == reflect.TypeFor[*caddy.DiscardWriter]() {
			continue // nothing is recorded
		}
		log := configuredLog{name: entry.Key().String(), include: stringsOf(fields.FieldByName("Include")), teed: teed}
		if slices.Contains(stringsOf(fields.FieldByName("Exclude")), "*") {
			continue // Caddy writes nothing of modules there
		}
		for _, candidate := range cores {
			if isCoreOf(candidate, entry.Value(), core.Elem()) {
				log.core = candidate
			}
		}
		if log.core == nil {
			return nil, errLogsHidden
		}
		logs = append(logs, log)
	}
	slices.SortFunc(logs, func(a, b configuredLog) int { return strings.Compare(a.name, b.name) })
	return logs, nil
}

// logFiles are the files of the config's logs, by the logs' names.
func (c Config) logFiles() map[string]string {
	files := make(map[string]string)
	for entry := c.value.FieldByName("Logging").Elem().FieldByName("Logs").MapRange(); entry.Next(); {
		writer := entry.Value().Elem().FieldByName("writerOpener")
		if writer.IsValid() && writer.Elem().IsValid() && writer.Elem().Type() == reflect.TypeFor[*logging.FileWriter]() {
			files[entry.Key().String()] = writer.Elem().Elem().FieldByName("Filename").String()
		}
	}
	return files
}

// coresOf are a logger's core and, if that is several, each of them.
func coresOf(core zapcore.Core) []zapcore.Core {
	cores := []zapcore.Core{core}
	if several := reflect.ValueOf(core); several.Kind() == reflect.Slice {
		for i := range several.Len() {
			cores = append(cores, several.Index(i).Interface().(zapcore.Core))
		}
	}
	return cores
}

// isCoreOf reports whether a core is the one of a log, or of the log with its
// names filtered.
func isCoreOf(candidate zapcore.Core, log, core reflect.Value) bool {
	value := reflect.ValueOf(candidate)
	if value.Kind() == reflect.Pointer && value.Elem().Kind() == reflect.Struct {
		if filtered := value.Elem().FieldByName("cl"); filtered.IsValid() {
			return filtered.Kind() == reflect.Pointer && filtered.Pointer() == log.Pointer()
		}
	}
	return value.Kind() == core.Kind() && (value.Kind() == reflect.Pointer || value.Kind() == reflect.Slice) && value.Pointer() == core.Pointer()
}

// stringsOf reads a []string out of a config.
func stringsOf(value reflect.Value) []string {
	list := make([]string, 0, value.Len())
	for i := range value.Len() {
		list = append(list, value.Index(i).String())
	}
	return list
}
