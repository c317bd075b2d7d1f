package responsesproxygate

import (
	"context"
	"errors"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"go.uber.org/zap"
)

// publishWhenStarted writes the server-info once the server listens: only
// then are its ports known, and a config that never starts leaves no trace.
func (h *Handler) publishWhenStarted(ctx caddy.Context) error {
	app, err := ctx.App("events")
	if err != nil {
		return err
	}
	return app.(*caddyevents.App).On("started", startedHook{h})
}

// startedHook keeps the handler in an unexported field, because Caddy logs
// event handlers at level DEBUG.
type startedHook struct{ handler *Handler }

// Handle implements caddyevents.Handler.
func (s startedHook) Handle(context.Context, caddy.Event) error {
	return s.handler.publish()
}

// publish tells callers where the gate is and which token to send.
func (h *Handler) publish() error {
	for _, c := range h.callers {
		c.start(h.config)
	}
	h.fleet.start(h.config)
	info, err := describeServer(h.server, h.AllowHost, h.AllowRoute)
	if err != nil {
		return h.gateError(err)
	}
	if err := h.dumper.Prepare(); err != nil {
		// Dumps are for debugging: without them the gate still does its work.
		h.logger.Error("dump_dir cannot be used; exchanges are not dumped until it can", zap.String("gate", h.Name), zap.Error(err))
	}
	var errs []error
	for _, c := range h.callers {
		errs = append(errs, h.publishTo(c, info))
	}
	return h.gateError(errors.Join(errs...))
}

// publishTo tells one caller.
func (h *Handler) publishTo(c *configuredCaller, info infofile.Info) error {
	err := c.publish(h.config, publication{
		file: c.file, info: info, fixed: c.secret, rotation: h.rotation, expires: c.expires,
		logger: h.logger, stderr: h.stderr,
	})
	if err == nil && c.file != nil {
		h.logger.Info("server-info written", zap.String("gate", h.Name), zap.String("client", c.name), zap.String("path", c.file.Path()))
	}
	return err
}
