package responsesproxygate

import (
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
	"go.uber.org/zap"

	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/surroundings"
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

// Provision refuses an admin endpoint that another process has, beside a gate,
// and an admin endpoint that other users can reach, if the
// config has a gate that does not allow it, or if such a gate runs: it goes on
// running if the config turns out to be unusable, and Caddy does not close the
// endpoint again then.
func (a *adminAPI) Provision(ctx caddy.Context) error {
	a.logger = ctx.Logger(a)
	config, err := surroundings.ConfigOf(ctx)
	if err != nil {
		return err
	}
	if err := surroundings.RefuseAdminInUse(config); err != nil {
		return err
	}
	if anyGuardsAdmin() {
		process.DropOthersWriteRights()
		if err := surroundings.AuditAdmin(config, infofile.CheckSocket); err != nil {
			return fmt.Errorf("a responses_proxy_gate is running: %w. To leave the gate for such an endpoint, restart Caddy", err)
		}
		return nil
	}
	if config.HasGateWithout(riskTCPAdmin) {
		process.DropOthersWriteRights()
		return surroundings.AuditAdmin(config, infofile.CheckSocket)
	}
	return nil
}

// Interface guards
var (
	_ caddy.Provisioner = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
