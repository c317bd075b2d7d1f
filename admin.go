package responsesproxygate

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

// adminAPI is the gates' part of Caddy's admin endpoint: its routes tell about
// clients, rotate their tokens and revoke their access.
//
// It also keeps an open admin endpoint from ever being opened beside a
// gate. The gate's own audit would come too late: Caddy opens the admin
// endpoint of a new config before it provisions that config's handlers, and
// when they then refuse it, the old config goes on beside the new, open
// endpoint. Caddy provisions the modules of admin.api before it opens it.
type adminAPI struct {
	logger *zap.Logger
}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.responses_proxy_gate",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Provision refuses an admin endpoint that other users can reach, if the
// config has a gate that does not allow it, or if such a gate runs: it goes on
// running if the config turns out to be unusable, and Caddy does not close the
// endpoint again then.
func (a *adminAPI) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger(a)
	config, err := configOf(ctx)
	if err != nil {
		return err
	}
	if anyGuardsAdmin() {
		dropOthersWriteRights()
		if err := auditAdmin(config); err != nil {
			return fmt.Errorf("a responses_proxy_gate is running: %w. To leave the gate for such an endpoint, restart Caddy", err)
		}
		return nil
	}
	for _, app := range config.apps() {
		var decoded any
		if json.Unmarshal(app, &decoded) != nil {
			continue // Caddy refuses it itself
		}
		if hasGateWithout(riskTCPAdmin, decoded) {
			dropOthersWriteRights()
			return auditAdmin(config)
		}
	}
	return nil
}

// hasGateWithout tells whether a part of a config has a gate that does not
// allow a risk.
func hasGateWithout(risk string, part any) bool {
	switch part := part.(type) {
	case map[string]any:
		if part["handler"] == "responses_proxy_gate" {
			allowed, _ := part["insecure_allow"].([]any)
			if !slices.Contains(allowed, any(risk)) {
				return true
			}
		}
		for _, child := range part {
			if hasGateWithout(risk, child) {
				return true
			}
		}
	case []any:
		return slices.ContainsFunc(part, func(child any) bool { return hasGateWithout(risk, child) })
	}
	return false
}

// Interface guards
var (
	_ caddy.Provisioner = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
