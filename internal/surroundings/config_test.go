package surroundings

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap/zapcore"
)

// TestThisVersionOfCaddyCanBeChecked fails if a Caddy upgrade moves what the
// check reads by reflection. The check has to be adapted then, not this test.
func TestThisVersionOfCaddyCanBeChecked(t *testing.T) {
	member := func(of reflect.Type, name string, want reflect.Type) {
		t.Helper()
		if field, ok := of.FieldByName(name); !ok || field.Type != want {
			t.Errorf("%s has no %s of type %s: %v", of, name, want, field.Type)
		}
	}
	member(reflect.TypeFor[caddy.Context](), "cfg", reflect.TypeFor[*caddy.Config]())
	config := reflect.TypeFor[caddy.Config]()
	member(config, "Admin", reflect.TypeFor[*caddy.AdminConfig]())
	member(config, "Logging", reflect.TypeFor[*caddy.Logging]())
	member(config, "AppsRaw", reflect.TypeFor[caddy.ModuleMap]())
	member(reflect.TypeFor[caddy.AdminConfig](), "Disabled", reflect.TypeFor[bool]())
	member(reflect.TypeFor[caddy.AdminConfig](), "Listen", reflect.TypeFor[string]())
	member(reflect.TypeFor[caddy.AdminConfig](), "Config", reflect.TypeFor[*caddy.ConfigSettings]())
	member(reflect.TypeFor[caddy.ConfigSettings](), "LoadRaw", reflect.TypeFor[json.RawMessage]())
	member(reflect.TypeFor[caddy.Logging](), "Logs", reflect.TypeFor[map[string]*caddy.CustomLog]())
	log := reflect.TypeFor[caddy.CustomLog]()
	member(log, "Include", reflect.TypeFor[[]string]())
	member(log, "Exclude", reflect.TypeFor[[]string]())
	member(log, "writerOpener", reflect.TypeFor[caddy.WriterOpener]())
	member(log, "core", reflect.TypeFor[zapcore.Core]())

	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Listen: "unix//x"}})
	if err != nil {
		t.Fatal(err)
	}
	running, err := ConfigOf(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if listen, enabled := running.adminListen(); listen != "unix//x" || !enabled {
		t.Errorf("the admin endpoint reads as %q, %t", listen, enabled)
	}
	if logs, err := running.logs(ctx); err != nil || len(logs) != 1 || logs[0].name != "default" || !logs[0].accepts("http", zapcore.InfoLevel) || logs[0].accepts("http", zapcore.DebugLevel) {
		t.Errorf("the logs read as %+v, %v", logs, err)
	}
	if _, err := ConfigOf(caddy.Context{}); err == nil {
		t.Error("a context without a config passes the check")
	}
}
