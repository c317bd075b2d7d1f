package surroundings

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

// CheckAdmin refuses an admin endpoint that other users can reach: whoever
// can load a config there can have it answer with the key.
func CheckAdmin(config Config, check SocketCheck) error {
	if err := checkLoader(config); err != nil {
		return err
	}
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
	if err := check(path); err != nil {
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

// checkLoader refuses a config that is to be loaded over plain HTTP: whoever
// takes that port, or sits on the wire, could load one that tells the key.
func checkLoader(config Config) error {
	raw := config.loader()
	if raw == nil {
		return nil
	}
	var loader struct {
		Module string `json:"module"`
		URL    string `json:"url"`
	}
	if json.Unmarshal(raw, &loader) != nil || loader.Module != "http" {
		return nil // (Caddy's own loader is this one; another's module is trusted to know whom it asks)
	}
	if url := strings.TrimSpace(caddy.NewReplacer().ReplaceAll(loader.URL, "")); !strings.HasPrefix(strings.ToLower(url), "https://") {
		return errors.New("admin.config.load takes a config over plain HTTP: whoever answers there could load a config that tells the key; use https, or: insecure_allow tcp_admin")
	}
	return nil
}

// HasGateWithout reports whether a config has a gate that does not allow a risk.
func (c Config) HasGateWithout(risk string) bool {
	for _, app := range c.apps() {
		var decoded any
		if json.Unmarshal(app, &decoded) != nil {
			continue // Caddy refuses it itself
		}
		if hasGateWithout(risk, decoded) {
			return true
		}
	}
	return false
}

// hasGateWithout reports whether a part of a config has a gate that does not
// allow a risk.
func hasGateWithout(risk string, part any) bool {
	return Anywhere(part, func(object map[string]any) bool {
		allowed, _ := object["insecure_allow"].([]any)
		return object["handler"] == "responses_proxy_gate" && !slices.Contains(allowed, any(risk))
	})
}
