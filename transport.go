package responsesproxygate

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/budget"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/infofile"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/secret"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/tcp"
)

func init() {
	caddy.RegisterModule(new(Transport))
}

// transportName is the name of the Transport in a config.
const transportName = "responses_proxy_gate"

// Transport is Caddy's transport `http`, with the same options, for a
// `reverse_proxy` behind the gate. It adds the operator's key to what it sends,
// and no other handler ever has the key. A gate gives this transport to each
// `reverse_proxy` behind it whose transport is `http` or not named, unless that
// has a `handle_response`: only then, it has to be written.
//
// The key goes only over TLS with a verified certificate, to a loopback address,
// or to a unix socket whose place no other user could take; a request for
// another upstream fails (see the gate's `insecure_allow plaintext_upstream`).
//
// A connection that is silently dead is left within half a minute: over HTTP/2
// by pings after 15 seconds without a frame, each of which has 10 seconds; over
// HTTP/1 by TCP keep-alive, 10 seconds and then each 5, and on Linux when data
// is not acknowledged for 20. Default of `keep_alive.probe_interval`: those.
type Transport struct {
	reverseproxy.HTTPTransport

	// local dials nothing but loopback and unix sockets, without a proxy. It
	// has connections of its own, because those of the embedded transport may
	// lead anywhere. It is nil if everything goes over verified TLS.
	local *http.Transport
}

// CaddyModule returns the Caddy module information.
func (*Transport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport." + transportName,
		New: func() caddy.Module { return new(Transport) },
	}
}

// Provision sets up the connections.
func (t *Transport) Provision(ctx caddy.Context) error {
	keepAlive := connectionKeepAlive
	if t.KeepAlive != nil && t.KeepAlive.ProbeInterval != 0 {
		keepAlive = net.KeepAliveConfig{} // the operator's stays
	}
	if err := t.HTTPTransport.Provision(ctx); err != nil {
		return err
	}
	leaveDeadConnections(t.Transport, keepAlive)
	if t.overQUIC() || t.verifies() && len(t.TLS.ExceptPorts) == 0 {
		return nil
	}
	local, err := t.NewTransport(ctx)
	if err != nil {
		return err
	}
	leaveDeadConnections(local, keepAlive)
	local.Proxy = t.refuseProxy
	local.DialContext = localOnly(local.DialContext)
	if local.DialTLSContext != nil {
		local.DialTLSContext = localOnly(local.DialTLSContext)
	}
	t.local = local
	return nil
}

// Cleanup closes connections that are idle.
func (t *Transport) Cleanup() error {
	if t.local != nil {
		t.local.CloseIdleConnections()
	}
	return t.HTTPTransport.Cleanup()
}

// UnmarshalCaddyfile sets up the transport from Caddyfile tokens. It has the
// options of the transport `http`.
func (t *Transport) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	return t.HTTPTransport.UnmarshalCaddyfile(d)
}

// RoundTrip makes one attempt to send r, with the operator's key if a gate has
// left one for it.
func (t *Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	held := heldKeyOf(r.Context())
	if held == nil {
		return t.HTTPTransport.RoundTrip(r)
	}
	held.taken.Store(true)
	t.SetScheme(r)
	with := held.addTo(r)
	if t.overQUIC() && held.access != nil {
		with = with.WithContext(held.access.abortable(r.Context())) // there, a body that fails does not end the request
	}
	transport, err := t.wayFor(r, held)
	if err == nil {
		err = held.check()
	}
	if err != nil {
		if r.Body != nil {
			_ = r.Body.Close()
		}
		return nil, err
	}
	small, err := held.inOnePiece(with)
	if err != nil {
		return nil, held.failure(err, r.Context().Err() != nil)
	}
	answer, err := transport.RoundTrip(with)
	held.unsent = nil
	if err != nil {
		held.unsent = small // reverse_proxy may try another upstream
	}
	if err != nil && held.access != nil && held.access.ended.Load() {
		err = fmt.Errorf("%w: %w", errEnded, err) // whatever the upstream made of it
	}
	if answer != nil {
		answer.Request = r // whoever looks there must not find the key
	}
	return answer, held.failure(err, r.Context().Err() != nil)
}

// inOnePiece gives r the body of a small request, which a budget has in memory,
// in a form in which net/http knows that. It sends it together with the header
// then: in one packet, with one system call. It returns the body; nil if it is
// none of these.
func (k *heldKey) inOnePiece(r *http.Request) (content []byte, err error) {
	if content = k.unsent; content == nil || int64(len(content)) != r.ContentLength {
		if !budget.HoldsSmallBody(r) {
			return nil, nil
		}
		content = make([]byte, r.ContentLength+1) // (net/http finds out if there is more than is said)
		n, err := io.ReadFull(r.Body, content)
		if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
			_ = r.Body.Close()
			return nil, err
		}
		content = content[:n]
	}
	r.Body = io.NopCloser(bytes.NewReader(content))
	return content, nil
}

// overQUIC reports whether upstreams are spoken to in HTTP/3.
func (t *Transport) overQUIC() bool { return len(t.Versions) == 1 && t.Versions[0] == "3" }

// verifies reports whether upstreams must have a certificate that is valid for them.
func (t *Transport) verifies() bool { return t.TLS != nil && !t.TLS.InsecureSkipVerify }

var errPlaintextUpstream = errors.New("the key goes only over TLS with a verified certificate, to a loopback address or to a unix socket, " +
	"and this upstream is none of them; write https:// before its name, or, in the gate: insecure_allow plaintext_upstream")

// wayFor chooses the transport that sends r and the key so that only the upstream
// can read them.
func (t *Transport) wayFor(r *http.Request, held *heldKey) (http.RoundTripper, error) {
	switch {
	case held.anyWay, r.URL.Scheme == "https" && t.verifies():
		return &t.HTTPTransport, nil
	case t.local == nil:
		return nil, errPlaintextUpstream
	}
	return t.local, nil
}

// refuseProxy fails where a request would go through a proxy: between the proxy
// and the upstream, others could read it.
func (t *Transport) refuseProxy(r *http.Request) (*url.URL, error) {
	if info, ok := reverseproxy.GetDialInfo(r.Context()); ok && strings.HasPrefix(info.Network, "unix") {
		return nil, nil // no proxy can reach it
	}
	proxy, err := t.Transport.Proxy(r)
	if err == nil && proxy != nil {
		err = errPlaintextUpstream
	}
	return nil, err
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// localOnly is dial without the connections that leave this machine. It checks
// the address that a connection has reached, because a name can lead to another
// address each time.
func localOnly(dial dialFunc) dialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		switch peer := conn.RemoteAddr().(type) {
		case *net.UnixAddr:
			info, _ := reverseproxy.GetDialInfo(ctx)
			if err := infofile.CheckUpstreamSocket(info.Address); err != nil {
				return nil, errors.Join(err, conn.Close())
			}
			return conn, nil
		case *net.TCPAddr:
			if peer.IP.IsLoopback() {
				return conn, nil
			}
		}
		return nil, errors.Join(errPlaintextUpstream, conn.Close())
	}
}

const (
	pingAfter   = 15 * time.Second // without a frame
	pingTimeout = 10 * time.Second

	// unacknowledgedTimeout is how long data may stay unacknowledged.
	unacknowledgedTimeout = 20 * time.Second
)

// receiveBuffer is what an upstream may send of an answer over HTTP/2 that the
// caller does not take yet, in bytes. Go's own is 4 MiB, which slow callers would
// have the gate keep for each request. This one lets an answer come at 2.5 MB a
// second over 100 ms, which is many times what a model writes.
const receiveBuffer = 256 << 10

// connectionKeepAlive finds a connection dead after 25 seconds.
var connectionKeepAlive = net.KeepAliveConfig{Enable: true, Idle: 10 * time.Second, Interval: 5 * time.Second, Count: 3}

// leaveDeadConnections has connections closed whose other end is gone without
// having closed them: the machine has slept, or a router has forgotten them.
// Otherwise requests would wait on them, over HTTP/2 for 16 minutes.
func leaveDeadConnections(transport *http.Transport, keepAlive net.KeepAliveConfig) {
	transport.HTTP2 = &http.HTTP2Config{
		SendPingTimeout: pingAfter, PingTimeout: pingTimeout,
		MaxReceiveBufferPerStream: receiveBuffer,
	}
	watched := func(dial dialFunc) dialFunc {
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err == nil {
				lookAfter(conn, keepAlive)
			}
			return conn, err
		}
	}
	transport.DialContext = watched(transport.DialContext)
	if transport.DialTLSContext != nil {
		transport.DialTLSContext = watched(transport.DialTLSContext)
	}
}

// lookAfter has the kernel find out when a connection is dead. If that cannot be
// set, the connection works without it.
func lookAfter(conn net.Conn, keepAlive net.KeepAliveConfig) {
	if encrypted, ok := conn.(*tls.Conn); ok {
		conn = encrypted.NetConn()
	}
	connection, ok := conn.(interface {
		syscall.Conn
		SetKeepAliveConfig(net.KeepAliveConfig) error
	})
	if !ok {
		return
	}
	if keepAlive.Enable {
		_ = connection.SetKeepAliveConfig(keepAlive)
	}
	if raw, err := connection.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { tcp.LimitUnacknowledged(fd, unacknowledgedTimeout) })
	}
}

// heldKey is the operator's key on its way from the gate to the Transport. It
// is in the request's context, where only this package finds it.
type heldKey struct {
	header string        // canonical
	value  secret.Secret // of the header
	anyWay bool          // insecure_allow plaintext_upstream
	access *access
	taken  atomic.Bool // a Transport has had it

	body  *callersBody
	fault error // why the request failed, if that was the body's; reverse_proxy does not tell

	// unsent is the small body of the last attempt, if that failed; else nil. The
	// next attempt takes it: handlers behind the budget may have given the
	// request a body that can be read once only.
	unsent []byte
}

// heldKeyContext is a request's context that has the key.
type heldKeyContext struct {
	context.Context
	held heldKey
}

type heldKeyName struct{}

// Value implements context.Context.
func (c *heldKeyContext) Value(key any) any {
	if key == (heldKeyName{}) {
		return &c.held
	}
	return c.Context.Value(key)
}

// heldKeyOf is the key that a gate has left in a context; nil if none has.
func heldKeyOf(ctx context.Context) *heldKey {
	held, _ := ctx.Value(heldKeyName{}).(*heldKey)
	return held
}

// check asks at each attempt whether the request may still be sent.
func (k *heldKey) check() error {
	if k.access == nil {
		return nil
	}
	return k.access.check()
}

// addTo is a copy of r with the key. Whoever else holds r does not see the key.
func (k *heldKey) addTo(r *http.Request) *http.Request {
	with := r.WithContext(r.Context())
	with.Header = maps.Clone(r.Header)
	if with.Header == nil {
		with.Header = make(http.Header)
	}
	with.Header[k.header] = []string{k.value.Reveal()}
	return with
}

// errCallersFault is for reverse_proxy, which does not count it against the
// upstream: with fail_duration, a caller could else take it from all others.
var errCallersFault = fmt.Errorf("the request's body is the caller's fault: %w", context.Canceled)

// failure is why an attempt has failed, for reverse_proxy. If the caller has left,
// that is why.
func (k *heldKey) failure(err error, left bool) error {
	err = k.redact(err)
	if err == nil || left || !k.spoilt(err) {
		return err
	}
	k.fault = err
	return fmt.Errorf("%w: %w", errCallersFault, err)
}

// spoilt reports whether an attempt has failed because its body could not be
// read to the end, or was longer than it may be.
func (k *heldKey) spoilt(err error) bool {
	tooLong, unreached := (*http.MaxBytesError)(nil), reverseproxy.DialError{}
	return k.body != nil && k.body.broken.Load() && !errors.As(err, &unreached) || errors.As(err, &tooLong)
}

// redact takes the key out of an error: net/http quotes what an upstream sent, and
// that may have the key in it.
func (k *heldKey) redact(err error) error {
	if err == nil {
		return nil
	}
	key := strings.TrimPrefix(k.value.Reveal(), "Bearer ")
	if text := err.Error(); strings.Contains(text, key) {
		return &redactedError{strings.ReplaceAll(text, key, secret.Redacted), err}
	}
	return err
}

type redactedError struct {
	text string
	err  error
}

// Error implements error.
func (e *redactedError) Error() string { return e.text }

// Unwrap is for errors.Is and errors.As.
func (e *redactedError) Unwrap() error { return e.err }

// Interface guards
var (
	_ caddy.Module                                     = (*Transport)(nil)
	_ caddy.Provisioner                                = (*Transport)(nil)
	_ caddy.CleanerUpper                               = (*Transport)(nil)
	_ caddyfile.Unmarshaler                            = (*Transport)(nil)
	_ http.RoundTripper                                = (*Transport)(nil)
	_ reverseproxy.TLSTransport                        = (*Transport)(nil)
	_ reverseproxy.H2CTransport                        = (*Transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*Transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*Transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*Transport)(nil)
)
