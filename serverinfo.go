package responsesproxygate

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
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
	events := app.(*caddyevents.App)
	return errors.Join(events.On("started", startedHook{h}), events.On("stopping", stoppingHook{h, ctx}))
}

// startedHook keeps the handler in an unexported field, because Caddy logs
// event handlers at level DEBUG.
type startedHook struct{ handler *Handler }

// Handle implements caddyevents.Handler.
func (s startedHook) Handle(context.Context, caddy.Event) error {
	return errors.Join(s.handler.addresses.GiveBack(), s.handler.publish())
}

// stoppingHook is startedHook for the event that comes before the ports close.
type stoppingHook struct {
	handler *Handler
	ctx     caddy.Context
}

// Handle implements caddyevents.Handler.
func (s stoppingHook) Handle(context.Context, caddy.Event) error {
	s.handler.boundExit(s.ctx)
	var errs []error
	for _, c := range s.handler.callers {
		errs = append(errs, c.stop(s.handler.config))
	}
	return s.handler.gateError(errors.Join(errs...))
}

// stop takes the caller's file away while the port is still ours, unless
// another config that runs has the caller: Caddy stops a config at a reload, too.
// The last streams may go on for long after the port has closed. Anybody can take
// the port then, and whoever still read the file would send them the token.
func (c *caller) stop(config configID) error {
	c.mu.Lock()
	for other, p := range c.configs {
		if other != config && p.started {
			c.mu.Unlock()
			return nil
		}
	}
	c.stopping = true
	c.schedule()
	last, said, claimed := c.current, c.written, c.configs[config]
	c.mu.Unlock()
	// Only then may the next launch have the place.
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		claimed.giveBack()
	}()
	return c.takeAway(last, said)
}

// takeAway removes the caller's file, unless another caller has it by now.
func (c *caller) takeAway(last publication, said infofile.Info) error {
	if last.file == nil {
		return nil
	}
	if other := callerAt(last.path, c); other != nil {
		// Another caller has the file now. With a fixed token, its content
		// may be the same to the letter. Or that caller had it before, and
		// the config that took it over has failed.
		return other.publishAgain()
	}
	return last.file.Remove(said)
}

// publish tells callers where the gate is and which token to send.
func (h *Handler) publish() error {
	for _, c := range h.callers {
		c.start(h.config)
	}
	h.roster.start(h.config)
	h.metrics.running.Store(h.policy.tokens)
	h.metrics.identity.Store(h.credential.exchanger())
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
	fixed := c.fixedSecret()
	err := c.publish(h.config, publication{
		file: c.file, info: info, fixed: fixed, rotation: h.rotation, ends: c.ends,
		logger: h.logger, stderr: h.stderr,
	})
	if now := c.fixed.Load(); now != nil && now.secret != fixed {
		c.refix(h.config, now) // its file has changed at this moment
	}
	if err == nil && c.file != nil {
		h.logger.Info("server-info written", zap.String("gate", h.Name), zap.String("client", c.name), zap.String("path", c.file.Path()))
	}
	return err
}

// lookAtFileAfter is how often a published file is looked at.
const lookAtFileAfter = 30 * time.Second

// watchFile begins to look after the caller's file, once. It is for one who
// holds the lock.
func (c *caller) watchFile() {
	if c.watch == nil && c.current.file != nil {
		c.watch = time.AfterFunc(lookAtFileAfter, c.lookAtFile)
	}
}

// lookAtFile says so, once, when somebody has replaced or removed the file:
// whoever reads it now is led elsewhere, or nowhere. The lock keeps other gates
// away, but neither people nor older versions, which do not ask for it.
func (c *caller) lookAtFile() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watch = nil
	p := &c.current
	if c.gone.Load() || c.stopping || p.file == nil {
		return
	}
	told := p.published && !c.isRevokedIn(p) && !p.ended(time.Now())
	replaced := told && !p.file.Tells(c.written)
	if replaced && !c.replaced {
		p.logger.Error("the server-info file is not the one that this gate wrote: somebody has replaced or removed it, "+
			"and callers who read it do not find this gate; find out who does that, then rotate, which writes it again",
			zap.String("gate", c.id.gate), zap.String("client", c.id.name()), zap.String("path", p.path))
	}
	c.replaced = replaced
	c.watchFile()
}

// claims finds the callers that have claimed a server-info file, in any config.
var claims = fileClaims{callers: make(map[string][]*caller)}

type fileClaims struct {
	mu      sync.Mutex
	callers map[string][]*caller // by the file's path
}

// of are the callers that may be told through the file at a path.
func (x *fileClaims) of(path string) []*caller {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Clone(x.callers[path])
}

// add notes a claim, which lasts until the caller is gone.
func (x *fileClaims) add(path string, c *caller) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if !slices.Contains(x.callers[path], c) {
		x.callers[path] = append(x.callers[path], c)
		c.claimed = append(c.claimed, path)
	}
}

// drop forgets a caller's claims.
func (x *fileClaims) drop(c *caller) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, path := range c.claimed {
		if rest := slices.DeleteFunc(x.callers[path], func(other *caller) bool { return other == c }); len(rest) > 0 {
			x.callers[path] = rest
			continue
		}
		delete(x.callers, path)
	}
	c.claimed = nil
}

// holds are the places for server-info files that this process holds against
// others, by path: an *infofile.Hold. Two configs share one during a reload.
var holds = caddy.NewUsagePool()

// hold keeps other processes from publishing the file that a config claims, and
// refuses one that another publishes. If there can be no lock
// for another reason (the disk is full, another user has put something in its
// place), the gate runs without one.
func (c *caller) hold(config configID, file *infofile.File, logger *zap.Logger) error {
	path := file.Resolved()
	_, _, err := holds.LoadOrNew(path, func() (caddy.Destructor, error) { return file.Hold() })
	if errors.Is(err, infofile.ErrInUse) {
		return err
	}
	if err != nil {
		logger.Warn("the place of a server-info file cannot be locked: a second gate could take it over", zap.Error(err))
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.configs[config].held = true
	return nil
}

// giveBack ends what hold began.
func (p *publication) giveBack() {
	if p != nil && p.held {
		p.held = false
		_, _ = holds.Delete(p.path)
	}
}

// describeServer tells how to reach the gate through the listeners that its
// server really has: the port of ":0" is known only now.
func describeServer(server *caddyhttp.Server, hosts []string, routes []Route) (infofile.Info, error) {
	info := infofile.Info{PID: os.Getpid()}
	addr := callerAddress(server.Listeners())
	scheme, host := "http", "localhost"
	if len(server.TLSConnPolicies) > 0 {
		scheme = "https"
	}
	switch addr := addr.(type) {
	case *net.TCPAddr:
		info.Port = addr.Port
		ip := addr.IP
		switch {
		case ip.IsUnspecified() && ip.To4() == nil:
			ip = net.IPv6loopback // it may listen on IPv6 alone
		case ip.IsUnspecified():
			ip = net.IPv4(127, 0, 0, 1)
		}
		host = ip.String()
		if scheme == "https" {
			host = certificateName(hosts)
		}
		host = net.JoinHostPort(host, strconv.Itoa(addr.Port))
	case *net.UnixAddr:
		info.Socket = addr.Name
	default:
		return infofile.Info{}, errors.New("server_info: the gate's server has no TCP or unix listener to tell about")
	}
	info.BaseURL = scheme + "://" + host + basePath(routes)
	return info, nil
}

// callerAddress picks the listener to tell callers about: a loopback one, or
// else the first.
func callerAddress(listeners []net.Listener) net.Addr {
	var first net.Addr
	for _, listener := range listeners {
		addr := listener.Addr()
		if tcp, ok := addr.(*net.TCPAddr); ok && tcp.IP.IsLoopback() {
			return addr
		}
		if first == nil {
			first = addr
		}
	}
	return first
}

// certificateName is a name that the gate's certificate is likely to have.
func certificateName(hosts []string) string {
	if len(hosts) > 0 {
		return strings.Trim(hosts[0], "[]")
	}
	return "localhost"
}

// basePath is what clients call the API's base: the path of the Responses
// route without its last segment.
func basePath(routes []Route) string {
	for _, route := range routes {
		if base, ok := strings.CutSuffix(route.Path, "/responses"); ok && !strings.Contains(base, "*") {
			return base
		}
	}
	return "/v1"
}

// ServerInfo says where the server-info file goes and who may read it. The
// file has one line of JSON:
//
//	{"port":18080,"pid":4242,"auth_token":"…","base_url":"http://127.0.0.1:18080/v1"}
//
// with `socket` in place of `port` on a unix socket. Its mode is 0600. It is
// replaced atomically when something in it changes, and removed before its port closes.
type ServerInfo struct {
	// The file's path. Parents that are missing are made with mode 0700. A
	// path that somebody else could redirect or read (a symlink, a loose or
	// foreign file, a directory others can write to) is refused.
	Path string `json:"path"`

	// The user, or `user:group`, who owns the file: so that an unprivileged
	// user can read the token of a gate that root runs. Not on Windows.
	// Default: the user who runs Caddy.
	Owner string `json:"owner,omitempty"`
}
