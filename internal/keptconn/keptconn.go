// Package keptconn knows the connections of callers, and on which of them a
// request was refused last. A few of these are kept, which makes refusals cheap;
// if there are more, the next ones end with their refusal, so that nobody holds
// connections until there are none left for others.
package keptconn

import (
	"context"
	"net"
	"net/http"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/responses-proxy-gate/caddy-responses-proxy-gate/internal/process"
)

// kept are those that are kept, in this process.
var kept = connections{all: make(map[net.Conn]struct{})}

type connections struct {
	mu  sync.Mutex
	all map[net.Conn]struct{}
	n   atomic.Int64 // of them
}

// Most is how many are kept: what many busy callers have, and a small part of
// the files that the process may have open.
var Most = sync.OnceValue(func() int64 { return min(64, process.MaxFiles()/16) })

type connName struct{}

// Watch makes connections of a server known, those of HTTP/1 and 2. It is for
// modules that the server provisions.
func Watch(server *caddyhttp.Server) {
	server.RegisterConnContext(InContext)
	server.RegisterConnState(func(conn net.Conn, state http.ConnState) {
		if state == http.StateClosed || state == http.StateHijacked {
			kept.forget(conn)
		}
	})
}

// known is a connection, in the contexts of its requests.
type known struct {
	net.Conn
	cancel context.CancelFunc // all of these contexts
}

// InContext makes a connection known to requests with the context that it returns.
func InContext(ctx context.Context, conn net.Conn) context.Context {
	if ctx.Value(connName{}) != nil || !isKey(conn) {
		return ctx // another gate in this server has done it, or it cannot be
	}
	ctx, cancel := context.WithCancel(ctx) //nolint:gosec // its parent is the server's, which is never canceled: it goes with the connection
	return context.WithValue(ctx, connName{}, &known{conn, cancel})
}

// of is the connection of a request with this context; nil if it is not known.
func of(ctx context.Context) *known {
	conn, _ := ctx.Value(connName{}).(*known)
	return conn
}

// WithCancel is for an exit, which cancels every request. It has a context
// canceled with all others of its connection, because one of its own, for each
// request, costs 2 % of what a small one takes. One whose connection is not
// known (HTTP/3) gets one of its own, which has to be canceled at its end.
func WithCancel(r context.Context) (ctx context.Context, cancel context.CancelFunc, own bool) {
	if conn := of(r); conn != nil {
		return r, conn.cancel, false
	}
	ctx, cancel = context.WithCancel(r)
	return ctx, cancel, true
}

// isKey reports whether a connection can be found again, which one of another
// module's listener wrapper need not be.
func isKey(conn net.Conn) bool { return reflect.ValueOf(conn).Comparable() }

// Keep reports whether the connection on which r came may go on, though r is
// refused.
func Keep(r *http.Request) bool {
	conn := of(r.Context())
	return conn != nil && kept.keep(conn.Conn)
}

// Admitted notes that r was not refused: its connection is a caller's.
func Admitted(r *http.Request) {
	if kept.n.Load() == 0 {
		return
	}
	if conn := of(r.Context()); conn != nil {
		kept.forget(conn.Conn)
	}
}

func (c *connections) keep(conn net.Conn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, has := c.all[conn]; has {
		return true
	}
	if int64(len(c.all)) >= Most() {
		return false
	}
	c.all[conn] = struct{}{}
	c.n.Store(int64(len(c.all)))
	return true
}

func (c *connections) forget(conn net.Conn) {
	if c.n.Load() == 0 || !isKey(conn) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, conn)
	c.n.Store(int64(len(c.all)))
}
