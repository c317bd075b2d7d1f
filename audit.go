package responsesproxygate

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// The risks that insecure_allow can name.
const (
	riskRemoteListener = "remote_listener"
	riskTCPAdmin       = "tcp_admin"
	riskLoggedToken    = "logged_token"
	riskLiteralSecret  = "literal_secret"
)

var risks = []string{riskRemoteListener, riskTCPAdmin, riskLoggedToken, riskLiteralSecret}

// allows tells whether the operator takes a risk knowingly.
func (h *Handler) allows(risk string) bool { return slices.Contains(h.InsecureAllow, risk) }

// audit refuses surroundings that would undo the gate, unless the operator
// takes that risk.
func (h *Handler) audit(ctx caddy.Context) error {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok {
		return h.gateError(errors.New("the gate works only as a handler of an HTTP server's routes"))
	}
	config, err := configOf(ctx)
	if err != nil {
		return h.gateError(err)
	}
	h.server, h.config = server, config.id()
	if !h.allows(riskRemoteListener) {
		err = errors.Join(err, auditListeners(server, config.httpPort()))
	}
	if !h.allows(riskTCPAdmin) {
		err = errors.Join(err, auditAdmin(config))
	}
	if !h.allows(riskLoggedToken) {
		err = errors.Join(err, auditLogs(server, config, h.UpstreamHeader))
	}
	return h.gateError(err)
}

// auditListeners refuses plaintext listeners beyond loopback: the token and
// every prompt would cross the network for all to read.
func auditListeners(server *caddyhttp.Server, httpPort uint) error {
	for _, listen := range server.Listen {
		addr, err := caddy.ParseNetworkAddress(listen)
		if err != nil {
			return fmt.Errorf("listener %s: %w", listen, err)
		}
		// Caddy speaks TLS on every port of a server that has connection
		// policies, but for the HTTP port.
		encrypted := len(server.TLSConnPolicies) > 0 && (httpPort < addr.StartPort || addr.EndPort < httpPort)
		if addr.IsUnixNetwork() {
			path, _, _ := strings.Cut(addr.Host, "|")
			if err := auditSocketDir(path); err != nil {
				return fmt.Errorf("the listener's %w; or: insecure_allow remote_listener", err)
			}
			continue
		}
		if encrypted || isLoopback(addr) {
			continue
		}
		return fmt.Errorf("the listener %q is not loopback and not TLS: other hosts could reach the gate and read its tokens; "+
			"write bind 127.0.0.1 in the site (its address alone is only a Host matcher), use HTTPS, or: insecure_allow remote_listener", listen)
	}
	return nil
}

// isLoopback tells whether an address can be reached from this host only. A
// listener handed over as a file descriptor could be anything.
func isLoopback(addr caddy.NetworkAddress) bool {
	if addr.IsFdNetwork() {
		return false
	}
	if addr.Host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(strings.Trim(addr.Host, "[]"))
	return err == nil && ip.IsLoopback()
}

// auditAdmin refuses an admin endpoint that other users can reach: whoever
// can load a config there can have it answer with the key.
func auditAdmin(config runningConfig) error {
	listen, enabled := config.adminListen()
	if !enabled {
		return nil
	}
	const remedy = "write \"admin unix//path/of/a/socket\" or \"admin off\" in the global options, or: insecure_allow tcp_admin"
	resolved, err := caddy.NewReplacer().ReplaceOrErr(listen, true, true)
	if err != nil {
		return fmt.Errorf("admin %s: %w", listen, err)
	}
	addr, err := caddy.ParseNetworkAddress(resolved)
	if err != nil {
		return fmt.Errorf("admin %s: %w", listen, err)
	}
	if !addr.IsUnixNetwork() {
		return fmt.Errorf("the admin endpoint %s is open to every user of this machine, who could load a config that tells the key; %s", resolved, remedy)
	}
	path, mode, hasMode := strings.Cut(addr.Host, "|")
	if strings.HasPrefix(path, "@") {
		return fmt.Errorf("the admin endpoint %s is an abstract socket, which has no permissions; %s", resolved, remedy)
	}
	if err := auditSocketDir(path); err != nil {
		return fmt.Errorf("the admin endpoint's %w; or: insecure_allow tcp_admin", err)
	}
	if !hasMode {
		return nil // Caddy makes the socket 0200: its owner's only
	}
	bits, err := strconv.ParseUint(mode, 8, 32)
	if err != nil || fs.FileMode(bits).Perm()&0o077 != 0 {
		return fmt.Errorf("the admin socket's mode %s lets others than its owner use it; write unix/%s without |%s, or: insecure_allow tcp_admin", mode, path, mode)
	}
	return nil
}

// runningConfig reads the parts of Caddy's config that decide whether the
// gate is safe in it. Caddy hands modules a context that has the config in an
// unexported field; reflection reads it without unsafe. If the field is not
// what it was, the gate refuses to start rather than run unaudited.
type runningConfig struct {
	value reflect.Value // caddy.Config
}

// configID tells one config from another while both exist.
type configID uintptr

func configOf(ctx caddy.Context) (runningConfig, error) {
	pointer := reflect.ValueOf(ctx).FieldByName("cfg")
	if !pointer.IsValid() || pointer.Type() != reflect.TypeFor[*caddy.Config]() || pointer.IsNil() {
		return runningConfig{}, errors.New("this version of Caddy hides its config from the audit of admin endpoint and logs; use the version in the gate's go.mod, or newer releases of both")
	}
	return runningConfig{pointer.Elem()}, nil
}

func (c runningConfig) id() configID { return configID(c.value.Addr().Pointer()) }

// adminListen is the address of the admin endpoint, and whether there is one.
func (c runningConfig) adminListen() (listen string, enabled bool) {
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

// apps are the apps' raw configs, by name. Caddy forgets them one by one as it
// loads the apps; the app that is being loaded still has its own.
func (c runningConfig) apps() map[string]json.RawMessage {
	apps := make(map[string]json.RawMessage)
	for entry := c.value.FieldByName("AppsRaw").MapRange(); entry.Next(); {
		apps[entry.Key().String()] = entry.Value().Bytes()
	}
	return apps
}

// httpPort is the port on which Caddy speaks plain HTTP even on servers with TLS.
func (c runningConfig) httpPort() uint {
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
